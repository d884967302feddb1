"""Non-maximum suppression: of the boxes that overlap each other too much the one with the best score is kept.

Greedy suppression is defined one box after the other, by falling score: a box is kept unless one that was kept overlaps
it by more than the threshold. The same set is the only fixed point of

    kept_j = not any(kept_i and IoU_ij > threshold for i before j)

since kept_j depends on earlier boxes alone. So blocks of boxes are settled at once: the best of each group by a few
iterations over the pairs that overlap, then what survives of them removes all later boxes that it overlaps, which are
not looked at again. A few more iterations than the longest chain of boxes, each removing the next, have to be done; in
practice they are less than ten.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import InputError
from foveal.ops.checks import check

HEAD, LEAST = 192, 48  # boxes that are settled at once: so many in all groups, but at least so many of each
TILE = 5  # times as many later boxes of a group are compared with these at once
PAIRS = 2**17  # overlaps at once: what lies between the steps stays in the cache
FEW = 200  # boxes on the processor, for which to begin the operations takes longer than the operations
EARLIER = np.triu(np.ones((FEW, FEW), bool), 1)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Of boxes (N, 4) with scores (N,) the indices of those that are kept, int64, best score first.

    A box goes where its IoU with a better one that is kept is above the threshold. Boxes without area, or that are not
    finite, neither remove nor are removed. Of equal scores the first index comes first. The quotient is compared as
    computed in the precision of the boxes. InputError for other shapes.
    """
    check("nms", boxes=(boxes, "N 4"), scores=(scores, "N"))
    order = scores.detach().argsort(descending=True, stable=True)
    sides = _sides(boxes.detach().index_select(0, order))
    return order.masked_select(_greedy(sides, torch.zeros_like(order), _below(iou_threshold, sides.dtype)))


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group of boxes, say a class, an image or a level; groups: (N,) integers. All, best first."""
    check("batched_nms", boxes=(boxes, "N 4"), scores=(scores, "N"), groups=(groups, "N integers"))
    order = scores.detach().argsort(descending=True, stable=True)
    if len(order) <= FEW and boxes.device.type == "cpu":
        sides = _precise(boxes.detach())
        return _few(sides.numpy(), order.numpy(), groups.numpy(), _below(iou_threshold, sides.dtype))
    groups, by_group = groups.index_select(0, order).sort(stable=True)
    sides = _sides(boxes.detach().index_select(0, order.index_select(0, by_group)))
    kept = _greedy(sides, groups, _below(iou_threshold, sides.dtype))
    return order.masked_select(torch.empty_like(kept).scatter_(0, by_group, kept))


def _few(boxes: np.ndarray, order: np.ndarray, groups: np.ndarray, limit: float) -> Tensor:
    """`batched_nms` of boxes (n, 4) in groups (n,), whose scores fall in this order. NumPy begins an operation in a
    third of the time that torch takes."""
    count = len(order)
    boxes, groups = boxes.take(order, 0), groups.take(order)
    same = groups[:, None] == groups
    same &= EARLIER[:count, :count]
    earlier, later = np.divmod(np.flatnonzero(same), count)
    with np.errstate(all="ignore"):  # of boxes that are not finite
        sides = boxes[:, 2:] - boxes[:, :2]
        area = sides[:, 0] * sides[:, 1]  # what has none overlaps none: 0, or no number, is above no limit
        a, b = boxes.take(earlier, 0), boxes.take(later, 0)
        common = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
        overlap = common[:, 0] * common[:, 1]
        over = overlap / (area.take(earlier) + area.take(later) - overlap) > limit
    if not over.any():
        return torch.from_numpy(order)
    earlier, later = earlier[over], later[over]
    kept = np.ones(count, bool)
    while True:
        after = np.ones(count, bool)
        after[later[kept[earlier]]] = False
        if (after == kept).all():
            return torch.from_numpy(order[kept])
        kept = after


def _greedy(sides: Tensor, groups: Tensor, limit: float) -> Tensor:
    """Which of n boxes (5, n) are kept; they are in order of their groups, and within these of their scores.

    Here index_select and masked_select stand for brackets, which take several times as long.
    """
    nothing = len(groups)
    kept = torch.zeros(nothing, dtype=torch.bool, device=sides.device)
    left = torch.arange(nothing, device=sides.device)
    sides = F.pad(sides, (0, 1))  # the last is no box: zeros, which overlap none
    while len(left):
        group, sizes = groups.index_select(0, left).unique_consecutive(return_inverse=True, return_counts=True)[1:]
        largest, head = int(sizes.max()), max(LEAST, HEAD // len(sizes))
        best, of = left, group
        if largest > head:
            # Among the best of its group is a box unless the one so many places before it is of that group, too.
            first = torch.cat([kept.new_ones(head), group[head:] != group[:-head]])
            best, of = left.masked_select(first), group.masked_select(first)
        stays = _settle(sides.index_select(1, best), of, sizes.clamp(max=head), min(largest, head), limit)
        best, of = best.masked_select(stays), of.masked_select(stays)
        kept.index_fill_(0, best, True)
        if largest <= head:
            break
        # What is kept of the best removes what comes later in its group.
        best = _rows(best, of, len(sizes), HEAD, nothing)[0]
        later, of = left.masked_select(~first), group.masked_select(~first)
        later, of = _rows(later, of, len(sizes), TILE * head, nothing)
        count = max(1, PAIRS // (best.shape[1] * later.shape[1]))
        gone = [
            _overlaps(_at(sides, best.index_select(0, own))[..., None], _at(sides, part)[:, :, None]).amax(1) > limit
            for own, part in zip(of.split(count), later.split(count), strict=True)
        ]
        left = later.masked_select(~torch.cat(gone))
        left = left.masked_select(left < nothing)
    return kept


def _settle(sides: Tensor, group: Tensor, sizes: Tensor, largest: int, limit: float) -> Tensor:
    """Which of n boxes (5, n) are kept, in groups (n,) of `sizes`, the largest of which is given."""
    kept = torch.ones(len(group), dtype=torch.bool, device=sides.device)
    if largest == 1:
        return kept
    # Each box beside those that follow it, (5, n, largest - 1), which are a view.
    following = F.pad(sides, (0, largest - 1))[:, 1:].unfold(1, largest - 1, 1)
    parts = (x.split(max(1, PAIRS // largest), 1) for x in (sides[..., None], following))
    over = torch.cat([_overlaps(own, others) > limit for own, others in zip(*parts, strict=True)])
    earlier, offset = over.nonzero().unbind(1)
    later = earlier + offset + 1
    same = later < sizes.cumsum(0).index_select(0, group).index_select(0, earlier)
    earlier, later = earlier.masked_select(same), later.masked_select(same)
    while True:
        after = torch.ones_like(kept).index_fill_(0, later.masked_select(kept.index_select(0, earlier)), False)
        if torch.equal(after, kept):
            return kept
        kept = after


def _rows(members: Tensor, group: Tensor, number: int, most: int, nothing: int) -> tuple[Tensor, Tensor]:
    """The members of each group in rows of a table (r, most or less), filled up with `nothing`; the group of each."""
    if number == 1:
        width = min(most, len(members))
        table = F.pad(members, (0, -len(members) % width), value=nothing).view(-1, width)
        return table, group[: len(table)]
    counts = group.bincount(minlength=number)
    width = min(most, int(counts.max()))
    rows = (counts + width - 1) // width
    # Where each group begins in the table, less where it does among the members.
    shift = (rows.cumsum(0) - rows) * width - (counts.cumsum(0) - counts)
    place = torch.arange(len(members), device=members.device) + shift.index_select(0, group)
    of = torch.arange(number, device=members.device).repeat_interleave(rows)
    return members.new_full((len(of) * width,), nothing).scatter_(0, place, members).view(-1, width), of


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (5, ...) with others that they are broadcast against."""
    x1, y1, x2, y2, area = b
    a1, b1, a2, b2, own = a
    overlap = torch.minimum(a2, x2).sub_(torch.maximum(a1, x1)).clamp_(min=0)
    overlap.mul_(torch.minimum(b2, y2).sub_(torch.maximum(b1, y1)).clamp_(min=0))
    return overlap.div_((own + area).sub_(overlap))


def _at(sides: Tensor, places: Tensor) -> Tensor:
    """(5, n) at (r, width) -> (5, r, width)."""
    return sides.index_select(1, places.view(-1)).view(5, *places.shape)


def _sides(boxes: Tensor) -> Tensor:
    """(N, 4) -> (5, N): x1, y1, x2, y2 and the area, infinite where there is none, so that no IoU is above zero."""
    sides = _precise(boxes).T.contiguous()
    area = (sides[2] - sides[0]) * (sides[3] - sides[1])
    odd = ~((area > 0) & (area < torch.inf))
    return torch.cat([sides.masked_fill(odd, 0), area.masked_fill(odd, torch.inf)[None]])


def _precise(boxes: Tensor) -> Tensor:
    """In the precision that overlaps are computed in."""
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _below(threshold: float, kind: torch.dtype) -> float:
    """The largest number of this precision that is not above the threshold: a quotient is above both or neither."""
    if kind == torch.float64:
        return threshold
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Indices of boxes (N, 4) by falling new score, and these scores: overlap lowers a score instead of ending it.

    Bodla et al. 2017, 1704.04503. gaussian: times exp(-IoU^2 / sigma). linear: times 1 - IoU where that is above
    iou_threshold. Boxes that fall below score_threshold are dropped.

    The paper takes the best box, lowers all others, and repeats. Scores only fall, so a box that is better than
    all that overlap it will be taken as it is: all such boxes are taken at once.

    InputError for other shapes and methods.
    """
    check("soft_nms", boxes=(boxes, "N 4"), scores=(scores, "N floats"))
    if method not in ("gaussian", "linear"):
        raise InputError(f"soft_nms has the methods gaussian and linear, not {method!r}")
    left = (scores >= score_threshold).nonzero().flatten()
    sides, scores = _sides(boxes.detach())[:, left], scores.detach()[left].clone()
    overlap = _overlaps(sides[:, :, None], sides[:, None]).fill_diagonal_(0)
    lowered = torch.exp(-(overlap**2) / sigma) if method == "gaussian" else 1 - overlap * (overlap > iou_threshold)
    lowered = lowered.to(scores.dtype)
    chosen, final = [left[:0]], [scores[:0]]
    while len(left):
        earlier = torch.arange(len(left), device=left.device)
        earlier = earlier[:, None] > earlier
        better = (scores > scores[:, None]) | ((scores == scores[:, None]) & earlier)
        best = ~((lowered < 1) & better).any(1)
        chosen.append(left[best])
        final.append(scores[best])
        scores = scores * lowered[best].prod(0)
        rest = (~best & (scores >= score_threshold)).nonzero().flatten()
        left, scores, lowered = left[rest], scores[rest], lowered[rest][:, rest]
    indices, values = torch.cat(chosen), torch.cat(final)
    order = indices.argsort()  # so that of equal scores the first box comes first
    order = order[values[order].argsort(descending=True, stable=True)]
    return indices[order], values[order]
