"""Masks that are drawn one at a time are those that a tensor would hold."""

import pickle

import numpy as np
import torch
from torch import Tensor

from foveal.data.mixing import Mosaic
from foveal.structures import Batch, Masks, Objects

SIZE = (12, 10)


def draw(shape: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    x1, y1, x2, y2 = shape
    mask[y1:y2, x1:x2] = True
    return mask


def pair() -> tuple[Objects, Objects]:
    """The same objects with Masks and with a tensor."""
    shapes = ((1, 1, 4, 5), (0, 2, 9, 12), (5, 5, 6, 6))
    boxes = torch.tensor(shapes, dtype=torch.float32)
    masks = Masks(shapes, draw, (SIZE,))
    labels = torch.arange(3)
    return Objects(boxes, labels, masks=masks), Objects(boxes, labels, masks=torch.stack(list(masks)))


def same(late: Objects, early: Objects) -> None:
    assert isinstance(late.masks, Masks)
    assert isinstance(early.masks, Tensor)
    assert late.masks.shape == early.masks.shape
    assert late.masks.stack().equal(early.masks)
    assert late.boxes.equal(early.boxes)


def test_choices_and_warps() -> None:
    late, early = pair()
    affine = torch.tensor([[0.7, 0.1, -1.0], [0.0, 1.3, 2.0]])
    for change in (
        lambda objects: objects,
        lambda objects: objects[1],
        lambda objects: objects[torch.tensor([True, False, True])],
        lambda objects: objects[torch.tensor([2, 0])],
        lambda objects: objects[:0],
        lambda objects: objects.warp(affine, (9, 7)),
        lambda objects: objects.warp(affine, (9, 7)).warp(affine, (20, 20))[torch.tensor([1])].to("cpu"),
    ):
        same(change(late), change(early))


def test_batches_between_processes() -> None:
    for targets in (pair(), pair()[::-1]):
        batch = Batch(
            torch.zeros(1, 3, *SIZE), targets[:1], torch.zeros(1).long(), torch.eye(2, 3)[None], torch.tensor([SIZE])
        )
        again = pickle.loads(pickle.dumps(batch)).targets[0]
        masks = again.masks.stack() if isinstance(again.masks, Masks) else again.masks
        assert masks.equal(pair()[1].masks)


def test_mosaics() -> None:
    found = []
    for number in range(2):
        targets = tuple(pair()[number] for _ in range(4))
        batch = Batch(
            torch.zeros(4, 3, *SIZE, dtype=torch.uint8),
            targets,
            torch.arange(4),
            torch.eye(2, 3).repeat(4, 1, 1),
            torch.tensor([SIZE] * 4),
        )
        found.append(Mosaic(1.0)(batch, np.random.default_rng(0)).targets)
    for late, early in zip(*found, strict=True):
        same(late, early)
