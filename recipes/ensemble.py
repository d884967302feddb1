"""What an ensemble of small networks reaches on the digits beside its members.

claim     the ensemble is at least as accurate as its members are in the mean
command   python recipes/ensemble.py [NAME]
cost      about five minutes on two cores
expected  no loss against the mean of the members
measured  docs/results.md
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch

import foveal

SEEDS, KEEP = (0, 1, 2), 3


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet_nano"
    data = foveal.load_dataset("digits")
    test = data.select("test")
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            torch.manual_seed(seed)
            config = foveal.TrainConfig(out=f"{folder}/{seed}", seed=seed, keep=KEEP, quiet=True, report=False)
            foveal.train(foveal.create(name), data, config)
        runs = {
            f"{len(SEEDS)} runs": [Path(folder, str(seed)) for seed in SEEDS],
            f"{KEEP} best epochs of one run": sorted(Path(folder, "0").glob("epoch-*.safetensors")),
        }
        for title, members in runs.items():
            alone = [foveal.evaluate(foveal.load(member), test) for member in members]
            together = foveal.evaluate(foveal.create("ensemble", members=members), test)
            each = ", ".join(f"{figures['accuracy']:.4f}" for figures in alone)
            mean = statistics.mean(figures["accuracy"] for figures in alone)
            print(f"{name}, {title}: members {mean:.4f} ({each}), ensemble {together['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
