"""What an autoencoder's encoder buys where labels are few: noise taken from all digits first, then ten labels a class.

claim     with an encoder that has learned to take noise away, the mean test accuracy is not lower than from scratch;
          single seeds differ by more than the gain
command   python recipes/denoise.py
cost      about a minute and a half on one core
expected  a gain of about a hundredth; frozen about the same, and far above an encoder that has learned nothing
measured  docs/results.md
"""

import statistics
import tempfile
from typing import Any

import torch
from pretrain import EACH, SEEDS, few

import foveal
from foveal.data.dataset import Dataset

NOISE = 0.3  # of what is added to pixels in [0, 1]


def accuracy(data: Dataset, seed: int, backbone: Any, freeze: str | None = None) -> float:
    """On the test split, after learning from the few."""
    torch.manual_seed(seed)
    system = foveal.create("probe_nano", labels=data.labels, backbone=backbone)
    with tempfile.TemporaryDirectory() as folder:
        config = foveal.TrainConfig(out=f"{folder}/run", seed=seed, freeze=freeze, quiet=True, report=False)
        foveal.train(system, few(data, EACH, seed), config)
    return foveal.evaluate(system, data.select("test"))["accuracy"]


def main() -> None:
    data, images = foveal.load_dataset("digits"), foveal.load_dataset("digits", "generate")
    found: dict[str, list[float]] = {"from scratch": [], "trained on": [], "frozen": [], "frozen, untrained": []}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            system = foveal.create("autoencoder_nano", noise=NOISE)
            config = foveal.TrainConfig(out=f"{folder}/autoencoder", seed=seed, quiet=True, report=False)
            run = str(foveal.train(system, images, config).directory)
            found["from scratch"].append(accuracy(data, seed, "autoencoder_nano"))
            found["trained on"].append(accuracy(data, seed, run))
            found["frozen"].append(accuracy(data, seed, run, "backbone"))
            found["frozen, untrained"].append(accuracy(data, seed, "autoencoder_nano", "backbone"))
        print(f"seed {seed}:", {way: round(rows[-1], 4) for way, rows in found.items()}, flush=True)
    for way, rows in found.items():
        each = ", ".join(f"{row:.4f}" for row in rows)
        print(f"probe_nano {way}, {EACH} labels a class: {statistics.mean(rows):.4f} ({each})")


if __name__ == "__main__":
    main()
