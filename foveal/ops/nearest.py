"""The nearest points, exactly, in bounded memory.

    l2: |x - y|      l1: sum |x - y|      cosine: 1 - x y / (|x| |y|)

Distances of all pairs come from one product of matrices, |x - y|^2 = |x|^2 + |y|^2 - 2 x y, which is fast but rounds.
So it only nominates: whoever may be among the nearest, by a bound on that rounding, is measured again from the
differences themselves, and the nearest are those by these distances; of equal ones the points that come first.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm

from foveal.errors import InputError
from foveal.ops.checks import check

Metric = Literal["l2", "l1", "cosine"]
ELEMENTS = 2**24  # numbers in memory at once, of eight bytes


def nearest(queries: Tensor, points: Tensor, k: int, metric: Metric = "l2") -> tuple[Tensor, Tensor]:
    """For queries (B, D) and points (N, D): distances (B, k) float64, increasing, and indices (B, k) of the points.

    At most N neighbours can be asked for. Computed in float64, on the CPU where the device has no such numbers.
    InputError for other shapes, metrics and counts of neighbours.
    """
    check("nearest", queries=(queries, "B D"), points=(points, "N D"))
    if not 1 <= k <= len(points):
        raise InputError(f"nearest finds 1 to {len(points)} of so many points, not {k}")
    if metric not in get_args(Metric):
        raise InputError(f"nearest has the metrics {', '.join(get_args(Metric))}, not {metric!r}")
    if queries.device.type == "mps":
        queries, points = queries.cpu(), points.cpu()
    queries = _scaled(queries, metric)
    width = max(1, queries.shape[1])
    block = max(1, ELEMENTS // width)  # points that are float64 at once
    rows = max(1, ELEMENTS // max(min(block, len(points)), width * (k + 8)))
    found = [_nearest(part, points, k, metric, block) for part in queries.split(rows)]
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)


def _nearest(queries: Tensor, points: Tensor, k: int, metric: Metric, block: int) -> tuple[Tensor, Tensor]:
    count = min(len(points), k + 8)
    rough, indices, largest = queries.new_zeros(len(queries), 0), None, queries.new_zeros(())
    for start in range(0, len(points), block):
        part = _scaled(points[start : start + block], metric)
        largest = torch.maximum(largest, part.abs().sum(1).max() if metric == "l1" else vector_norm(part, dim=1).max())
        places = torch.arange(start, start + len(part), device=part.device).expand(len(queries), -1)
        rough = torch.cat([rough, _rough(queries, part, metric)], 1)
        indices = places if indices is None else torch.cat([indices, places], 1)
        rough, order = rough.topk(min(count, rough.shape[1]), 1, largest=False)
        indices = indices.gather(1, order)
    assert indices is not None, "there are no points"
    # |error of a sum of D products| <= D eps sum |a b|; all three metrics have at most (|x| + |y|)^2 or its root there.
    size = (queries.abs().sum(1) if metric == "l1" else vector_norm(queries, dim=1)) + largest
    slack = 4 * (queries.shape[1] + 4) * torch.finfo(torch.float64).eps * (size if metric == "l1" else size.square())
    # Where the last one nominated is within the bound, others may be who are not.
    unsure = (rough[:, -1] <= rough[:, k - 1] + 2 * slack) & (count < len(points))
    distances, indices = _ranked(_exact(queries, points, indices, metric), indices, k)
    everyone = torch.arange(len(points), device=points.device)
    for row in unsure.nonzero().flatten().tolist():
        own = [_exact(queries[row : row + 1], points, part[None], metric) for part in everyone.split(block)]
        one, which = _ranked(torch.cat(own, 1), everyone[None], k)
        distances[row], indices[row] = one[0], which[0]
    return distances, indices


def _scaled(vectors: Tensor, metric: Metric) -> Tensor:
    """In float64; for the cosine of length one, but for zeros, which stay zeros."""
    vectors = vectors.double()
    if metric != "cosine":
        return vectors
    length = vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length == 0, 1.0, length)


def _rough(queries: Tensor, points: Tensor, metric: Metric) -> Tensor:
    """(B, N): what grows with the distance."""
    if metric == "l1":
        return torch.cdist(queries, points, p=1)
    products = queries @ points.T
    if metric == "cosine":
        return 1 - products
    return queries.square().sum(1, keepdim=True) + points.square().sum(1) - 2 * products


def _exact(queries: Tensor, points: Tensor, indices: Tensor, metric: Metric) -> Tensor:
    """(B, m): the distance of each query to its points (B, m)."""
    chosen = _scaled(points[indices.flatten()], metric).view(*indices.shape, points.shape[1])
    return distance(queries[:, None], chosen, metric)


def distance(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """(..., D), (..., D) -> (...), for the cosine of vectors of length one. InputError for other shapes."""
    check("distance", x=(x, "... D"), y=(y, "... D"))
    if metric == "cosine":
        return (1 - (x * y).sum(-1)).clamp(0, 2)
    difference = x - y
    return difference.abs().sum(-1) if metric == "l1" else difference.square().sum(-1).sqrt()


def _ranked(distances: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest, by distance and then by index."""
    indices, order = indices.sort(1)
    distances, order = distances.gather(1, order.expand(len(distances), -1)).sort(dim=1, stable=True)
    return distances[:, :k], indices.expand(len(distances), -1).gather(1, order)[:, :k]
