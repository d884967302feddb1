"""How much of its accuracy on digits a system keeps where they are shifted, though it has learned from centred ones.

Each digit of 8 x 8 pixels stands in the middle of a black square of 14 x 14, so that no shift cuts it; the figures are
means over the four directions.

claim     the neocognitron keeps more of its accuracy at 3 pixels than the perceptron and the linear classifier
command   python recipes/shift_tolerance.py [NAME ...]
cost      about two minutes on two cores
expected  neocognitron above perceptron and linear_softmax at shifts of 2 and 3 pixels
measured  docs/results.md
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

import foveal
from foveal.data.dataset import Dataset, ImageArray

# The scale that each system has for digits as they are.
SETTINGS: dict[str, dict[str, Any]] = {
    "neocognitron": {"image_size": 28},
    "perceptron": {},
    "linear_softmax": {},
    "lenet": {},
}
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
MARGIN = 3


def shifted(digits: Dataset, down: int, right: int) -> Dataset:
    """The digits in larger squares, so many pixels from their middle."""
    margins = (MARGIN + right, MARGIN - right, MARGIN + down, MARGIN - down)
    images = torch.stack([pad(digits.image(i), margins) for i in range(len(digits))])
    return replace(digits, images=ImageArray(images, "digits"))


def main() -> None:
    data = foveal.load_dataset("digits")
    for name in sys.argv[1:] or SETTINGS:
        torch.manual_seed(0)
        system = foveal.create(name, **SETTINGS.get(name, {}))
        with tempfile.TemporaryDirectory() as folder:
            foveal.train(system, shifted(data, 0, 0), foveal.TrainConfig(out=f"{folder}/run", quiet=True, report=False))
        figures = []
        for pixels in range(MARGIN + 1):
            views = [shifted(data, pixels * y, pixels * x).select("test") for y, x in DIRECTIONS[: 4 if pixels else 1]]
            figures.append(statistics.mean(foveal.evaluate(system, view)["accuracy"] for view in views))
        shown = ", ".join(f"{pixels} pixels {figure:.3f}" for pixels, figure in enumerate(figures))
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
