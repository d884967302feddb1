"""Every detector that regresses boxes learns by every box loss, given as an argument or by name."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.build import _rebuilt, describe
from foveal.detect.regions import WEIGHTS, region_loss
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, Code, giou_loss
from foveal.structures import Batch, Objects
from tests.parity.compare import oracle, relative_error

# The term of boxes in what `loss` returns, and the module that regresses them.
DETECTORS = {
    "rpn_nano": ("proposal_box", "proposals.delta"),
    "faster_rcnn_nano": ("box", "predictor.delta"),
    "fast_rcnn_nano": ("box", "predictor.delta"),
    "rcnn_nano": ("box", "predictor.delta"),
    "retinanet_nano": ("box", "boxes.tell.deltas"),
    "fcos_nano": ("box", "boxes.tell.sides"),
    "ssd_nano": ("box", "box_heads"),
    "detr_nano": ("box", "box.4"),
}


def build(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return foveal.create(name, labels=("a", "b"), **fields)


def one_batch(system: Any, *boxes: tuple[float, ...]) -> Batch:
    draw = torch.Generator().manual_seed(1)
    batch = system.preprocess.batch([torch.rand(3, *system.preprocess.size, generator=draw) for _ in boxes])
    truths = tuple(Objects(torch.tensor([box]), torch.tensor([1])) for box in boxes)
    return Batch(batch.images, truths, batch.indices, batch.affines, batch.sizes)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_learns_by_every_loss(name: str) -> None:
    system, (term, layer) = build(name), DETECTORS[name]
    batch = one_batch(system, (10, 20, 50, 52), (30, 30, 90, 80))
    weights, values = list(system.get_submodule(layer).parameters()), set()
    owner = system.proposals if name == "rpn_nano" else system
    for loss in BOX_LOSSES.values():
        owner.box_loss = loss
        torch.manual_seed(2)  # of what is sampled
        value = system.loss(batch)[term]
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(value, weights)])
        assert gradient.isfinite().all(), loss
        assert gradient.abs().max() > 0, loss
        values.add(f"{value:.5g}")
    assert len(values) > 2  # losses of overlap agree where one box lies in the other, or centres are the same


def twice(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    return 2 * giou_loss(numbers, boxes, code)


@pytest.mark.parametrize("name", DETECTORS)
def test_by_argument_and_by_name(name: str) -> None:
    named = build(name, box_loss="giou")
    spec = replace(named.spec, backbone=foveal.create("resnet10_nano"))  # the other one has lost its end
    argued = type(named)(spec, box_loss=twice)
    argued.load_state_dict(named.state_dict())
    batch, values = one_batch(named, (10, 20, 50, 52), (30, 30, 90, 80)), []
    for system in (named, argued.eval()):
        torch.manual_seed(2)
        values.append(system.loss(batch)[DETECTORS[name][0]].item())
    assert values[1] == pytest.approx(2 * values[0], rel=1e-5)


def test_a_checkpoint_keeps_the_name() -> None:
    system = build("faster_rcnn_nano", box_loss="giou", proposal_box_loss="ciou")
    again = _rebuilt(describe(system))
    assert again.box_loss is giou_loss
    assert again.proposals.box_loss is BOX_LOSSES["ciou"]


def test_what_is_no_loss() -> None:
    with pytest.raises(InputError, match="faster_rcnn_nano has no box_loss 'gious'; did you mean giou"):
        foveal.create("faster_rcnn_nano", box_loss="gious")
    with pytest.raises(InputError, match="box_loss has no effect"):
        foveal.create("sliding_window_nano", box_loss="giou")


def test_gradient_of_giou_in_faster_rcnn_is_that_of_decoded_boxes() -> None:
    draw = torch.Generator().manual_seed(0)
    corner = 50 * torch.rand(12, 2, generator=draw)
    regions = torch.cat([corner, corner + 10 + 30 * torch.rand(12, 2, generator=draw)], 1)
    wanted = regions + 4 * torch.rand(12, 4, generator=draw)
    labels = torch.tensor([0, 1, 2] * 4)  # 2 is background
    deltas = torch.randn(12, 2, 4, generator=draw).requires_grad_()
    terms = region_loss(torch.zeros(12, 3), deltas, [regions[:5], regions[5:]], labels, wanted, giou_loss)
    coder = oracle("torchvision.models.detection._utils").BoxCoder(WEIGHTS)
    objects = labels < 2
    moved = coder.decode_single(deltas[objects, labels[objects]], regions[objects])
    theirs = oracle("torchvision.ops").generalized_box_iou_loss(moved, wanted[objects], reduction="sum") / 12
    assert terms["box"].item() == pytest.approx(theirs.item(), rel=1e-5)
    (one,), (two,) = (torch.autograd.grad(loss, deltas) for loss in (terms["box"], theirs))
    assert relative_error(one, two) < 1e-5


def test_faster_rcnn_trains_by_giou() -> None:
    system = build("faster_rcnn_nano", box_loss="giou", proposal_box_loss="giou", image_size=64).train()
    batch = one_batch(system, (10, 20, 34, 44), (30, 8, 60, 40))
    optimizer, losses = torch.optim.AdamW(system.parameters(), 0.003), []
    for _ in range(12):
        torch.manual_seed(2)
        terms = system.loss(batch)
        losses.append(sum(terms.values()).item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
