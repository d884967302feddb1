import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import rel_entr, softmax
from sklearn.metrics import hinge_loss

from foveal.errors import InputError
from foveal.losses.classification import cross_entropy, distillation, hinge, logistic, squared_error

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


def test_cross_entropy_by_its_equation() -> None:
    by_hand = 0.0
    for row, y in zip(SCORES.tolist(), INDEX.tolist(), strict=True):
        by_hand -= math.log(math.exp(row[y]) / sum(math.exp(s) for s in row)) / len(SCORES)
    assert float(cross_entropy(SCORES, ONE_HOT)) == pytest.approx(by_hand, rel=1e-12)


def test_logistic_by_its_equation() -> None:
    by_hand = 0.0
    for row, y in zip(SCORES.tolist(), INDEX.tolist(), strict=True):
        shares = [1 / (1 + math.exp(-s)) for s in row]
        by_hand -= sum(math.log(p if j == y else 1 - p) for j, p in enumerate(shares)) / len(SCORES)
    assert float(logistic(SCORES, ONE_HOT)) == pytest.approx(by_hand, rel=1e-12)
    # torch's takes a probability for each class, which sum to one here, and the mean over classes.
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(SCORES, SOFT)
    assert torch.allclose(logistic(SCORES, SOFT), 5 * theirs, rtol=1e-12)


def test_cross_entropy_of_two_classes_is_the_logistic_loss_of_their_difference() -> None:
    scores, index = SCORES[:, :2], INDEX % 2
    difference = scores[:, 1] - scores[:, 0]
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(difference, index.double())
    assert torch.allclose(cross_entropy(scores, torch.nn.functional.one_hot(index, 2).double()), theirs, rtol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, logistic, hinge, squared_error])
def test_no_score_is_too_large(loss: Callable[..., torch.Tensor]) -> None:
    scores = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = loss(scores, target)
    found.backward()
    assert scores.grad.isfinite().all()
    # For cross-entropy 2000 more than needed; for each of two logistic losses 1000; for hinge 2001; for L2 the squares.
    most = {cross_entropy: 2000 / 2, logistic: 2000 / 2, hinge: 2001 / 2}
    assert found.item() == pytest.approx(most.get(loss, (999**2 + 1000**2 + 1001**2 + 1000**2) / 2))


def test_losses_are_linear_in_the_target() -> None:
    for loss in (cross_entropy, logistic, hinge, squared_error):
        mixed = loss(SCORES, 0.3 * ONE_HOT + 0.7 * SOFT)
        assert torch.allclose(mixed, 0.3 * loss(SCORES, ONE_HOT) + 0.7 * loss(SCORES, SOFT), rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_distillation_is_torchs_and_scipys_divergence(temperature: float) -> None:
    teacher = 2 * SCORES.roll(1, 0) + SOFT
    found = distillation(SCORES, teacher, temperature)
    p, q = (torch.distributions.Categorical(logits=scores / temperature) for scores in (teacher, SCORES))
    assert torch.allclose(found, temperature**2 * torch.distributions.kl_divergence(p, q).mean(), rtol=1e-12)
    p, q = (softmax(scores.numpy() / temperature, 1) for scores in (teacher, SCORES))
    assert float(found) == pytest.approx(temperature**2 * rel_entr(p, q).sum(1).mean(), rel=1e-12)
    assert distillation(SCORES, SCORES, temperature).abs() < 1e-12


def test_a_teacher_that_rules_a_class_out() -> None:
    scores = SCORES.clone().requires_grad_()
    certain = torch.full_like(SCORES, -torch.inf).scatter(1, INDEX[:, None], 0.0)
    found = distillation(scores, certain)
    found.backward()
    assert torch.allclose(found, torch.nn.functional.cross_entropy(SCORES, INDEX), rtol=1e-12)
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_a_high_temperature_compares_the_scores_themselves() -> None:
    """Section 2.1 of Hinton et al.: the gradient tends to (s - t) / C for scores of mean zero."""
    scores, teacher = (x - x.mean(1, keepdim=True) for x in (SCORES, SCORES.roll(1, 0)))
    scores.requires_grad_()
    (12 * distillation(scores, teacher, 1e4)).backward()
    torch.testing.assert_close(scores.grad, (scores - teacher).detach() / 5, rtol=1e-3, atol=1e-3)


def test_squared_error() -> None:
    assert torch.allclose(squared_error(SCORES, ONE_HOT), torch.nn.functional.mse_loss(SCORES, ONE_HOT) * 5, rtol=1e-12)
    by_hand = sum(
        sum((s - (j == y)) ** 2 for j, s in enumerate(row))
        for row, y in zip(SCORES.tolist(), INDEX.tolist(), strict=True)
    )
    assert float(squared_error(SCORES, ONE_HOT)) == pytest.approx(by_hand / len(SCORES), rel=1e-12)


def test_squared_error_pulls_towards_a_soft_row_and_its_least_value_is_exact() -> None:
    scores = SCORES.clone().requires_grad_()
    squared_error(scores, SOFT).backward()
    assert torch.allclose(scores.grad, 2 * (SCORES - SOFT) / len(SCORES), rtol=1e-12)
    near = ONE_HOT.float() + 1e-5
    assert float(squared_error(near, ONE_HOT.float())) == pytest.approx(5e-10, rel=0.02)


@pytest.mark.parametrize("loss", [cross_entropy, distillation, hinge, logistic, squared_error])
def test_a_target_of_class_indices_is_refused(loss: Callable[..., torch.Tensor]) -> None:
    """With as many images as classes it would broadcast."""
    for target in (torch.arange(5), torch.eye(5)[:3], torch.eye(5)[:, :4]):
        with pytest.raises(InputError, match=f"{loss.__name__} takes scores"):
            loss(torch.rand(5, 5), target)
