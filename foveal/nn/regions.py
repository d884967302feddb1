"""Regions of a pyramid of maps, each read from the map that suits its size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveal.ops.boxes import area
from foveal.ops.roi import roi_align

CANONICAL = 224.0, 16  # a region with the root of this area is read from the map of this stride


class RegionAlign(nn.Module):
    """Maps (B, C, H / s, W / s) of falling size and boxes (N_i, 4) of each image -> (sum N_i, C, size, size).

    Of maps with the strides s the one with log2 s = floor(log2 16 + log2(sqrt(area) / 224)) is read, or the nearest
    there is: Lin et al. 2016, arXiv:1612.03144, equation 1. Of several maps with one stride it is the first, as
    published weights have learned it. Values are those of RoI align.

    strides:  of each map, finest first; each that one before, or twice it.
    samples:  in each direction of a bin; 0 for as many as it has pixels.
    aligned:  see `roi_align`.
    """

    def __init__(self, strides: Sequence[int], size: int, samples: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.strides, self.size, self.samples, self.aligned = tuple(strides), size, samples, aligned

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        image = torch.cat([torch.full_like(each[:, :1], number) for number, each in enumerate(boxes)])
        regions = torch.cat([image, torch.cat(list(boxes))], 1)  # (R, 5)
        side, stride = CANONICAL
        level = (area(regions[:, 1:]).sqrt() / side * (stride / self.strides[0]) + 1e-30).log2()
        first: dict[int, Tensor] = {}
        for stride, x in zip(self.strides, maps, strict=True):
            first.setdefault(stride, x)
        level = (level + 1e-6).floor().clamp(0, len(first) - 1)
        order, found = [], []
        for number, (stride, x) in enumerate(first.items()):
            chosen = (level == number).nonzero()[:, 0]
            order.append(chosen)
            found.append(roi_align(x, regions[chosen], self.size, 1 / stride, self.samples, self.aligned))
        return torch.cat(found)[torch.cat(order).argsort()] if len(found) > 1 else found[0]
