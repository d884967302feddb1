import pytest
import torch
from sklearn.metrics import hinge_loss

from foveal.losses.classification import cross_entropy, hinge, squared_error

SCORES = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
INDEX = torch.arange(12) % 5
ONE_HOT = torch.nn.functional.one_hot(INDEX, 5).double()
SOFT = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)


def test_cross_entropy_is_torchs() -> None:
    assert torch.allclose(cross_entropy(SCORES, ONE_HOT), torch.nn.functional.cross_entropy(SCORES, INDEX), rtol=1e-12)
    assert torch.allclose(cross_entropy(SCORES, SOFT), torch.nn.functional.cross_entropy(SCORES, SOFT), rtol=1e-12)


def test_cross_entropy_with_class_weights_is_torchs() -> None:
    weights = torch.tensor([0.5, 1, 2, 3, 1.5], dtype=torch.float64)
    theirs = torch.nn.functional.cross_entropy(SCORES, SOFT, weight=weights)
    assert torch.allclose(cross_entropy(SCORES, SOFT * weights), theirs, rtol=1e-12)


def test_hinge_by_its_equation() -> None:
    by_hand = 0.0
    for row, y in zip(SCORES.tolist(), INDEX.tolist(), strict=True):
        by_hand += sum(max(0.0, s - row[y] + 1) for j, s in enumerate(row) if j != y) / len(SCORES)
    assert float(hinge(SCORES, ONE_HOT)) == pytest.approx(by_hand, rel=1e-12)
    # torch divides by the number of classes.
    assert torch.allclose(hinge(SCORES, ONE_HOT), 5 * torch.nn.functional.multi_margin_loss(SCORES, INDEX), rtol=1e-12)


def test_hinge_bounds_the_crammer_singer_loss() -> None:
    # scikit-learn takes the worst violation, this one their sum.
    worst = hinge_loss(INDEX.numpy(), SCORES.numpy(), labels=range(5))
    assert worst < float(hinge(SCORES, ONE_HOT)) <= 4 * worst


def test_losses_are_linear_in_the_target() -> None:
    for loss in (cross_entropy, hinge):
        mixed = loss(SCORES, 0.3 * ONE_HOT + 0.7 * SOFT)
        assert torch.allclose(mixed, 0.3 * loss(SCORES, ONE_HOT) + 0.7 * loss(SCORES, SOFT), rtol=1e-12)


def test_squared_error() -> None:
    assert torch.allclose(squared_error(SCORES, ONE_HOT), torch.nn.functional.mse_loss(SCORES, ONE_HOT) * 5, rtol=1e-12)
