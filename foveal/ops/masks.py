"""Masks as run lengths and as polygons: the forms in which COCO's files keep them (Lin et al. 2014, arXiv:1405.0312).

A run-length code counts the pixels of a mask (H, W), read column by column from the upper left: so many outside, so
many inside, so many outside ... In a file it is a list of these counts, or the text that `rle_text` makes of them.
"""

import numpy as np
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.ops.checks import check


def rle_encode(mask: Tensor) -> Tensor:
    """(H, W) bool -> (K,) int64 counts, the first of them of pixels outside, so it may be 0."""
    check("rle_encode", mask=(mask, "H W"))
    row = mask.T.reshape(-1).to(torch.int8)
    changes = torch.nonzero(row.diff(prepend=row.new_zeros(1))).view(-1)
    ends = torch.cat([changes, changes.new_tensor([len(row)])])
    return ends.diff(prepend=ends.new_zeros(1))


def rle_decode(counts: Tensor, size: tuple[int, int]) -> Tensor:
    """(K,) counts -> (H, W) bool, for size (H, W). Raises InputError where they are not of so many pixels."""
    check("rle_decode", counts=(counts, "K integers"))
    height, width = size
    if bool((counts < 0).any()) or counts.double().sum().item() != height * width:
        raise InputError(f"a run-length code is not of an image of {width} x {height} pixels")
    # repeat_interleave of torch takes eight bytes more for each pixel.
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts.numpy())
    return torch.from_numpy(inside).view(width, height).T


def rle_box(counts: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(K,) counts of an image of size (H, W) -> x1, y1, x2, y2 around the pixels inside, which are not decoded; None
    where there are none."""
    check("rle_box", counts=(counts, "K integers"))
    ends = counts.cumsum(0)
    starts, ends = (ends - counts)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return None
    height = size[0]
    x1, x2 = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    if bool((starts // height != (ends - 1) // height).any()):
        return x1, 0, x2, height  # a run from one column into the next has a pixel in the last row and in the first
    return x1, int((starts % height).min()), x2, int(((ends - 1) % height).max()) + 1


def rle_text(counts: Tensor) -> str:
    """Counts as COCO's compressed text.

    From the fourth on, a count is told as its difference from the one two before it. A number is cut from its low end
    into groups of five bits; a sixth, 32, says that more follow, and the sign is the highest bit of the last group.
    Each group is the character 48 places after it.
    """
    check("rle_text", counts=(counts, "K integers"))
    values, text = counts.tolist(), []
    for place, value in enumerate(values):
        rest, more = value - (values[place - 2] if place > 2 else 0), True
        while more:
            group, rest = rest & 31, rest >> 5
            # What is left is only the sign, and the group says it already.
            more = rest != (-1 if group & 16 else 0)
            text.append(chr(48 + group + 32 * more))
    return "".join(text)


def rle_counts(text: str) -> Tensor:
    """COCO's compressed text -> (K,) int64 counts. Raises InputError for what is no such text."""
    values: list[int] = []
    value = shift = 0
    for sign in text:
        group = ord(sign) - 48
        if not 0 <= group < 64 or shift > 55:
            raise InputError("a compressed run-length code has a character that cannot be in one")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        value += values[-2] if len(values) > 2 else 0
        if not 0 <= value < 2**31:
            raise InputError("a compressed run-length code has a count that no image has")
        values.append(value)
        value = shift = 0
    if shift:
        raise InputError("a compressed run-length code ends within a number")
    return torch.tensor(values, dtype=torch.int64)


def polygon_mask(points: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, 2) corners x, y -> (H, W) bool, for size (H, W): pixels whose centre lies inside by the even-odd rule.

    In the row of pixels with centres at height y, an edge from a to b crosses where a_y <= y < b_y or b_y <= y < a_y,
    at x = a_x + (y - a_y) (b_x - a_x) / (b_y - a_y). A centre is inside with an odd number of crossings to its left.
    """
    check("polygon_mask", points=(points, "P 2"))
    height, width = size
    a = points.double()
    b = a.roll(-1, 0)
    y = (torch.arange(height, dtype=torch.float64) + 0.5)[:, None]
    # Odd or even is all that counts, and survives that a byte overflows.
    crossings = torch.zeros(height * (width + 1), dtype=torch.uint8)
    for some, other in zip(a.split(max(1, _PAIRS // height)), b.split(max(1, _PAIRS // height)), strict=True):
        edges, rows = torch.nonzero(((some[:, 1] <= y) != (other[:, 1] <= y)).T, as_tuple=True)
        (ax, ay), (bx, by) = some[edges].unbind(-1), other[edges].unbind(-1)
        x = ax + (y[rows, 0] - ay) * (bx - ax) / (by - ay)
        # The first centre that is not to the left of the crossing.
        columns = (x - 0.5).ceil().clamp(0, width).long()
        crossings.index_add_(0, rows * (width + 1) + columns, torch.ones_like(columns, dtype=torch.uint8))
    inside = crossings.view(height, width + 1).cumsum_(1).bitwise_and_(1)
    return inside[:, :width].view(torch.bool)


_PAIRS = 2**20  # of an edge and a row, looked at together
