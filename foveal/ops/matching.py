"""Which truth each anchor or each prediction is to learn, and which of them a step learns from."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from foveal.ops.checks import check

NOTHING, BETWEEN = -1, -2  # an anchor that is background, and one that is neither background nor object


def match(iou: Tensor, high: float, low: float, keep_best: bool) -> Tensor:
    """From the IoU (N, M) of truths and anchors the truth of each anchor (M,) int64; Ren et al. 2015, 1506.01497.

    The truth that overlaps it most where that is at least `high`, -1 where it is below `low`, else -2.
    keep_best: the anchors that overlap a truth as much as any does keep the truth that overlaps them most, however
    little that is; a truth that no anchor overlaps claims none. InputError for other shapes.
    """
    check("match", iou=(iou, "N M floats"))
    if not len(iou):
        return torch.full((iou.shape[1],), NOTHING, dtype=torch.int64, device=iou.device)
    overlap, truth = iou.max(0)
    matches = truth.masked_fill(overlap < high, BETWEEN).masked_fill(overlap < low, NOTHING)
    if keep_best and iou.shape[1]:
        best = iou.amax(1, keepdim=True)
        kept = ((iou == best) & (best > 0)).any(0)
        matches = torch.where(kept, truth, matches)
    return matches


def claim_best(matches: Tensor, iou: Tensor) -> Tensor:
    """Matches (M,) where each truth has taken the anchor that it overlaps most, as in SSD.

    Liu et al. 2015, 1512.02325. Of several truths that want one anchor the last has it. InputError for other shapes.
    """
    check("claim_best", matches=(matches, "M integers"), iou=(iou, "N M floats"))
    if not len(iou) or not iou.shape[1]:
        return matches
    wanted = iou.argmax(1)
    number = torch.arange(len(iou), device=iou.device)
    claims = matches.new_full(matches.shape, NOTHING).scatter_reduce(0, wanted, number, "amax")
    return torch.where(claims >= 0, claims, matches)


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs (rows, columns), int64, of least total cost (Q, N), min(Q, N) of them, rows increasing.

    The Hungarian method in float64 on the CPU. A cost of NaN or infinity counts as dearer than all that
    are finite together, one of minus infinity as cheaper. InputError for other shapes.
    """
    check("assign", cost=(cost, "Q N"))
    table = cost.detach().double().cpu().numpy()
    finite = np.isfinite(table)
    if not finite.all():
        far = 4 * np.abs(table[finite]).max(initial=1) * max(1, min(table.shape))
        table = np.where(finite, table, np.where(table == -np.inf, -far, far))
    rows, columns = linear_sum_assignment(table)
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)


def sample_balanced(
    matches: Tensor, count: int, positive_share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` matched and background entries of matches (M,), drawn evenly: (positive, negative).

    As many positive ones as there are, up to this share of the count; the rest are negative. Girshick 2015, 1504.08083.
    InputError for other shapes.
    """
    check("sample_balanced", matches=(matches, "M integers"))
    positive, negative = (matches >= 0).nonzero().flatten(), (matches == NOTHING).nonzero().flatten()
    positive = _some(positive, int(count * positive_share), generator)
    return positive, _some(negative, count - len(positive), generator)


def _some(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    device = indices.device if generator is None else generator.device
    return indices[torch.randperm(len(indices), generator=generator, device=device)[:count].to(indices.device)]
