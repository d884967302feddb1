"""Regions of a pyramid: which map each is read from, and in which order they come."""

import math

import pytest
import torch

from foveal.nn.regions import RegionAlign
from foveal.ops.roi import roi_align

STRIDES = (4, 8, 16, 32)


def loop(maps, strides, boxes, size):
    """One box after another, by the equation."""
    rows = []
    for number, each in enumerate(boxes):
        for box in each:
            side = math.sqrt(float((box[2] - box[0]) * (box[3] - box[1])))
            stride = 2 ** math.floor(4 + math.log2(side / 224)) if side > 0 else 0
            stride = min(max(stride, strides[0]), strides[-1])
            x = maps[strides.index(stride)][number : number + 1]
            rows.append(roi_align(x, [box[None]], size, 1 / stride, 2))
    return torch.cat(rows)


@pytest.mark.parametrize("strides", [STRIDES, (16, 16), (8, 8, 16, 16, 32)])
def test_equal_to_a_loop(strides):
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 512 // s, 512 // s, dtype=torch.float64) for s in strides]
    sides = torch.tensor([0.0, 3, 50, 110, 113, 222, 226, 300, 447, 450, 500], dtype=torch.float64)
    corner = torch.rand(11, 2, dtype=torch.float64) * (510 - sides)[:, None]
    boxes = torch.cat([corner, corner + sides[:, None]], 1)[torch.randperm(11)]
    found = RegionAlign(strides, 5)(maps, [boxes[:7], boxes[7:]])
    assert torch.allclose(found, loop(maps, strides, [boxes[:7], boxes[7:]], 5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strides", [STRIDES, (16,)])
def test_no_regions(strides):
    maps = [torch.randn(2, 3, 64 // s, 64 // s, requires_grad=True) for s in strides]
    none = torch.zeros(0, 4)
    found = RegionAlign(strides, 7)(maps, [none, none])
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert all(x.grad is not None for x in maps)
