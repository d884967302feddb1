"""Features of regions of interest, each brought to one size: RoI pooling and RoI align.

A value of the result is a sum, or the largest, over a few places of the map, all channels alike. So both are one lookup
with channels last: a bag of places and weights for each value of the result, which is what an embedding bag does. The
gradient of a sum goes the same way back; of a largest value only the place is taken from the bag, and the gradient is
added there.

RoI pooling: Girshick 2015, 1504.08083. RoI align: He et al. 2017, 1703.06870; `aligned`, by which pixel (0, 0) covers
[0, 1), is a later correction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import InputError
from foveal.ops.checks import check

PLACES = 2**22  # looked up at once; RoI pooling looks up each channel's

Size = int | tuple[int, int]


def roi_align(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Features (B, C, H, W) in boxes -> (K, C, h, w): each value the mean of bilinear samples spread over its bin.

    boxes: (K, 5) as index of the image, x1, y1, x2, y2, or for each image (N_i, 4).
    output_size: (h, w), or one number for both.
    spatial_scale: what takes the coordinates of boxes to those of the map, 1 / stride.
    sampling_ratio: samples in each direction of a bin; where not positive as many as it has pixels, rounded up.
    aligned: without it a box is half a pixel further right and down, and at least one pixel wide and high.

    A sample more than a pixel outside the map is zero. There is no gradient for the boxes. Half precision is
    computed in float32. InputError for other shapes.
    """
    height, width = _pair(output_size)
    grid, kind = _floats(features), features.dtype
    image, corners = _split(boxes, grid, "roi_align")
    start = corners[:, :2] * spatial_scale - (0.5 if aligned else 0.0)
    size = corners[:, 2:] * spatial_scale - (0.5 if aligned else 0.0) - start
    if not aligned:
        size = size.clamp(min=1)
    bins = size / size.new_tensor([width, height])
    samples = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil().clamp(min=0)
    kinds, which = samples.long().unique(dim=0, return_inverse=True)
    table = _channels_last(grid)
    # Without any box, too, the result is one that a gradient can be asked of.
    pooled = grid.new_zeros(len(corners), height * width, grid.shape[1]) + table[:0].sum()
    for number, (across, down) in enumerate(kinds.tolist()):
        if not across * down:
            continue
        chosen = (which == number).nonzero().flatten()
        for part in chosen.split(max(1, PLACES // (4 * across * down * height * width))):
            x, share_x = _samples(start[part, 0], bins[part, 0], width, across, grid.shape[3])
            y, share_y = _samples(start[part, 1], bins[part, 1], height, down, grid.shape[2])
            y = y + (image[part] * grid.shape[2])[:, None, None]
            places = (y * grid.shape[3])[:, :, None, :, None] + x[:, None, :, None]  # (K, h, w, 2 down, 2 across)
            shares = share_y[:, :, None, :, None] * share_x[:, None, :, None]
            bags = 4 * across * down
            found = F.embedding_bag(places.view(-1, bags), table, mode="sum", per_sample_weights=shares.view(-1, bags))
            found = found.view(len(part), height * width, -1)
            pooled = found if len(part) == len(corners) else pooled.index_copy(0, part, found)
    return pooled.transpose(1, 2).reshape(len(corners), grid.shape[1], height, width).to(kind)


def _samples(start: Tensor, size: Tensor, bins: int, count: int, extent: int) -> tuple[Tensor, Tensor]:
    """Along one axis, for K boxes: pixels and weights (K, bins, 2 count) of `count` samples in each bin."""
    place = torch.arange(bins, device=start.device, dtype=start.dtype)
    within = torch.arange(count, device=start.device, dtype=start.dtype) + 0.5
    at = start[:, None, None] + place[:, None] * size[:, None, None] + within * size[:, None, None] / count
    inside = (at >= -1) & (at <= extent)
    at = at.clamp(0, extent - 1)
    low = at.floor()
    above = (at - low) * inside / count
    below = inside.to(at.dtype) / count - above
    pixels = torch.cat([low, (low + 1).clamp(max=extent - 1)], -1).long()
    return pixels, torch.cat([below, above], -1)


def roi_pool(
    features: Tensor, boxes: Tensor | Sequence[Tensor], output_size: Size, spatial_scale: float = 1.0
) -> Tensor:
    """Features (B, C, H, W) in boxes -> (K, C, h, w): each value the largest in its bin, zero in one outside the map.

    The box is rounded to whole pixels and holds its last one; bins overlap where its size is no multiple of theirs.
    Boxes, output_size, spatial_scale, gradients and errors as of `roi_align`.
    """
    height, width = _pair(output_size)
    grid, kind = _floats(features), features.dtype
    image, corners = _split(boxes, grid, "roi_pool")
    corners = corners * spatial_scale
    corners = corners.sign() * (corners.abs() + 0.5).floor()  # halves away from zero
    left, right = _bins(corners[:, 0], corners[:, 2], width, grid.shape[3])
    upper, lower = _bins(corners[:, 1], corners[:, 3], height, grid.shape[2])
    # Each channel of all images in a row, and at its end the zero of bins outside the map.
    values = F.pad(grid.transpose(0, 1).flatten(1), (0, 1))
    outside, table = values.shape[1] - 1, values.detach().T.contiguous()
    across = (right - left)[:, None].expand(-1, height, -1)
    counts = (lower - upper)[:, :, None] * across  # (K, h, w) pixels of each value's bin
    corner = (upper + (image * grid.shape[2])[:, None])[:, :, None] * grid.shape[3] + left[:, None]
    corner = corner.masked_fill(counts == 0, outside)
    across, counts = across.clamp(min=1), counts.clamp(min=1)
    # Where the largest lies is found with channels last, then looked up: its gradient is added there and that is all.
    small = torch.int32 if values.numel() < 2**31 else torch.int64
    channel = torch.arange(grid.shape[1], dtype=small, device=grid.device)[:, None] * (outside + 1)
    place = channel.new_empty(len(corners), grid.shape[1], height * width)
    number = _shares(counts.sum((1, 2)) * grid.shape[1])
    for part, *bins in zip(*(x.split(number) for x in (place, corner, across, counts)), strict=True):
        found = _largest(table, grid.shape[3], *(x.flatten().to(small) for x in bins))
        torch.add(found.view(len(part), -1, grid.shape[1]).transpose(1, 2), channel, out=part)
    return values.flatten().index_select(0, place.flatten()).view(*place.shape[:2], height, width).to(kind)


def _bins(first: Tensor, last: Tensor, bins: int, extent: int) -> tuple[Tensor, Tensor]:
    """Along one axis: first pixel of each bin and the one after its last (K, bins), on the map."""
    size = ((last - first + 1).clamp(min=1) / bins)[:, None]
    place = torch.arange(bins, device=first.device, dtype=first.dtype)
    start, end = (place * size).floor(), ((place + 1) * size).ceil()
    start, end = ((edge + first[:, None]).clamp(0, extent).long() for edge in (start, end))
    return start, end.maximum(start)


def _shares(work: Tensor) -> list[int]:
    """How many at a time, where the work of each is given and that of all at once is to stay bounded."""
    return (work.cumsum(0) // PLACES).unique_consecutive(return_counts=True)[1].tolist()


def _largest(table: Tensor, stride: int, corner: Tensor, across: Tensor, counts: Tensor) -> Tensor:
    """In which row of a table (P, C) the largest of each of R rectangles lies, of equal ones the first: (R, C).

    corner: the row of the rectangle's first pixel. across: its width. counts: its pixels. stride: the map's width.
    """
    first = counts.cumsum(0, dtype=counts.dtype) - counts
    bag = torch.arange(len(counts), dtype=counts.dtype, device=counts.device).repeat_interleave(counts)
    across = across.index_select(0, bag)
    number = torch.arange(len(bag), dtype=counts.dtype, device=counts.device) - first.index_select(0, bag)
    row = number.div(across, rounding_mode="floor")
    places = corner.index_select(0, bag) + number + row * (stride - across)
    return torch.embedding_bag(table, places, first, mode=2)[3]  # mode 2 is the maximum, 3 the rows that it was in


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _floats(features: Tensor) -> Tensor:
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def _channels_last(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _split(boxes: Tensor | Sequence[Tensor], features: Tensor, function: str) -> tuple[Tensor, Tensor]:
    """The image (K,) of each box, and its corners (K, 4) with the precision of the features."""
    if isinstance(boxes, Tensor):
        check(function, features=(features, "B C H W"), boxes=(boxes, "K 5"))
        return boxes[:, 0].long(), boxes[:, 1:].detach().to(features.dtype)
    check(function, features=(features, "B C H W"))
    if len(boxes) != len(features):
        count = len(features)
        raise InputError(f"{function} takes boxes (K, 5), or as many of (N, 4) as images, {count}, not {len(boxes)}")
    for each in boxes:
        check(function, features=(features, "B C H W"), boxes=(each, "N 4"))
    number = torch.arange(len(boxes), device=features.device)
    image = number.repeat_interleave(torch.tensor([len(each) for each in boxes], device=features.device))
    return image, torch.cat(list(boxes)).detach().to(features.dtype)
