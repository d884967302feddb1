"""What the parity tests of detectors share: images with boxes, and the objects that both sides find in them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foveal.structures import Batch, Objects
from foveal.system import System

from .compare import LABELS, relative_error


def batch_with_boxes(
    system: System, size: tuple[int, int], counts: Sequence[int] = (9, 3), *, alike: bool = False
) -> Batch:
    """Random images (height, width) that hold so many random boxes each, in float64.

    In the first image two boxes are in the same place, with the same label if alike, and one is all of it.
    """
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(len(counts), 3, *size, generator=draw, dtype=torch.float64)
    batch = system.preprocess.batch(list(images))
    extent = torch.tensor([size[1], size[0]], dtype=torch.float64)
    corner, side = torch.rand(2, sum(counts), 2, generator=draw, dtype=torch.float64) * extent
    corner, side = 0.75 * corner, side**2 / extent + 2
    boxes = torch.cat([corner, (corner + side).minimum(extent)], 1)
    boxes[1], boxes[2] = boxes[0], torch.cat([0 * extent, extent])
    labels = torch.randint(len(LABELS), (sum(counts),), generator=draw)
    if alike:
        labels[1] = labels[0]
    parts = zip(boxes.split(list(counts)), labels.split(list(counts)), strict=True)
    return Batch(batch.images, tuple(Objects(*part) for part in parts), batch.indices, batch.affines, batch.sizes)


def compare_found(found: Sequence[Objects], expected: Sequence[Mapping[str, Tensor]], *, least: int = 20) -> None:
    """Asserts that the same objects are found in each image, at least so many, in the same order.

    expected: boxes, labels and scores as torchvision names them, in float64; ours are told in float32.
    """
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs["boxes"]) >= least
        assert torch.equal(ours.labels, theirs["labels"])
        assert relative_error(ours.scores.double(), theirs["scores"]) < 1e-6
        assert relative_error(ours.boxes.double(), theirs["boxes"]) < 1e-6
