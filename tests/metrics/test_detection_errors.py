import numpy as np
import pytest
import torch

from foveal.errors import InputError
from foveal.metrics import coco_map, errors
from foveal.metrics.detection_errors import Error
from foveal.structures import Objects

from .test_detect import random_set

# Objects far apart; one is near another one's place by an IoU of 1/3, well by 2/3.
A, B, C = [0.0, 0, 60, 60], [200.0, 0, 260, 60], [400.0, 0, 460, 60]
NEAR_A, WELL_A, NEAR_B = [30.0, 0, 90, 60], [12.0, 0, 72, 60], [230.0, 0, 290, 60]


def objects(*entries: tuple[list[float], int, float], **flags: list[bool]) -> Objects:
    boxes = torch.tensor([box for box, _, _ in entries]).view(-1, 4)
    labels = torch.tensor([label for _, label, _ in entries], dtype=torch.long)
    scores = torch.tensor([score for _, _, score in entries])
    return Objects(boxes, labels, scores, **{name: torch.tensor(flag) for name, flag in flags.items()})


TWO = objects((A, 0, 1), (B, 1, 1))
# kind -> predictions for TWO with that error alone, how often, and the mean AP50 before it is mended
CASES = {
    "duplicate": (objects((A, 0, 0.9), (B, 1, 0.9), (WELL_A, 0, 0.8), (WELL_A, 0, 0.7)), 2, 1.0),
    "class": (objects((A, 0, 0.5), (B, 0, 0.9)), 1, 0.25),
    "location": (objects((A, 0, 0.5), (NEAR_B, 1, 0.9)), 1, 0.5),
    "both": (objects((A, 0, 0.5), (B, 1, 0.5), (NEAR_A, 1, 0.9)), 1, 0.75),
    "background": (objects((A, 0, 0.5), (B, 1, 0.5), (C, 1, 0.9), (C, 1, 0.8)), 2, (1 + 1 / 3) / 2),
    "missed": (objects((A, 0, 0.5)), 1, 0.5),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_alone(kind: str) -> None:
    found, count, before = CASES[kind]
    assert coco_map([found], [TWO], 2)["AP50"] == pytest.approx(before)
    figures = errors([found], [TWO], 2)
    assert {name: error.count for name, error in figures.items() if error.count} == {kind: count}
    assert figures[kind].cost == pytest.approx(1 - before)
    assert all(error.cost == pytest.approx(0) for name, error in figures.items() if name != kind)


def test_a_duplicate_before_a_right_one_costs() -> None:
    found = objects((A, 0, 0.9), (WELL_A, 0, 0.8), (B, 0, 0.7))
    figures = errors([found], [objects((A, 0, 1), (B, 0, 1))], 1)
    assert figures["duplicate"].count == 1
    # One of two recalls, 51 of 101 points, at a precision of 1, the others at 2/3.
    assert figures["duplicate"].cost == pytest.approx(50 / 101 / 3)


def test_of_two_misplaced_ones_the_better_is_mended() -> None:
    found = objects((NEAR_A, 0, 0.9), (NEAR_A, 0, 0.8))
    figures = errors([found], [objects((A, 0, 1))], 1)
    assert figures["location"] == Error(2, pytest.approx(1))
    # What is near an object that another one has found is left out when it is mended.
    figures = errors([objects((NEAR_A, 0, 0.9), (A, 0, 0.8))], [objects((A, 0, 1))], 1)
    assert figures["location"] == Error(1, pytest.approx(0.5))
    assert figures["missed"].count == 0


def test_nobody_errs_about_crowds_and_what_is_ignored() -> None:
    for flag in ("crowd", "ignored"):
        truths = objects((A, 0, 1), (B, 1, 1), **{flag: [False, True]})
        assert all(error == Error(0, 0) for error in errors([objects((A, 0, 0.9))], [truths], 2).values())
        assert all(error == Error(0, 0) for error in errors([objects((A, 0, 0.9), (B, 1, 0.9))], [truths], 2).values())
        # Of another class it is on nothing that is asked for.
        figures = errors([objects((A, 0, 0.9), (B, 0, 0.95))], [truths], 2)
        assert {name: error.count for name, error in figures.items() if error.count} == {"background": 1}
    second = objects((A, 0, 0.9), (B, 1, 0.9), (B, 1, 0.8))
    assert errors([second], [objects((A, 0, 1), (B, 1, 1), ignored=[False, True])], 2)["duplicate"].count == 1
    assert errors([second], [objects((A, 0, 1), (B, 1, 1), crowd=[False, True])], 2)["duplicate"].count == 0


def test_other_images_have_other_objects() -> None:
    figures = errors([objects((A, 0, 0.9)), objects()], [objects(), objects((A, 0, 1))], 1)
    assert {name: error.count for name, error in figures.items() if error.count} == {"background": 1, "missed": 1}


def test_every_wrong_detection_has_one_kind() -> None:
    counted = np.zeros(6)
    for seed in range(40):
        predictions, targets, classes = random_set(seed)
        figures = errors(predictions, targets, classes)
        counts = {name: error.count for name, error in figures.items()}
        assert all(error.cost >= -1e-12 for name, error in figures.items() if name != "missed")
        wrong = loop_wrong(predictions, targets, classes)
        assert sum(counts.values()) - counts["missed"] == wrong, seed
        counted += list(counts.values())
    assert (counted > 10).all()


def loop_wrong(predictions: list[Objects], targets: list[Objects], classes: int) -> int:
    """How many detections find nothing at an IoU of 1/2, one image, class and detection after the other."""
    wrong = 0
    for found, truth in zip(predictions, targets, strict=True):
        none = torch.zeros(len(truth), dtype=torch.bool)
        crowd = none if truth.crowd is None else truth.crowd
        ignored = crowd if truth.ignored is None else crowd | truth.ignored
        assert found.scores is not None
        order = found.scores.sort(descending=True, stable=True).indices
        for c in range(classes):
            taken = none.clone()
            for i in order[found.labels[order] == c][:100].tolist():
                x1, y1, x2, y2 = found.boxes[i].double().tolist()
                best: tuple[bool, float, int] | None = None
                for j, (u1, v1, u2, v2) in enumerate(truth.boxes.double().tolist()):
                    width, height = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
                    if truth.labels[j] != c or taken[j] or width <= 0 or height <= 0:
                        continue
                    size = (x2 - x1) * (y2 - y1)
                    union = size if crowd[j] else size + (u2 - u1) * (v2 - v1) - width * height
                    if width * height / union >= 0.5:
                        wish = (not bool(ignored[j]), width * height / union, j)
                        best = wish if best is None else max(best, wish)
                if best is None:
                    wrong += (x2 - x1) * (y2 - y1) >= 0  # a negative area does not count
                else:
                    taken[best[2]] = not crowd[best[2]]
    return wrong


def test_nothing_at_all_and_bad_bounds() -> None:
    assert all(error == Error(0, 0) for error in errors([], [], 3).values())
    assert errors([objects((A, 0, 0.9))], [objects()], 1)["background"] == Error(1, 0)
    nan = objects(([float("nan")] * 4, 0, 0.9))
    assert errors([nan], [nan], 1)["missed"] == Error(1, pytest.approx(1))
    with pytest.raises(InputError, match="0 < background < iou"):
        errors([], [], 1, iou=0.1)
