"""What parity cannot see of two-stage detectors: odd images, settings that do not fit, that they learn."""

from dataclasses import replace

import pytest
import torch

import foveal
from foveal.detect.regions import Remembered
from foveal.detect.sliding_window import windows
from foveal.errors import InputError
from foveal.ops.boxes import iou
from foveal.structures import ANYTHING, Batch, Objects
from tests.toys import squares

NAMES = ["rpn_nano", "faster_rcnn_nano", "fast_rcnn_nano", "rcnn_nano", "sliding_window_nano"]


def build(name, **fields):
    torch.manual_seed(0)
    return foveal.create(name, **{"labels": ("a", "b"), **fields})


def batch_of(system, *targets):
    draw = torch.Generator().manual_seed(1)
    batch = system.preprocess.batch([torch.rand(3, *system.preprocess.size, generator=draw) for _ in targets])
    return Batch(batch.images, targets, batch.indices, batch.affines, batch.sizes)


def objects(boxes, **fields):
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.zeros(len(boxes), dtype=torch.int64), **fields
    )


ODD = {
    "nothing": objects([]),
    "a crowd": objects([[5, 5, 60, 60]], crowd=torch.tensor([True])),
    "too difficult": objects([[5, 5, 60, 60]], ignored=torch.tensor([True])),
    "a pixel": objects([[40, 40, 41, 41]]),
    "the corner": objects([[95, 95, 96, 96]]),
    "all of it, twice": objects([[0, 0, 96, 96], [0, 0, 96, 96]]),
    "thousands": objects([[n % 80, n // 40, n % 80 + 9, n // 40 + 9] for n in range(3000)]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ODD)
def test_losses_of_odd_images_are_finite(name, what):
    system = build(name)
    losses = system.loss(batch_of(system, ODD[what]))
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_crowds_are_not_learned(name):
    """A crowd and nothing are the same to learn from."""
    system = build(name)
    terms = []
    for target in (ODD["nothing"], ODD["a crowd"]):
        torch.manual_seed(0)
        terms.append(system.loss(batch_of(system, target)))
    assert all(torch.equal(terms[0][key], terms[1][key]) for key in terms[0])


def test_the_regions_of_an_image_are_proposed_once():
    asked = []

    def source(image, most):
        asked.append(float(image[0, 0, 0]))
        return torch.arange(4.0).repeat(int(10 * asked[-1]), 1)  # 1, 2 and 3 boxes

    kept = Remembered(source, most=5)
    one, two, three = (torch.full((3, 8, 8), value) for value in (0.125, 0.25, 0.375))
    first = kept(one, 9)
    first.zero_()  # what was given is the caller's
    assert kept(one.clone(), 9).tolist() == [[0, 1, 2, 3]]
    assert [len(kept(image, 9)) for image in (two, one, three, one)] == [2, 1, 3, 1]
    assert asked == [0.125, 0.25, 0.375]
    kept(two, 9)  # had to make room for the third; the first was asked for since
    kept(one, 8)
    assert asked[3:] == [0.25, 0.125]
    assert torch.equal(kept(three.bfloat16(), 9), torch.arange(4.0).repeat(3, 1).bfloat16())


def test_without_pyramid_the_last_stage_is_the_head():
    backbone = foveal.create("resnet10_nano")
    system = build("fasterrcnn_resnet50_c4", backbone=backbone, anchors=((16, 32),), image_size=96, proposals=20)
    batch = batch_of(system, objects([[10, 10, 50, 60]]))
    outputs = system(batch.images)
    assert outputs.seen.counts == (6 * 6 * 6,)
    assert outputs.classes.shape == (len(outputs.boxes[0]), 3)
    sum(system.loss(batch).values()).backward()
    assert system.backbone.network.stage4[0].branch.conv1.weight.grad.abs().max() > 0


def test_proposals_are_inside_the_image_and_apart():
    system = build("rpn_nano")
    batch = batch_of(system, ODD["nothing"], ODD["nothing"])
    seen = system(batch.images)
    for boxes in system.proposals.propose(seen, 50):
        assert 0 < len(boxes) <= 50
        assert boxes.min() >= 0
        assert boxes.max() <= 96
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


def test_images_in_which_nothing_is_proposed():
    system = build("faster_rcnn_nano", proposal_threshold=1.0)
    batch = batch_of(system, objects([[10, 10, 50, 60]]), ODD["nothing"])
    assert [len(boxes) for boxes in system(batch.images).boxes] == [0, 0]
    assert [len(found) for found in system.predict(list(batch.images))] == [0, 0]
    images = batch.images.requires_grad_()
    for target in ("a", objects([[10, 10, 50, 60]])):
        score = system.score(images, target)
        assert score.tolist() == [0, 0]
        score.sum().backward()  # what explains it asks for gradients
    sum(system.loss(batch).values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


def test_what_is_too_improbable_is_not_proposed():
    system = build("rpn_nano", proposal_threshold=0.5)
    seen = system(batch_of(system, ODD["nothing"]).images)
    unsure = torch.zeros_like(seen.objects).index_fill(1, torch.arange(0, seen.objects.shape[1], 3), -0.01)
    (every,) = system.proposals.propose(replace(seen, objects=unsure + 1), 10**6)
    (some,) = system.proposals.propose(replace(seen, objects=unsure), 10**6)
    assert 0 < len(some) < len(every)


def test_it_finds_anything_under_one_name():
    system = build("rpn_nano")
    assert system.labels == ANYTHING
    data = squares(6).relabel(ANYTHING)
    assert data.labels == ANYTHING


def test_windows_cover_the_image():
    boxes = windows((60, 90), (20, 200), (1.0, 2.0), 0.5, torch.device("cpu"))
    assert boxes.min() >= 0
    assert (boxes <= torch.tensor([90, 60, 90, 60])).all()
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=draw) * torch.tensor([70, 40])
    assert iou(torch.cat([corner, corner + 20], 1), boxes).amax(1).min() > 0.39  # a quarter of a side off both ways


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("faster_rcnn_nano", {"anchors": ((8,), (16,))}, "anchors give sizes for each of 4 maps"),
        ("faster_rcnn_nano", {"anchors": ((8,), (16,), (32, 40), (64,))}, "as many sizes of anchors"),
        ("faster_rcnn_nano", {"proposals": 0}, "proposals"),
        ("faster_rcnn_nano", {"strides": (3, 8, 16)}, "strides"),
        ("faster_rcnn_nano", {"region": 0}, "region"),
        ("rpn_nano", {"score_threshold": 2.0}, "score_threshold"),
        ("rpn_nano", {"proposal_threshold": -0.1}, "proposal_threshold"),
        ("fast_rcnn_nano", {"strides": (4, 8)}, "one stride"),
        ("rcnn_nano", {"context": 24}, "context"),
        ("sliding_window_nano", {"step": 0.0}, "step"),
    ],
)
def test_settings_that_do_not_fit(name, fields, text):
    with pytest.raises(InputError, match=text):
        foveal.create(name, **fields)


def test_learns_in_seconds():
    """One bright square of its own size in each of 16 images."""
    torch.manual_seed(0)
    system = foveal.create("faster_rcnn_nano", labels=("square",), image_size=64).train()
    images, targets = [], []
    for n in range(8):
        image, x, y, side = torch.zeros(3, 64, 64), 5 * n, 40 - 4 * n, 12 + n
        image[:, y : y + side, x : x + side] = 1
        images.append(image)
        targets.append(objects([[x, y, x + side, y + side]]))
    batch = system.preprocess.batch(images)
    batch = Batch(batch.images, tuple(targets), batch.indices, batch.affines, batch.sizes)
    optimizer = torch.optim.AdamW(system.parameters(), 0.003)
    for _ in range(40):
        optimizer.zero_grad()
        sum(system.loss(batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 10)
        optimizer.step()
    found = system.predict(images)
    overlaps = [
        float(iou(each.boxes[:1], truth.boxes)) if len(each) else 0.0
        for each, truth in zip(found, targets, strict=True)
    ]
    assert sum(overlap > 0.5 for overlap in overlaps) >= 7, overlaps
