"""Non-maximum suppression: of the boxes that overlap each other too much the one with the best score is kept.

Greedy suppression is defined one box after the other, by falling score: a box is kept unless one that was kept overlaps
it by more than the threshold. The same set is the only fixed point of

    kept_j = not any(kept_i and IoU_ij > threshold for i before j)

since kept_j depends on earlier boxes alone. So blocks of boxes are settled at once: a few iterations within the block,
then what survives in it removes all later boxes that it overlaps, which are not looked at again. A few more iterations
than the longest chain of boxes, each removing the next, have to be done; in practice they are less than ten.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

HEAD = 192  # boxes that are settled at once
PAIRS = 2**18  # overlaps at once: what lies between the steps stays in the cache


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Of boxes (N, 4) with scores (N,) the indices of those that are kept, int64, best score first.

    A box goes where its IoU with a better one that is kept is above the threshold. Boxes without area, or that are not
    finite, neither remove nor are removed. Of equal scores the first index comes first. The quotient is compared as
    computed in the precision of the boxes.
    """
    order = scores.detach().argsort(descending=True, stable=True)
    sides = _sides(boxes.detach()[order])
    return order[_greedy(sides, torch.zeros_like(order), _below(iou_threshold, sides.dtype))]


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group of boxes, say a class, an image or a level; groups: (N,) integers. All, best first."""
    order = scores.detach().argsort(descending=True, stable=True)
    if not len(order):
        return order
    groups, by_group = groups[order].sort(stable=True)
    groups, counts = groups.unique_consecutive(return_inverse=True, return_counts=True)[1:]
    sides = _sides(boxes.detach()[order[by_group]])
    kept = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    # Groups of like size are done together: then padding at most doubles the work.
    size = (counts - 1).clamp(min=0).double().log2().floor().long()  # 2^k < count <= 2^(k+1), roughly
    limit = _below(iou_threshold, sides.dtype)
    for level in size.unique().tolist():
        members = (size == level)[groups].nonzero().flatten()
        kept[members] = _greedy(sides[:, members], groups[members], limit)
    result = torch.empty_like(kept)
    result[by_group] = kept
    return order[result]


def _greedy(sides: Tensor, groups: Tensor, limit: float) -> Tensor:
    """Which of n boxes (5, n) are kept; they are in order of their groups, and within these of their scores."""
    kept = torch.zeros(sides.shape[1], dtype=torch.bool, device=sides.device)
    left = torch.arange(sides.shape[1], device=sides.device)
    while len(left):
        groups, counts = groups.unique_consecutive(return_inverse=True, return_counts=True)[1:]
        width, alone = int(counts.max()), len(counts) == 1
        rank = torch.arange(len(left), device=left.device)
        padded = sides[:, None]
        if not alone:
            rank -= (counts.cumsum(0) - counts)[groups]
            padded = sides.new_zeros(5, len(counts), width)
            padded[4] = torch.inf
            padded[:, groups, rank] = sides
        head = min(width, HEAD)
        stays, gone = [], []
        for part in padded.split(max(1, PAIRS // (head * width)), 1):
            best, later = part[:, :, :head], part[:, :, head:]
            keep = _settle((_overlaps(best, best) > limit).triu(1))
            stays.append(keep)
            if head < width:
                # Only what is kept removes others: its places come first, and as few as the fullest group needs.
                most = int(keep.sum(1).max())
                picked = keep.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
                removing = best.gather(2, picked.expand(5, -1, -1))
                removing[4].masked_fill_(~keep.gather(1, picked), torch.inf)
                gone.append(_overlaps(removing, later).amax(1) > limit)
        stay = torch.cat(stays)
        if head == width:
            kept[left] = stay[groups, rank]
            break
        # What is in the head is settled, and so is what it removes.
        go = torch.cat(gone)
        kept[left] = torch.cat([stay, torch.zeros_like(go)], 1)[groups, rank]
        rest = (~torch.cat([torch.ones_like(stay), go], 1)[groups, rank]).nonzero().flatten()
        left, groups, sides = left[rest], groups[rest], sides[:, rest]
    return kept


def _settle(over: Tensor) -> Tensor:
    """(G, k, k), whether the row removes the column, above the diagonal -> which are kept (G, k)."""
    over = over.float()
    kept = over.new_ones(over.shape[0], 1, over.shape[1])
    while True:
        after = (kept @ over == 0).float()
        if torch.equal(after, kept):
            return after[:, 0] > 0
        kept = after


def _overlaps(rows: Tensor, columns: Tensor) -> Tensor:
    """IoU of each with each within the groups, (5, G, m) and (5, G, n) -> (G, m, n)."""
    x1, y1, x2, y2, area = columns[:, :, None]
    a1, b1, a2, b2, own = rows[:, :, :, None]
    overlap = torch.minimum(a2, x2).sub_(torch.maximum(a1, x1)).clamp_(min=0)
    overlap.mul_(torch.minimum(b2, y2).sub_(torch.maximum(b1, y1)).clamp_(min=0))
    return overlap.div_((own + area).sub_(overlap))


def _sides(boxes: Tensor) -> Tensor:
    """(N, 4) -> (5, N): x1, y1, x2, y2 and the area, infinite where there is none, so that no IoU is above zero."""
    boxes = boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    boxes = boxes.T * boxes.isfinite().all(1) if not bool(boxes.isfinite().all()) else boxes.T.contiguous()
    area = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    return torch.cat([boxes, area.masked_fill(area <= 0, torch.inf)[None]])


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
    """
    left = (scores >= score_threshold).nonzero().flatten()
    sides, scores = _sides(boxes.detach())[:, left], scores.detach()[left].clone()
    overlap = _overlaps(sides[:, None], sides[:, None])[0].fill_diagonal_(0)
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
