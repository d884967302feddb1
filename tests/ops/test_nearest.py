from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from foveal.ops import nearest as module
from foveal.ops.nearest import nearest

METRICS = {"l2": "euclidean", "l1": "cityblock", "cosine": "cosine"}


def by_hand(queries: torch.Tensor, points: torch.Tensor, k: int, metric: Any) -> tuple[np.ndarray, np.ndarray]:
    distances = cdist(queries.double().numpy(), points.double().numpy(), METRICS[metric])
    order = np.argsort(distances, 1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), order


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("elements", [2**24, 40])  # all at once, and a few numbers at a time
def test_as_by_hand(metric: Any, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS", elements)
    draw = torch.Generator().manual_seed(0)
    queries, points = torch.randn(7, 5, generator=draw), torch.randn(60, 5, generator=draw)
    for k in (1, 4, 60):
        distances, indices = nearest(queries, points, k, metric)
        wanted, order = by_hand(queries, points, k, metric)
        assert np.array_equal(indices.numpy(), order)
        np.testing.assert_allclose(distances.numpy(), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_distances_the_first_points_are_nearer(metric: Any) -> None:
    point = torch.tensor([[1.0, 2.0, 3.0]])
    points = torch.cat([-point, point.expand(50, -1), -point])  # more copies than the product nominates
    _, indices = nearest(point, points, 6, metric)
    assert indices.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_what_the_product_rounds_away_is_found() -> None:
    # Far from the origin |x|^2 + |y|^2 - 2 x y loses all digits of these distances, in float64 too.
    far, steps = torch.tensor([1e9, -1e9]).double(), torch.arange(200.0).double().flip(0)
    points = far + torch.stack([steps, torch.zeros(200)], 1) / 16
    distances, indices = nearest(far[None], points, 5, "l2")
    assert indices.tolist() == [[199, 198, 197, 196, 195]]
    assert distances[0].tolist() == [0, 1 / 16, 2 / 16, 3 / 16, 4 / 16]


def test_zero_vectors_have_no_angle() -> None:
    distances, _ = nearest(torch.zeros(1, 3), torch.eye(3), 3, "cosine")
    assert distances.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("metric", METRICS)
def test_nobody_asks(metric: Any) -> None:
    distances, indices = nearest(torch.zeros(0, 5), torch.rand(20, 5), 3, metric)
    assert distances.shape == indices.shape == (0, 3)
