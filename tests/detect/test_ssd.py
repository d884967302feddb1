"""What parity cannot see of SSD: matching and mining by loops, odd images, settings that do not fit, that it learns."""

import math

import pytest
import torch

from foveal.build import create, load
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.structures import Batch, Objects
from foveal.train import checkpoint

LABELS = ("a", "b", "c")
# On VGG, but narrow, of three stages, and of two maps more.
SMALL = {
    "labels": LABELS,
    "strides": (2, 4),
    "hidden": 8,
    "extra": ((4, 6, 3, 2, 1), (4, 6, 3, 1, 0)),
    "shapes": (4, 6, 2, 4),
    "scales": (0.2, 0.35, 0.5, 0.7, 0.9),
    "image_size": 32,
}


def small(**fields):
    torch.manual_seed(0)
    backbone = create("vgg_nano", widths=(4, 6, 8))
    return create("ssd300_vgg16", **{"backbone": backbone, **SMALL, **fields})


def objects(*rows, **fields):
    """Objects from rows (label, x1, y1, x2, y2)."""
    labels = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    return Objects(torch.tensor([row[1:] for row in rows], dtype=torch.float32).view(-1, 4), labels, **fields)


def batch_of(system, *targets):
    draw = torch.Generator().manual_seed(1)
    batch = system.preprocess.batch([torch.rand(3, *system.preprocess.size, generator=draw) for _ in targets])
    return Batch(batch.images, targets, batch.indices, batch.affines, batch.sizes)


def test_default_boxes_of_the_paper():
    """8732 at 300 pixels and 24564 at 512, whose maps have 64, 32, 16, 8, 4, 2 and 1 places."""
    for name, count, places in (
        ("ssd300_vgg16", 8732, [38, 19, 10, 5, 3, 1]),
        ("ssd512_vgg16", 24564, [64, 32, 16, 8, 4, 2, 1]),
    ):
        narrow = create("vgg16", widths=(2, 2, 2, 2, 2))
        system = create(name, labels=LABELS, backbone=narrow, hidden=2)
        images = torch.rand(1, 3, *system.preprocess.size)
        layers = [
            "backbone.network.stage4.relu3",
            "hidden.relu2",
            *(f"extra.{n}.relu2" for n in range(len(places) - 2)),
        ]
        with record(system, *layers) as seen:
            found = system(images)
        assert [seen[layer].shape[2] for layer in layers] == places
        assert found.boxes.shape == (count, 4)
        assert found.scores.shape == (1, count, 4)
        # The square of the first place of the first map, and the last box, which stands upright in the middle.
        side, scales = system.preprocess.size[0], system.spec.scales
        near = scales[0] * side / 2
        assert torch.allclose(found.boxes[0], torch.tensor([4 - near, 4 - near, 4 + near, 4 + near]))
        width, height = scales[-2] * 0.5**0.5 * side, min(1, scales[-2] * 2**0.5) * side
        last = torch.tensor([side - width, side - height, side + width, side + height]) / 2
        assert torch.allclose(found.boxes[-1], last)


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_loss_is_that_of_the_paper_box_by_box():
    system = small().double()
    targets = (
        objects((0, 2.0, 3, 20, 21), (2, 10, 10, 31, 30), (1, 0, 0, 5, 30)),
        objects(),
        objects((1, 8.0, 8, 9, 9)),
    )
    batch = batch_of(system, *targets)
    batch = Batch(batch.images.double(), batch.targets, batch.indices, batch.affines, batch.sizes)
    with torch.no_grad():
        found, losses = system(batch.images), system.loss(batch)
    box = score = 0.0
    total = 0
    for scores, deltas, truth in zip(found.scores, found.deltas, targets, strict=True):
        defaults, truths = found.boxes.tolist(), truth.boxes.tolist()
        match = {}
        for n, default in enumerate(defaults):
            overlaps = [overlap(default, true) for true in truths]
            if overlaps and max(overlaps) >= 0.5:
                match[n] = overlaps.index(max(overlaps))
        for g, true in enumerate(truths):
            overlaps = [overlap(default, true) for default in defaults]
            match[overlaps.index(max(overlaps))] = g
        losing = [-math.log(p) for p in scores.softmax(1)[:, 3].tolist()]  # of being called background
        others = sorted((loss for n, loss in enumerate(losing) if n not in match), reverse=True)
        score += sum(others[: 3 * len(match)])
        for n, g in match.items():
            score -= float(scores[n].log_softmax(0)[truth.labels[g]])
            (dx1, dy1, dx2, dy2), (x1, y1, x2, y2) = defaults[n], truths[g]
            dw, dh = dx2 - dx1, dy2 - dy1
            wanted = [
                10 * ((x1 + x2) - (dx1 + dx2)) / 2 / dw,
                10 * ((y1 + y2) - (dy1 + dy2)) / 2 / dh,
                5 * math.log((x2 - x1) / dw),
                5 * math.log((y2 - y1) / dh),
            ]
            for ours, theirs in zip(deltas[n].tolist(), wanted, strict=True):
                d = abs(ours - theirs)
                box += d * d / 2 if d < 1 else d - 0.5
        total += len(match)
    assert total > 10
    assert losses["box"].item() == pytest.approx(box / total, rel=1e-9)
    assert losses["class"].item() == pytest.approx(score / total, rel=1e-9)


def test_what_is_missing_or_difficult_trains_without_nan():
    system = small().train()
    nothing, point = objects(), objects((1, 8.0, 8, 8, 8))
    crowd = objects((0, 2.0, 3, 20, 21), crowd=torch.tensor([True]))
    ignored = objects((0, 2.0, 3, 20, 21), ignored=torch.tensor([True]))
    for targets in ((nothing, nothing), (crowd, ignored)):
        losses = system.loss(batch_of(system, *targets))
        assert [value.item() for value in losses.values()] == [0, 0]
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in system.parameters())
    sizes = [(0, 0.0, 0, 22, 22), (1, 6, 6, 26, 26), (2, 3, 3, 9, 9), (1, 1, 2, 14, 15), (0, 4.0, 4, 5, 5)]
    losses = system.loss(batch_of(system, objects(*sizes), nothing, point, crowd))
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    idle = [name for name, p in system.named_parameters() if not (p.grad.isfinite().all() and p.grad.abs().max() > 0)]
    assert idle == []


def test_crowds_and_difficult_objects_are_not_learned():
    system = small()
    alone = objects((0, 2.0, 3, 20, 21))
    mask = torch.tensor([False, True])
    beside = ((0, 2.0, 3, 20, 21), (1, 12, 12, 30, 30))
    expected = system.loss(batch_of(system, alone))
    for fields in ({"crowd": mask}, {"ignored": mask}):
        assert system.loss(batch_of(system, objects(*beside, **fields))) == expected
    assert system.loss(batch_of(system, objects(*beside))) != expected


def test_each_class_has_a_shortlist_of_its_own():
    system = small(shortlist=2, score_threshold=0.1, nms_threshold=1.0)
    found = system(torch.rand(1, 3, 32, 32))
    scores = torch.full_like(found.scores[0], -9.0)
    scores[:5, 0], scores[5, 1], scores[:, 3] = torch.arange(5.0), 4.0, 0.0
    found = type(found)(scores[None], torch.zeros_like(found.deltas), found.boxes)
    rows, labels = system.choose(system.candidates(found)[0])
    assert sorted(zip(labels.tolist(), rows.tolist(), strict=True)) == [(0, 3), (0, 4), (1, 5)]


def test_predictions_and_scores():
    system = small(detections=7)
    found, other = system.predict([torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8), torch.rand(3, 90, 33)])
    assert 0 < len(found) <= 7
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([70, 40, 70, 40])).all()
    assert (found.scores.diff() <= 0).all()
    assert len(other) <= 7
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    score = system.score(images, "b")
    assert score.shape == (2,)
    score.sum().backward()
    assert images.grad.abs().max() > 0
    assert system.get_submodule(system.explained_layer)
    assert small(backbone="resnet_nano", strides=(1, 4)).explained_layer == "last"


def test_a_checkpoint_rebuilds_it_with_its_backbone(tmp_path):
    system = small()
    checkpoint.save(tmp_path / "ssd.safetensors", checkpoint.describe(system), system.state_dict())
    again = load(tmp_path / "ssd.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(system(images).scores, again(images).scores)
    assert again.preprocess == system.preprocess


def test_colours_are_those_that_the_backbone_has_learned():
    assert small().preprocess.std == (1 / 255,) * 3  # VGG as it was before ImageNet
    learned = create("vgg_nano", widths=(4, 6, 8))
    learned.started_from = "a file"
    assert small(backbone=learned).preprocess.std == (0.5,) * 3
    assert small(backbone="resnet_nano").preprocess.std == (0.5,) * 3


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"shapes": (4, 6)}, r"there are 4 maps, so shapes must have 4 numbers and scales 5, not 2 and 5"),
        ({"shapes": (4, 6, 3, 4)}, "shapes must be even numbers, 2 or more"),
        ({"scales": (0.2, 0.0, 0.5, 0.7, 0.9)}, "scales must be above 0"),
        ({"extra": ((4, 6, 3, 2, 1), (4, 6, 1, 1, 1))}, r"extra has no layer of \(4, 6, 1, 1, 1\)"),
        ({"strides": (1, 2)}, "on a VGG of 3 stages strides are 2, 4"),
        ({"image_size": 16}, "takes images of 20 x 20 pixels or more, not 16 x 16"),
        ({"eps": 1e-3}, "eps and norm_momentum have no effect without norm"),
        ({"norm": True, "norm_momentum": 0.0}, "eps must be above 0, norm_momentum above 0 and at most 1"),
        ({"nms_threshold": 2.0}, "nms_threshold lies between 0 and 1"),
    ],
)
def test_settings_that_do_not_fit(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        small(**fields)


def test_it_overfits():
    system = small(backbone="resnet_nano", strides=(2, 4), norm=True).train()
    targets = objects((0, 2.0, 3, 20, 21), (2, 10, 10, 31, 30)), objects((1, 0.0, 5, 12, 17))
    batch = batch_of(system, *targets)
    optimizer = torch.optim.Adam(system.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        total = sum(system.loss(batch).values())
        total.backward()
        optimizer.step()
    assert float(total.detach()) < 0.2
    for found, truth in zip(system.decode(system(batch.images), batch), targets, strict=True):
        best = found[: len(truth)]
        order = best.labels.argsort()
        assert torch.equal(best.labels[order], truth.labels.sort().values)
        assert (best.boxes[order] - truth.boxes[truth.labels.argsort()]).abs().max() < 1.5
