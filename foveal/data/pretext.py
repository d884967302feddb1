"""Tasks that images set by themselves, so that a network learns to see before anybody has named a thing.

Rotation: Gidaris, Singh and Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations",
arXiv:1803.07728. Each image stands there four times, turned by 0, 90, 180 and 270 degrees, and the class is the turn.
It is told by what is up in things, so a network has to find the things; and it takes no interpolation, whose traces
could be told instead. Mirroring would change the class, so no run on these images takes `flip` or `trivial_augment`.

Departs from the paper: the four turns of an image are drawn one by one, not together into one batch.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foveal.data.dataset import Dataset, ImageArray, Images, LabelColumn
from foveal.structures import Label

TURNS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")  # no class of a data set is called so


class Turned:
    """Images each of which stands there four times, turned anticlockwise."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(TURNS) * len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return turned(self.images[index // len(TURNS)], index % len(TURNS))

    def name(self, index: int) -> str:
        return f"{self.images.name(index // len(TURNS))} turned by {TURNS[index % len(TURNS)]}"

    def content(self, index: int) -> bytes:
        return self.images.content(index // len(TURNS)) + bytes([index % len(TURNS)])


def turned(image: Tensor, quarters: int) -> Tensor:
    """(3, H, W) -> the image turned anticlockwise by so many quarters; an odd number swaps height and width."""
    return torch.rot90(image, quarters, (1, 2)).contiguous()


def rotations(dataset: Dataset) -> Dataset:
    """Any images as data to classify by how they are turned; all turns of an image are in its split."""
    count, quarters = len(dataset.images), np.arange(len(TURNS))
    images: Images = Turned(dataset.images)
    if dataset.in_memory:
        images = ImageArray([images[index] for index in range(len(images))], f"{dataset.source} turned")
    items = None if dataset.items is None else (len(TURNS) * dataset.items[:, None] + quarters).reshape(-1)
    return Dataset(
        source=f"{dataset.source}+rotation",
        task=Label.task,
        labels=TURNS,
        images=images,
        targets=LabelColumn(np.tile(quarters, count)),
        splits=np.repeat(dataset.splits, len(TURNS)),
        drawn=dataset.drawn and replace(dataset.drawn, older=np.repeat(dataset.drawn.older, len(TURNS))),
        split=dataset.split,
        items=items,
        upright=True,
    )
