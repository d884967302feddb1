"""Losses of boxes against torchvision's, where it has them, and the equations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, Code, ciou_loss, deltas_from, diou_loss, giou_loss, iou_loss, l1, smooth_l1
from foveal.ops.boxes import cxcywh_to_xyxy, encode, xyxy_to_cxcywh
from tests.parity.compare import oracle, relative_error

PLAIN = Code(lambda boxes: boxes, lambda numbers: numbers)  # numbers are the boxes themselves


def boxes(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 60
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * 60], 1)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (giou_loss, "generalized_box_iou_loss"),
        (diou_loss, "distance_box_iou_loss"),
        (ciou_loss, "complete_box_iou_loss"),
    ],
)
def test_overlap(loss: Callable[..., Tensor], name: str) -> None:
    found, wanted = boxes(80, 1), boxes(80, 2)
    wanted[0] = found[0]
    ours, theirs = found.clone().requires_grad_(), found.clone().requires_grad_()
    one, two = loss(ours, wanted, PLAIN), getattr(oracle("torchvision.ops"), name)(theirs, wanted, eps=1e-15)
    assert relative_error(one, two) < 1e-9
    one[1:].sum().backward()
    two[1:].sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-9
    assert one[0].item() == pytest.approx(0)


def test_iou() -> None:
    found, wanted = boxes(80, 1), boxes(80, 2)
    overlap = oracle("torchvision.ops").box_iou(found, wanted).diagonal()
    meet = overlap > 0.01
    assert 20 < meet.sum() < 80
    assert relative_error(iou_loss(found, wanted, PLAIN)[meet], -overlap[meet].log()) < 1e-9


def test_distances_by_their_equations() -> None:
    found, wanted = torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[0.5, 1, 4, 2.9]])
    assert l1(found, wanted, PLAIN).tolist() == pytest.approx([0.5 + 2 + 0.1])
    code = PLAIN._replace(beta=1.0)
    assert smooth_l1(found, wanted, code).tolist() == pytest.approx([0.5**2 / 2 + (2 - 0.5) + 0.1**2 / 2])
    ninth = 0.5 - 1 / 18 + 2 - 1 / 18 + 0.1**2 * 9 / 2
    assert smooth_l1(found, wanted, PLAIN).tolist() == pytest.approx([ninth])


@pytest.mark.parametrize("loss", BOX_LOSSES.values(), ids=BOX_LOSSES)
def test_boxes_without_area_and_apart(loss: Callable[..., Tensor]) -> None:
    found = torch.tensor([[5.0, 5, 5, 5], [0, 0, 1, 1], [0, 0, 4, 4]], requires_grad=True)
    value = loss(found, torch.tensor([[5.0, 5, 5, 5], [90, 90, 91, 91], [1, 1, 3, 3]]), PLAIN)
    value.sum().backward()
    assert value.shape == (3,)
    assert value.isfinite().all()
    assert found.grad is not None
    assert found.grad.isfinite().all()
    assert loss(found[:0], found[:0].detach(), PLAIN).shape == (0,)


CODES = {
    "deltas": deltas_from(boxes(9, 3), (10, 10, 5, 5)),
    "centre and size": Code(xyxy_to_cxcywh, cxcywh_to_xyxy),
}


@pytest.mark.parametrize("loss", BOX_LOSSES.values(), ids=BOX_LOSSES)
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_the_right_numbers_cost_nothing(loss: Callable[..., Tensor], code: Code) -> None:
    """Whether a loss compares numbers or boxes, the zero is where the numbers stand for the true boxes."""
    wanted = boxes(9, 4)
    assert loss(code.encode(wanted), wanted, code).tolist() == pytest.approx([0] * 9, abs=1e-12)
    assert (loss(code.encode(wanted) + 0.1, wanted, code) > 1e-6).all()


def test_numbers_are_decoded_before_boxes_are_compared() -> None:
    references, wanted = boxes(9, 3), boxes(9, 4)
    deltas = (encode(wanted, references) + 0.1).requires_grad_()
    code = deltas_from(references)
    x, y, w, h = xyxy_to_cxcywh(references).unbind(1)
    dx, dy, dw, dh = deltas.unbind(1)
    moved = cxcywh_to_xyxy(torch.stack([x + dx * w, y + dy * h, w * dw.exp(), h * dh.exp()], 1))
    theirs = oracle("torchvision.ops").generalized_box_iou_loss(moved, wanted, eps=1e-15).sum()
    (one,) = torch.autograd.grad(giou_loss(deltas, wanted, code).sum(), deltas)
    (two,) = torch.autograd.grad(theirs, deltas)
    assert relative_error(one, two) < 1e-9


@pytest.mark.parametrize("loss", BOX_LOSSES.values(), ids=BOX_LOSSES)
def test_as_many_numbers_as_boxes(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match="N, 4"):
        loss(boxes(1, 1), boxes(3, 2), PLAIN)
