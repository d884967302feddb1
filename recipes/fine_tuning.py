"""What the defaults of a run from weights are worth: the fine-tuning recipe beside others, on few photographs.

claim     the defaults of `--weights` reach at least the test accuracy of settings tuned by hand, less 0.02, and the
          nearest neighbours on the features of the starting weights; those of training from scratch do not
command   python recipes/fine_tuning.py --data FOLDER, which has the folders train and test with a folder for each class
cost      about half an hour of one core with --test-each 200, of which the recipe from scratch takes half
expected  default >= by hand - 0.02, default > neighbours > scratch
measured  docs/results.md

EfficientNet-Lite0 with its ImageNet weights, so many labelled images of each class, a fifth of which choose the epoch:

    default      foveal train efficientnet_lite0 --weights package
    hand         the settings of recipes/few_labels.py before there were such defaults
    scratch      the recipe of the family, which is for training from scratch, on the same weights
    neighbours   knn on the features of the starting weights, which train nothing
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from few_labels import few

import foveal
from foveal.data.dataset import Dataset
from foveal.train.defaults import DEFAULTS

NAME = "efficientnet_lite0"
# What every setting was before a run from weights had defaults of its own.
BEFORE = {
    name: DEFAULTS[name] for name in ("layer_decay", "norm_statistics", "schedule", "warmup", "batch_size", "epochs")
}
HAND = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.02, "layer_decay": 0.85, "epochs": 10, "flip": True}
WAYS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "default": lambda recipe: {},
    "hand": lambda recipe: BEFORE | HAND | {"crop_scale": (0.5, 1.0)},
    "scratch": lambda recipe: BEFORE | dict(recipe),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=100, help="labelled images of a class, train and val together")
    parser.add_argument("--side", type=int, default=96, help="pixels that the images are brought to")
    parser.add_argument("--test-each", type=int, help="test images of a class; default all")
    parser.add_argument("--ways", choices=(*WAYS, "neighbours"), nargs="+", default=[*WAYS, "neighbours"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few(options.data, folder / "few", options.each)
        if options.test_each:
            fewer_tests(folder / "few", options.test_each)
        dataset = foveal.load_dataset(folder / "few")
        for way in options.ways:
            compare(way, dataset, folder / way, options.side)


def fewer_tests(folder: Path, each: int) -> None:
    """Put so many images of each class, drawn by a fixed seed, in the place of the whole test split."""
    whole, draw = (folder / "test").resolve(), np.random.default_rng(1)
    (folder / "test").unlink()
    for kind in sorted(path for path in whole.iterdir() if path.is_dir()):
        files = sorted(kind.iterdir())
        (folder / "test" / kind.name).mkdir(parents=True)
        for index in draw.permutation(len(files))[:each]:
            shutil.copy(files[index], folder / "test" / kind.name)


def compare(way: str, dataset: Dataset, out: Path, side: int) -> None:
    """Train in one way, and print its accuracy."""
    torch.manual_seed(0)
    start = foveal.create(NAME, labels=dataset.labels, weights="package", image_size=side)
    system, settings = start, {}
    if way == "neighbours":
        system = foveal.create("knn", labels=dataset.labels, features=start, k=10, distance="cosine")
    else:
        settings = WAYS[way](start.spec.recipe)
    started = time.perf_counter()
    run = foveal.train(system, dataset, foveal.TrainConfig(out=str(out), quiet=True, report=False, **settings))
    seconds = time.perf_counter() - started
    accuracy = foveal.evaluate(system, dataset.select("test"))["accuracy"]
    curve = ", ".join(f"{record['val']['accuracy']:.3f}" for record in run.history)
    print(f"{way}: test accuracy {accuracy:.4f}, {seconds:.0f} s; by epoch on val {curve}", flush=True)


if __name__ == "__main__":
    main()
