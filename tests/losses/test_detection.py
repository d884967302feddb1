"""Losses of detectors against torchvision's, where it has them, and the equations."""

import pytest
import torch

from foveal.errors import InputError
from foveal.losses.detection import sigmoid_focal
from tests.parity.compare import oracle, relative_error


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0)])
def test_focal(alpha, gamma):
    draw = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(50, 7, generator=draw, dtype=torch.float64)
    target = (torch.rand(50, 7, generator=draw) < 0.2).double()
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    found = sigmoid_focal(ours, target, alpha, gamma)
    wanted = oracle("torchvision.ops").sigmoid_focal_loss(theirs, target, alpha, gamma)
    assert relative_error(found, wanted) < 1e-12
    found.sum().backward()
    wanted.sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-12


def test_focal_by_its_equation_and_where_scores_are_extreme():
    p = torch.tensor([0.1, 0.9], dtype=torch.float64)
    found = sigmoid_focal(p.logit(), torch.tensor([1.0, 0.0], dtype=torch.float64))
    wanted = torch.tensor([-0.25 * 0.9**2 * p[0].log(), -0.75 * 0.9**2 * (1 - p[1]).log()], dtype=torch.float64)
    assert relative_error(found, wanted) < 1e-12
    scores = torch.tensor([-500.0, 500.0, -500.0, 500.0], requires_grad=True)
    loss = sigmoid_focal(scores, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 125, 375]
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_focal_of_answers_that_are_no_floats(kind):
    scores, target = torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.0])
    assert torch.equal(sigmoid_focal(scores, target.to(kind)), sigmoid_focal(scores, target))


@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_focal_with_soft_targets_is_that_of_torchvision(gamma):
    draw = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(50, 7, generator=draw, dtype=torch.float64)
    target = torch.rand(50, 7, generator=draw, dtype=torch.float64)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    found = sigmoid_focal(ours, target, 0.3, gamma)
    wanted = oracle("torchvision.ops").sigmoid_focal_loss(theirs, target, 0.3, gamma)
    assert relative_error(found, wanted) < 1e-12
    found.sum().backward()
    wanted.sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-12
    p, t = scores[0, 0].sigmoid(), target[0, 0]
    by_hand = -(0.3 * t + 0.7 * (1 - t)) * (1 - (t * p + (1 - t) * (1 - p))) ** gamma
    by_hand = by_hand * (t * p.log() + (1 - t) * (1 - p).log())
    assert found[0, 0].item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_focal_refuses_a_target_of_another_shape():
    with pytest.raises(InputError, match="of the shape of the scores"):
        sigmoid_focal(torch.rand(3, 2), torch.rand(2))
