"""DETR: what is padding, how answers are paired and told, images without objects, and that it learns."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

import foveal
from foveal.build import create
from foveal.detect.detr import Anchors, frames
from foveal.ops.boxes import cxcywh_to_xyxy, giou, iou, xyxy_to_cxcywh
from foveal.structures import Batch, Objects
from foveal.system import Preprocess

LABELS = ("a", "b", "c")
SMALL = {"width": 16, "heads": 2, "hidden": 24, "encoder_depth": 1, "decoder_depth": 2, "queries": 5, "dropout": 0.0}


def small(anchored=False, labels=LABELS, size=(64, 64), resize="squash", **fields):
    backbone = create("resnet_nano", width=8, stem="7x7")
    preprocess = Preprocess(size, resize, 1.0)
    fields = {**SMALL, "anchored": anchored, "strides": (8,), **fields}
    return create("detr_resnet50", labels=labels, backbone=backbone, preprocess=preprocess, frozen_norm=False, **fields)


def objects(*rows, **fields):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).view(-1, 4)
    return Objects(boxes, torch.tensor([row[4] for row in rows], dtype=torch.int64), **fields)


def batch_of(system, targets, seed=0):
    torch.manual_seed(seed)
    batch = system.preprocess.batch(list(torch.rand(len(targets), 3, *system.preprocess.size)))
    return replace(batch, targets=tuple(targets))


@pytest.fixture(params=[False, True], ids=["queries", "anchored"])
def system(request):
    torch.manual_seed(0)
    return small(request.param)


def test_what_the_map_has_in_padding_is_not_seen(system):
    images = torch.rand(2, 3, 64, 64)
    shown = torch.ones(2, 64, 64, dtype=torch.bool)
    shown[0, :, 40:] = shown[1, 33:] = False
    hidden = ~shown[:, None, ::8, ::8]
    noise, answers = torch.randn(2, 16, 8, 8), []
    for strength in (0.0, 100.0):
        handle = system.projection.register_forward_hook(lambda *seen, s=strength: seen[2] + s * hidden * noise)
        answers.append(system(images, shown))
        handle.remove()
    torch.testing.assert_close(answers[0].logits, answers[1].logits)
    torch.testing.assert_close(answers[0].boxes, answers[1].boxes)
    assert not torch.allclose(answers[0].logits, system(images).logits, rtol=1e-3)


def test_frames_are_what_is_shown():
    shown = torch.zeros(3, 5, 7, dtype=torch.bool)
    shown[0, :3, :4] = True
    shown[1, 2:, 1:] = True
    assert frames(shown).tolist() == [[0, 0, 4, 3], [1, 2, 7, 5], [0, 0, 7, 5]]


def test_nothing_shown_is_no_nan(system):
    images = torch.rand(1, 3, 64, 64)
    answers = system(images, torch.zeros(1, 64, 64, dtype=torch.bool))
    assert answers.logits.isfinite().all()
    assert answers.boxes.isfinite().all()


def test_pairs_cost_least():
    system = small()
    torch.manual_seed(3)
    logits, boxes = torch.randn(2, 5, 4), torch.rand(2, 5, 4)
    truths = [
        (torch.tensor([0, 2, 2]), cxcywh_to_xyxy(torch.rand(3, 4))),
        (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    ]
    image, query, truth = system.pairs(logits, boxes, truths)
    assert image.tolist() == [0, 0, 0]

    def cost(q, t):
        labels, wanted = truths[0]
        a, b = cxcywh_to_xyxy(boxes[0, q]), wanted[t]
        likely = float(logits[0, q].softmax(0)[labels[t]])
        far = float((boxes[0, q] - xyxy_to_cxcywh(b)).abs().sum())
        return -likely + 5 * far - 2 * float(giou(a[None], b[None])[0, 0])

    least = min(sum(cost(q, t) for t, q in enumerate(chosen)) for chosen in permutations(range(5), 3))
    found = sum(cost(q, t) for q, t in zip(query.tolist(), truth.tolist(), strict=True))
    assert found == pytest.approx(least, rel=1e-5)


def test_each_query_tells_its_best_class_and_none_is_suppressed():
    system = small(queries=6)
    answers = system(torch.rand(1, 3, 64, 64))
    logits = torch.zeros(1, 1, 6, 4)
    logits[..., 0], logits[..., 1] = 2.0, 1.0
    same = torch.full((1, 1, 6, 4), 0.5)
    batch = system.preprocess.batch([torch.rand(3, 30, 60)])
    (found,) = system.decode(replace(answers, logits=logits, boxes=same), batch)
    assert len(found) == 6
    assert found.labels.tolist() == [0] * 6
    torch.testing.assert_close(found.boxes, torch.tensor([[15.0, 7.5, 45.0, 22.5]]).repeat(6, 1))
    torch.testing.assert_close(found.scores, logits[0, 0].softmax(1)[:, 0])
    few = small(queries=6, detections=2)
    assert len(few.decode(replace(answers, logits=logits, boxes=same), batch)[0]) == 2


ODD = {
    "no objects": [objects(), objects()],
    "all crowd": [objects((0, 0, 30, 30, 1), crowd=torch.tensor([True])), objects()],
    "one pixel": [objects((5, 5, 6, 6, 0)), objects((0, 0, 64, 64, 2))],
    "no extent": [objects((5, 5, 5, 5, 0)), objects((9, 3, 9, 8, 1))],
    "more than queries": [objects(*((i, i, i + 9, i + 9, i % 3) for i in range(30))), objects()],
}


@pytest.mark.parametrize("targets", ODD.values(), ids=ODD)
def test_losses_of_odd_truths_are_finite(system, targets):
    terms = system.loss(batch_of(system, targets))
    assert set(terms) == {"class", "box", "giou", "auxiliary"}
    total = sum(terms.values())
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert system.classifier.weight.grad.abs().max() > 0


def test_a_gradient_reaches_every_parameter(system):
    """But those that the first layer's queries, which are zeros at first, have nothing to say with."""
    sum(system.loss(batch_of(system, [objects((5, 9, 30, 40, 1)), objects((0, 0, 64, 50, 2))])).values()).backward()
    silent = {n for n, p in system.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    anchored = isinstance(system.queries, Anchors)
    first = {f"decoder.0.attention.{x}.{y}" for x in "qk" for y in ("weight", "bias")}
    first |= {"decoder.0.attention.v.weight", "decoder.0.attention.out.weight", "decoder.0.norm1.weight"}
    assert silent <= (set() if anchored else first)


def test_the_loss_does_not_know_of_training(system):
    batch = batch_of(system, [objects((5, 9, 30, 40, 1)), objects()])
    for module in system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    terms = system.eval().loss(batch)
    assert terms.keys() == system.train().loss(batch).keys()


def test_boxes_are_relative_to_what_is_shown():
    """The same truth in an image alone and beside a larger one has the same place."""
    system = small(size=(64, 96), resize="bound")
    image = torch.rand(3, 64, 64)
    batch = system.preprocess.batch([image, torch.rand(3, 96, 64)])
    answers = system.outputs(batch)
    found = system.candidates(answers)[0].boxes[:, 0]
    expected = cxcywh_to_xyxy(answers.boxes[-1, 0]) * 64
    torch.testing.assert_close(found, expected)


def test_wrong_settings():
    with pytest.raises(foveal.InputError, match="dilated is for the last stage of a ResNet"):
        small(strides=(8,), dilated=True)
    with pytest.raises(foveal.InputError, match="dilated is for the last stage of a ResNet"):
        foveal.create("detr_nano", backbone="mobilenet_v2_nano", strides=(4,), dilated=True)
    with pytest.raises(foveal.InputError, match="multiple of 4"):
        small(width=18)
    with pytest.raises(foveal.InputError, match="heads"):
        small(heads=3)
    with pytest.raises(foveal.InputError, match="queries is at least 1"):
        small(queries=0)


def test_learns_where_squares_are():
    """A bright square on a dark ground, in seconds."""
    torch.manual_seed(0)
    system = small(True, labels=("square",), size=(32, 32), decoder_depth=1).train()
    draw = torch.Generator().manual_seed(0)

    def batch(count: int) -> Batch:
        images, targets = torch.rand(count, 3, 32, 32, generator=draw) * 0.2, []
        for image in images:
            side = int(torch.randint(10, 20, (), generator=draw))
            x, y = torch.randint(0, 32 - side, (2,), generator=draw).tolist()
            image[:, y : y + side, x : x + side] = 1
            targets.append(objects((x, y, x + side, y + side, 0)))
        return replace(system.preprocess.batch(list(images)), targets=tuple(targets))

    optimizer = torch.optim.AdamW(system.parameters(), 2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(system.loss(batch(8)).values()).backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
        optimizer.step()
    held = batch(32)
    found = system.predict(list(held.images))
    overlaps = torch.stack([iou(f.boxes[:1], t.boxes)[0, 0] for f, t in zip(found, held.targets, strict=True)])
    assert (overlaps > 0.5).float().mean() > 0.8
