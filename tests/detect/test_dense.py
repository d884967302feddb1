"""RetinaNet and FCOS: their own traps, and that they learn."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import foveal
from foveal.catalog import variant
from foveal.detect.fcos import FCOS, centerness
from foveal.detect.retinanet import RetinaNet, sizes_from
from foveal.explain.gradcam import gradcam
from foveal.losses.boxes import iou_loss
from foveal.ops.boxes import iou
from foveal.structures import Batch, Objects

NANO = ["retinanet_nano", "fcos_nano"]


def batch(system, targets):
    draw = torch.Generator().manual_seed(0)
    images = list(torch.rand(len(targets), 3, *system.preprocess.size, generator=draw))
    plain = system.preprocess.batch(images)
    return Batch(plain.images, tuple(targets), plain.indices, plain.affines, plain.sizes)


def objects(*boxes, labels=None, **more):
    count = len(boxes)
    chosen = torch.zeros(count, dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Objects(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), chosen, **more)


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize(
    "target",
    [
        objects(),
        objects((10, 10, 60, 60), crowd=torch.tensor([True])),
        objects((10, 10, 60, 60), ignored=torch.tensor([True])),
        objects((30, 30, 31, 31)),
        objects((0, 0, 96, 96)),
        objects(*[(10, 10, 50, 50)] * 3, labels=[0, 1, 1]),
        objects(*[(n % 80, n // 40, n % 80 + 9, n // 40 + 9) for n in range(3000)]),
    ],
    ids=["none", "crowd", "ignored", "one pixel", "all of it", "thrice the same", "thousands"],
)
def test_loss_is_finite_whatever_there_is(name, target):
    torch.manual_seed(0)
    system = foveal.create(name)
    terms = system.loss(batch(system, [target, target]))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    learned = target if target.crowd is None and target.ignored is None else objects()
    # The one pixel lies between the places of FCOS.
    unseen = name == "fcos_nano" and torch.equal(learned.boxes[:, 2:] - learned.boxes[:, :2], torch.ones(1, 2))
    assert (float(terms["box"].detach()) > 0) == (len(learned) > 0 and not unseen)


@pytest.mark.parametrize("name", NANO)
def test_order_and_company_do_not_matter(name):
    torch.manual_seed(0)
    system = foveal.create(name)
    one, other = objects((10, 10, 40, 40), (50, 50, 90, 80), labels=[0, 1]), objects((20, 20, 70, 60), labels=[2])
    both = batch(system, [one, other])
    swapped = replace(both, images=both.images.flip(0), targets=(other, one[torch.tensor([1, 0])]))
    first, second = system.loss(both), system.loss(swapped)
    for term in first:
        assert torch.allclose(first[term], second[term], rtol=1e-4)


@pytest.mark.parametrize("name", NANO)
def test_begins_with_rare_objects(name):
    torch.manual_seed(0)
    system = foveal.create(name)
    with torch.no_grad():
        found = system.candidates(system(torch.rand(1, 3, 96, 96)))[0]
    wanted = (0.01 * 0.5) ** 0.5 if name == "fcos_nano" else 0.01  # that of FCOS is a mean with a centerness of a half
    assert float(found.scores.mean()) == pytest.approx(wanted, rel=0.2)


def test_losses_are_arguments():
    torch.manual_seed(0)
    name = "fcos_nano"
    system = foveal.create(name)
    own = FCOS(fresh(name), box_loss=iou_loss)
    own.load_state_dict(system.state_dict())
    data = batch(system, [objects((10, 10, 60, 60))])
    assert float(own.eval().loss(data)["box"].detach()) != float(system.loss(data)["box"].detach())
    assert foveal.create(name, box_loss="iou").loss(data)["box"].item() > 0
    none = RetinaNet(fresh("retinanet_nano"), class_loss=lambda scores, target: 0 * scores)
    assert float(none.loss(data)["class"]) == 0


def fresh(name):
    """The variant with a backbone of its own, whose end is still there."""
    spec = variant(name)
    return replace(spec, backbone=foveal.create(spec.backbone))


def test_anchors_cover_what_lies_between_the_levels():
    sizes = [size for row in sizes_from(32, 64, 128, 256, 512) for size in row]
    assert sizes[:4] == [32, 40, 50, 64]
    assert max(high / low for low, high in pairwise(sizes)) < 1.29


def test_places_of_fcos_by_loops():
    """The rule of the paper, place by place and object by object."""
    torch.manual_seed(0)
    system = foveal.create("fcos_nano")
    outputs = system(torch.rand(1, 3, 96, 96))
    corner = 70 * torch.rand(12, 2)
    boxes = torch.cat([corner, (corner + 3 + 80 * torch.rand(12, 2)).clamp(max=96)], 1)
    boxes[1] = boxes[0]
    found = system.assign(boxes, outputs).tolist()
    steps = system.spec.steps
    for place, ((x, y), level) in enumerate(zip(outputs.points.tolist(), outputs.level.tolist(), strict=True)):
        step, best = steps[level], (float("inf"), -1)
        for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            sides = x - x1, y - y1, x2 - x, y2 - y
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 1.5 * step
            low, high = 4 * step * (level > 0), 8 * step if level < 2 else float("inf")
            if min(sides) > 0 and near and low < max(sides) < high:
                best = min(best, ((x2 - x1) * (y2 - y1), k))
        assert found[place] == best[1], (x, y, level)
    assert len(set(found)) > 4


def test_centerness():
    sides = torch.tensor([[5.0, 5, 5, 5], [1, 5, 4, 5], [1, 2, 4, 8]])
    assert torch.allclose(centerness(sides), torch.tensor([1.0, 0.5, 0.25]))


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("retinanet_nano", {"sizes": ((8, 10),)}, "3 maps"),
        ("retinanet_nano", {"sizes": ((8,), (10, 12), (20,))}, "as many sizes"),
        ("retinanet_nano", {"strides": (4, 8, 64)}, "none with 64"),
        ("fcos_nano", {"steps": (4, 8)}, "3 maps"),
        ("fcos_nano", {"radius": 0.0}, "radius"),
        ("fcos_nano", {"depth": 0}, "depth"),
        ("fcos_nano", {"box_loss": "l3"}, "no box_loss"),
    ],
)
def test_fields_that_do_not_go_together(name, fields, text):
    with pytest.raises(foveal.InputError, match=text):
        foveal.create(name, **fields)


@pytest.mark.parametrize("name", NANO)
def test_learns_two_images_by_heart(name):
    torch.manual_seed(0)
    system = foveal.create(name, backbone=foveal.create("resnet10_nano", width=16), width=16, depth=1)
    truths = [objects((8, 12, 44, 40), (50, 50, 90, 92), labels=[0, 1]), objects((30, 20, 70, 80), labels=[2])]
    data = batch(system, truths)
    for image, truth in zip(data.images, truths, strict=True):
        for (x1, y1, x2, y2), label in zip(truth.boxes.int().tolist(), truth.labels.tolist(), strict=True):
            image[:, y1:y2, x1:x2] = torch.tensor([label == 0, label == 1, label == 2]).float().view(3, 1, 1)
    optimizer = torch.optim.AdamW(system.train().parameters(), 0.005)
    for _ in range(60):
        optimizer.zero_grad()
        sum(system.loss(data).values()).backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 5)
        optimizer.step()
    for module in system.modules():  # statistics of these images, which a few steps do not gather
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        system(data.images)
    for found, truth in zip(system.predict(list(data.images)), truths, strict=True):
        best = found[: len(truth)]
        overlap = iou(truth.boxes, best.boxes)
        assert (overlap.amax(1) > 0.6).all()
        assert torch.equal(best.labels[overlap.argmax(1)], truth.labels)


@pytest.mark.parametrize("name", NANO)
def test_says_why_a_box(name):
    torch.manual_seed(0)
    system = foveal.create(name)
    image = torch.rand(1, 3, 96, 96)
    for target in (system.labels[0], objects((10, 10, 60, 60))):
        assert gradcam(system, image, target).abs().max() > 0


def test_a_batch_without_targets_is_refused():
    system = foveal.create("fcos_nano")
    with pytest.raises(foveal.InputError, match="no targets"):
        system.loss(system.preprocess.batch([torch.rand(3, 96, 96)]))
