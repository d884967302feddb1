"""Losses of detectors against torchvision's, where it has them, and the equations."""

import pytest
import torch

from foveal.losses.detection import giou_loss, iou_loss, sigmoid_focal
from tests.parity.compare import oracle, relative_error


def boxes(count, seed):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 60
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * 60], 1)


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


def test_giou():
    found, wanted = boxes(80, 1), boxes(80, 2)
    wanted[0] = found[0]
    theirs = oracle("torchvision.ops").generalized_box_iou_loss(found, wanted)
    assert relative_error(giou_loss(found, wanted), theirs) < 1e-9
    assert giou_loss(found[:1], wanted[:1]).item() == pytest.approx(0)


def test_iou():
    found, wanted = boxes(80, 1), boxes(80, 2)
    overlap = oracle("torchvision.ops").box_iou(found, wanted).diagonal()
    meet = overlap > 0.01
    assert 20 < meet.sum() < 80
    assert relative_error(iou_loss(found, wanted)[meet], -overlap[meet].log()) < 1e-9


@pytest.mark.parametrize("loss", [giou_loss, iou_loss])
def test_boxes_without_area_and_apart(loss):
    found = torch.tensor([[5.0, 5, 5, 5], [0, 0, 1, 1], [0, 0, 4, 4]], requires_grad=True)
    value = loss(found, torch.tensor([[5.0, 5, 5, 5], [90, 90, 91, 91], [1, 1, 3, 3]]))
    value.sum().backward()
    assert value.isfinite().all()
    assert found.grad.isfinite().all()
    assert loss(found[:0], found[:0]).shape == (0,)
