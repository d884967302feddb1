"""Where a network expects objects before it has seen any: anchors, default boxes and points on a grid.

Of a map (h, w) everything comes row by row, then column by column, then shape by shape, as the channels of a head are
laid out once they are moved last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.ops.checks import check

Stride = float | tuple[float, float]  # pixels from one place of a map to the next, or (down, across)


def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Boxes (A, 4) around (0, 0), one for each ratio, height over width, and within it each size, the root of the area.

    Ren et al. 2015, 1506.01497. rounded: to whole pixels, as published weights have learned them.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    size = torch.tensor(sizes, dtype=torch.float32)
    half = torch.stack([(1 / root * size).flatten(), (root * size).flatten()], -1)  # (A, 2): width, height
    shapes = torch.cat([-half, half], -1) / 2
    return shapes.round() if rounded else shapes


def grid_points(
    extent: tuple[int, int], stride: Stride, offset: float = 0.5, device: torch.device | None = None
) -> Tensor:
    """The points (h w, 2), as x, y, of a map of extent (h, w); `offset` in strides from its upper left corner."""
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(extent[0], dtype=torch.float32, device=device) + offset) * down
    x = (torch.arange(extent[1], dtype=torch.float32, device=device) + offset) * across
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def grid_anchors(shapes: Tensor, extent: tuple[int, int], stride: Stride, offset: float = 0.0) -> Tensor:
    """The shapes (A, 4) at each place of a map of extent (h, w) -> (h w A, 4). InputError for other shapes."""
    check("grid_anchors", shapes=(shapes, "A 4"))
    points = grid_points(extent, stride, offset, shapes.device).to(shapes.dtype)
    return (points.repeat(1, 2)[:, None] + shapes).view(-1, 4)


def default_boxes(
    extents: Sequence[tuple[int, int]],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    strides: Sequence[tuple[float, float]] | None = None,
) -> Tensor:
    """The default boxes of SSD (N, 4) as centre and size, in shares of the image; Liu et al. 2015, 1512.02325.

    At each place of map k lie a square of scale s_k, one of sqrt(s_k s_k+1), and for each ratio r in `ratios[k]` a box
    of s_k sqrt(r) by s_k / sqrt(r) and the same upright. No side is longer than the image.

    extents: (h, w) of each map. scales: one for each map and one more. strides: (down, across) from one place to the
    next in shares of the image; 1 / h and 1 / w by default. InputError where these are not as many as there are maps.
    """
    count = len(extents)
    if len(scales) != count + 1 or len(ratios) != count or len(count * "." if strides is None else strides) != count:
        raise InputError(f"default_boxes takes for {count} maps {count + 1} scales, {count} ratios and strides")
    found = []
    for k, (h, w) in enumerate(extents):
        sides = [(scales[k], scales[k]), ((scales[k] * scales[k + 1]) ** 0.5,) * 2]
        for ratio in ratios[k]:
            wide, flat = scales[k] * ratio**0.5, scales[k] / ratio**0.5
            sides += [(wide, flat), (flat, wide)]
        centres = grid_points((h, w), (1 / h, 1 / w) if strides is None else strides[k])
        shapes = torch.tensor(sides).clamp(max=1)
        both = centres[:, None].expand(-1, len(shapes), 2), shapes.expand(len(centres), -1, 2)
        found.append(torch.cat(both, -1).view(-1, 4))
    return torch.cat(found)
