"""What learning without labels buys where labels are few: rotations of digits first, then ten labels a class.

claim     the mean test accuracy is not lower than from scratch; single seeds differ by more than the gain
command   python recipes/pretrain.py [NAME]
cost      about five minutes on two cores
expected  a gain of up to two hundredths for resnet_nano
measured  docs/results.md
"""

import statistics
import sys
import tempfile
from dataclasses import replace

import numpy as np
import torch

import foveal
from foveal.data.dataset import Dataset
from foveal.data.pretext import rotations

SEEDS, EACH = (0, 1, 2), 10
PRETEXT_EPOCHS, EPOCHS = 10, 40


def few(data: Dataset, each: int, seed: int) -> Dataset:
    """So many training images of each class."""
    train = data.select("train")
    classes = np.array([int(train[i][1].label) for i in range(len(train))])  # type: ignore[union-attr]
    order = np.random.default_rng(seed).permutation(len(train))
    chosen = np.concatenate([order[classes[order] == c][:each] for c in range(len(data.labels))])
    assert train.items is not None
    return replace(train, items=train.items[chosen])


def accuracy(name: str, data: Dataset, seed: int, weights: str | None, freeze: str | None = None) -> float:
    """On the test split, after learning from the few."""
    torch.manual_seed(seed)
    system = foveal.create(name, labels=data.labels, weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        config = foveal.TrainConfig(
            epochs=EPOCHS, out=f"{folder}/run", seed=seed, freeze=freeze, quiet=True, report=False
        )
        foveal.train(system, few(data, EACH, seed), config)
    return foveal.evaluate(system, data.select("test"))["accuracy"]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet_nano"
    data = foveal.load_dataset("digits")
    turns = rotations(data)
    found: dict[str, list[float]] = {"from scratch": [], "from rotations": []}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            pretext = foveal.create(name, labels=turns.labels)
            config = foveal.TrainConfig(
                epochs=PRETEXT_EPOCHS, batch_size=128, out=f"{folder}/pretext", seed=seed, quiet=True, report=False
            )
            run = foveal.train(pretext, turns, config)
            told = foveal.evaluate(pretext, turns.select("test"))["accuracy"]
            found["from scratch"].append(accuracy(name, data, seed, None))
            found["from rotations"].append(accuracy(name, data, seed, str(run.directory)))
        print(f"seed {seed}: tells turns with {told:.4f}", {way: rows[-1] for way, rows in found.items()}, flush=True)
    for way, rows in found.items():
        each = ", ".join(f"{row:.4f}" for row in rows)
        print(f"{name} {way}, {EACH} labels a class: {statistics.mean(rows):.4f} ({each})")


if __name__ == "__main__":
    main()
