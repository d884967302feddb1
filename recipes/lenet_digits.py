"""The weights of LeNet that come with foveal, and that judge made digits: foveal/weights/lenet_digits.safetensors.

claim     they are those of this run, whose test accuracy is 0.97 or more
command   python recipes/lenet_digits.py
cost      20 seconds on two cores
expected  0.97 or more
measured  docs/results.md
"""

import tempfile
from pathlib import Path

import torch

import foveal
from foveal.build import describe
from foveal.train import checkpoint
from foveal.weights.packages import packaged_file


def main() -> None:
    data = foveal.load_dataset("digits")
    torch.manual_seed(0)
    system = foveal.create("lenet", labels=data.labels)
    with tempfile.TemporaryDirectory() as folder:
        run = foveal.train(system, data, foveal.TrainConfig(out=f"{folder}/run", quiet=True, report=False))
        best = foveal.load(run.directory)
    checkpoint.save(Path(packaged_file("lenet")), describe(best), best.state_dict())  # and nothing of the run
    system = foveal.create("lenet", weights="package")
    figures = foveal.evaluate(system, data.select("test"))
    print(f"test accuracy {figures['accuracy']:.4f}, {Path(packaged_file('lenet')).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
