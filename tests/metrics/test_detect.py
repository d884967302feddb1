import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch

from foveal.errors import InputError
from foveal.metrics import coco_map, precision_recall, voc_ap
from foveal.metrics.detect import FIGURES, DetectEvaluator
from foveal.structures import Batch, Objects
from foveal.train.evaluate import evaluator


def random_set(seed: int) -> tuple[list[Objects], list[Objects], int]:
    """A data set on a coarse grid, so that scores, overlaps and areas at the borders of the sizes often tie."""
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(1, 6))
    used = int(draw.integers(1, classes + 1))  # the classes beyond have no truths
    predictions, targets = [], []
    step = int(draw.choice([1, 8, 16]))
    for _ in range(int(draw.integers(1, 12))):
        number = int(draw.choice([0, 1, 3, 8]))
        low = draw.integers(0, 12, (number, 2)) * step
        truth = np.concatenate([low, low + draw.integers(1, 14, (number, 2)) * step], 1)
        if number and draw.random() < 0.3:
            truth[-1] = truth[0]
        labels = draw.integers(0, used, number)
        many = int(draw.choice([0, 2, 10, 40] if draw.random() < 0.9 else [300]))
        low = draw.integers(0, 12, (many, 2)) * step
        boxes = np.concatenate([low, low + draw.integers(0, 14, (many, 2)) * step], 1).astype(float)
        guess = draw.integers(0, 1 if many == 300 else classes, many)
        if number:
            near = draw.random(many) < 0.7
            whose = draw.integers(0, number, many)
            jitter = draw.integers(-1, 2, (many, 4)) * step * draw.choice([0, 0.25, 1], (many, 1))
            boxes[near] = (truth[whose] + jitter)[near]
            guess[near] = labels[whose][near]
        scores = draw.integers(0, 10, many) / 10 if draw.random() < 0.7 else draw.random(many)
        kinds = draw.random((3, number))
        extra: dict[str, Any] = {}
        if draw.random() < 0.5:
            extra["crowd"] = torch.tensor(kinds[0] < 0.3)
        if draw.random() < 0.5:
            extra["ignored"] = torch.tensor(kinds[1] < 0.3)
        if draw.random() < 0.4:
            extra["areas"] = torch.tensor(draw.choice([0.0, 1024.0, 9216.0, 500.0, 1e5], number))
        targets.append(Objects(torch.tensor(truth).float().view(-1, 4), torch.tensor(labels), **extra))
        predictions.append(Objects(torch.tensor(boxes).float().view(-1, 4), torch.tensor(guess), torch.tensor(scores)))
    return predictions, targets, classes


def oracle(predictions: list[Objects], targets: list[Objects], classes: int) -> np.ndarray:
    """The twelve figures by pycocotools, taught that truths other than crowds can be ignored."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    class Evaluation(cocoeval.COCOeval):
        def _prepare(self) -> None:
            super()._prepare()
            for truths in self._gts.values():
                for truth in truths:
                    truth["ignore"] = truth["iscrowd"] or truth["difficult"]

    truths, found = [], []
    for image, target in enumerate(targets):
        for i, (x1, y1, x2, y2) in enumerate(target.boxes.double().tolist()):
            area = (x2 - x1) * (y2 - y1)
            if target.areas is not None:
                area = float(target.areas[i])
            elif target.masks is not None:
                area = float(target.masks[i].sum())
            entry = {"id": len(truths) + 1, "image_id": image, "category_id": int(target.labels[i]), "area": area}
            crowd = int(target.crowd is not None and target.crowd[i])
            difficult = int(target.ignored is not None and target.ignored[i])
            truths.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": crowd, "difficult": difficult})
    for image, objects in enumerate(predictions):
        assert objects.scores is not None
        for (x1, y1, x2, y2), label, score in zip(
            objects.boxes.double().tolist(), objects.labels.tolist(), objects.scores.double().tolist(), strict=True
        ):
            entry = {"image_id": image, "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            found.append({**entry, "id": len(found) + 1, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
    images, categories = [{"id": image} for image in range(len(targets))], [{"id": c} for c in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truths, found):
            side = coco.COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = Evaluation(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_the_twelve_figures_are_those_of_pycocotools() -> None:
    seen = []
    for seed in range(220):
        data = random_set(seed)
        figures, expected = list(coco_map(*data).values()), oracle(*data)
        assert np.abs(np.array(figures) - expected).max() < 1e-9, seed
        seen.append(figures)
    # The sets are neither trivial nor all alike, and each figure is sometimes there.
    assert all(len(set(column)) > 20 for column in zip(*seen, strict=True))


def test_areas_are_those_of_the_masks_where_nothing_else_is_given() -> None:
    mask = torch.zeros(2, 300, 300, dtype=torch.bool)
    mask[0, :100, :20] = mask[1, :200, :200] = True  # in a box of 100 x 100: medium by its mask, large by its box
    target = Objects(torch.tensor([[0, 0, 100, 100.0], [0, 0, 200, 200]]), torch.zeros(2).long(), masks=mask)
    found = Objects(target.boxes, target.labels, torch.tensor([0.9, 0.8]))
    figures = coco_map([found], [target], 1)
    assert np.abs(np.array(list(figures.values())) - oracle([found], [target], 1)).max() < 1e-9
    assert figures["APm"] == figures["APl"] == figures["AP"] == pytest.approx(1)
    assert figures["APs"] == -1


def test_what_is_ignored_neither_helps_nor_harms() -> None:
    box = torch.tensor([[0, 0, 50, 50.0], [100, 100, 150, 150], [100, 100, 110, 110], [101, 100, 151, 150]])
    one = torch.zeros(4, dtype=torch.long)
    found = Objects(box, one, torch.tensor([0.5, 0.9, 0.8, 0.7]))
    crowd = Objects(box[:2], one[:2], crowd=torch.tensor([False, True]))
    difficult = Objects(box[:2], one[:2], ignored=torch.tensor([False, True]))
    assert coco_map([found], [crowd], 1)["AP"] == pytest.approx(1)  # three lie in the crowd
    # One finds the ignored truth, one lies in it but is not it, one comes second: two are wrong before the right one.
    assert coco_map([found], [difficult], 1)["AP"] == pytest.approx(1 / 3)
    assert coco_map([found[:2]], [difficult], 1)["AP"] == pytest.approx(1)


def test_nothing_found_and_nothing_there() -> None:
    none = Objects(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0))
    one = Objects(torch.tensor([[0, 0, 50, 50.0]]), torch.zeros(1).long(), torch.ones(1))
    assert set(coco_map([], [], 3).values()) == {-1}
    assert set(coco_map([none, one], [none, none], 3).values()) == {-1}
    assert set(coco_map([none], [one], 3).values()) == {0, -1}
    assert coco_map([none, one], [none, one], 3)["AP"] == pytest.approx(1)


def test_boxes_and_scores_may_hold_anything() -> None:
    nan, inf = float("nan"), float("inf")
    odd = torch.tensor([[nan, 0, 50, 50], [0, 0, inf, inf], [-inf, -inf, inf, inf], [50, 50, 0, 0], [nan] * 4])
    right = torch.tensor([[0, 0, 50, 50.0]])
    boxes = torch.cat([odd, right])
    found = Objects(boxes, torch.zeros(6).long(), torch.tensor([0.9, 0.8, nan, 0.7, 0.6, 0.5]))
    figures = coco_map([found], [Objects(right, torch.zeros(1).long())], 1)
    assert figures["AP"] == pytest.approx(1 / 4)  # after three wrong ones; infinite areas are beyond all ranges
    assert coco_map([found], [Objects(boxes, torch.zeros(6).long())], 1)["AR100"] < 1


def test_types_and_gradients_do_not_matter() -> None:
    predictions, targets, classes = random_set(3)
    other = [Objects(p.boxes.double().requires_grad_(), p.labels.int(), p.scores) for p in predictions]
    assert coco_map(other, targets, classes) == coco_map(predictions, targets, classes)


def test_an_image_of_thirty_thousand_objects() -> None:
    corner = torch.stack(torch.meshgrid(torch.arange(200.0), torch.arange(150.0), indexing="ij"), -1).view(-1, 2) * 10
    truth = Objects(torch.cat([corner, corner + 10], 1), torch.arange(30000) % 3)
    figures = coco_map([Objects(truth.boxes, truth.labels, torch.rand(30000))], [truth], 3)
    assert figures["AR100"] == pytest.approx(0.01)
    assert figures["AP"] == pytest.approx(2 / 101)  # recalls 0 and .01


def test_bad_input_is_told_in_a_line() -> None:
    box, label = torch.zeros(1, 4), torch.zeros(1).long()
    found, truth = Objects(box, label, torch.ones(1)), Objects(box, label)
    with pytest.raises(InputError, match="predictions of image 1 have no scores"):
        coco_map([found, truth], [truth, truth], 1)
    with pytest.raises(InputError, match="of 1 images and targets of 2"):
        coco_map([found], [truth, truth], 1)
    with pytest.raises(InputError, match="targets of image 1 have the label 3, which is none of 2 classes"):
        coco_map([found, found], [truth, Objects(box, label + 3)], 2)
    with pytest.raises(InputError, match="predictions of image 0 have the label -1"):
        coco_map([Objects(box, label - 1, torch.ones(1))], [truth], 2)


class Fixed:
    """A detector that is shown what to find: the indices of the batch say which predictions are its own."""

    task, labels = "detect", ("a", "b", "c", "d", "e")

    def __init__(self, predictions: list[Objects]) -> None:
        self.predictions = predictions

    def outputs(self, batch: Batch) -> list[int]:
        return batch.indices.tolist()

    def decode(self, outputs: list[int], batch: Batch) -> list[Objects]:
        return [self.predictions[i] for i in outputs]


def test_the_evaluator_collects_batches_and_merges() -> None:
    predictions, targets, _ = random_set(12)
    assert len(targets) > 4
    system, none = Fixed(predictions), torch.zeros(0)
    whole, parts = evaluator(system), [evaluator(system) for _ in range(3)]  # the last sees nothing
    for number, indices in enumerate(torch.arange(len(targets)).split(2)):
        batch, truths = Batch(none, (), indices, none, none), [targets[i] for i in indices]
        whole.update(system, batch, truths)
        parts[number % 2].update(system, batch, truths)
    expected = coco_map(predictions, targets, 5)
    names = ("mAP", "mAP50", "mAP75", "mAPs", "mAPm", "mAPl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    pairs = zip(names, expected.values(), strict=True)
    assert whole.compute() == {name: value for name, value in pairs if value >= 0}
    merged, *others = parts
    for other in others:
        merged.merge(other)
    assert isinstance(merged, DetectEvaluator)
    assert len(merged.predictions) == len(merged.truths) == len(targets)
    assert set(merged.compute()) == set(whole.compute())
    assert whole.criteria[0][0] in whole.compute()


def test_the_evaluator_keeps_areas_rather_than_masks() -> None:
    mask = torch.zeros(1, 60, 60, dtype=torch.bool)
    mask[:, :20, :20] = True
    truth = Objects(torch.tensor([[0, 0, 50, 50.0]]), torch.zeros(1).long(), masks=mask)
    found = Objects(truth.boxes, truth.labels, torch.ones(1), masks=mask)
    system, none = Fixed([found]), torch.zeros(0)
    it = DetectEvaluator(5)
    it.update(system, Batch(none, (), torch.tensor([0]), none, none), [truth])
    assert it.predictions[0].masks is None
    assert it.truths[0].masks is None
    assert it.compute()["mAPs"] == pytest.approx(1)
    assert "mAPl" not in it.compute()


def box_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def voc_by_loop(predictions: list[Objects], targets: list[Objects], c: int, iou: float, points: str) -> float | None:
    """The rules of the VOC development kit, one detection after the other."""
    truths: list[list[Any]] = []
    for image, target in enumerate(targets):
        for i, box in enumerate(target.boxes.tolist()):
            skipped = any(flag is not None and bool(flag[i]) for flag in (target.crowd, target.ignored))
            if target.labels[i] == c:
                truths.append([image, box, skipped, False])
    found = []
    for image, objects in enumerate(predictions):
        assert objects.scores is not None
        for box, label, score in zip(
            objects.boxes.tolist(), objects.labels.tolist(), objects.scores.tolist(), strict=True
        ):
            if label == c:
                found.append((score, image, box))
    asked = sum(not skipped for _, _, skipped, _ in truths)
    if not asked:
        return None
    right = wrong = 0
    curve = []
    for _, image, box in sorted(found, key=lambda entry: -entry[0]):
        best, truth = 0.0, None
        for other in truths:
            if other[0] == image and box_iou(box, other[1]) > best:
                best, truth = box_iou(box, other[1]), other
        if truth is None or best < iou:
            wrong += 1
        elif truth[2]:
            continue
        elif truth[3]:
            wrong += 1
        else:
            truth[3] = True
            right += 1
        curve.append((right, right / (right + wrong)))
    if points == "eleven":
        return sum(max([p for r, p in curve if 10 * r >= k * asked], default=0) for k in range(11)) / 11
    return sum(max([p for r, p in curve if r >= n], default=0) for n in range(1, asked + 1)) / asked


@pytest.mark.parametrize("points", ["area", "eleven"])
def test_voc_is_that_of_a_loop_over_detections(points: Any) -> None:
    seen = set()
    for seed in range(60):
        predictions, targets, classes = random_set(seed)
        iou = (0.5, 0.3, 0.75)[seed % 3]
        mean, figures = voc_ap(predictions, targets, classes, iou, points)
        expected = {c: voc_by_loop(predictions, targets, c, iou, points) for c in range(classes)}
        expected = {c: value for c, value in expected.items() if value is not None}
        assert figures == pytest.approx(expected, rel=1e-12), seed
        assert mean == pytest.approx(sum(expected.values()) / len(expected) if expected else -1)
        seen |= set(figures.values())
    assert len(seen) > 40


def test_voc_on_a_curve_that_is_known() -> None:
    # Recall .2 at a precision of 1, .4 at 1/2: the values of other implementations are .3636 and .30.
    boxes = torch.arange(8.0)[:, None] * 100 + torch.tensor([0, 0, 50, 50.0])
    truth = Objects(boxes[:5], torch.zeros(5).long())
    found = Objects(boxes[[0, 6, 7, 1]], torch.zeros(4).long(), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    assert voc_ap([found], [truth], 1, points="eleven")[0] == pytest.approx(4 / 11)
    assert voc_ap([found], [truth], 1, points="area") == (pytest.approx(0.30), {0: pytest.approx(0.30)})
    with pytest.raises(InputError, match="points of an average precision"):
        voc_ap([found], [truth], 1, points="many")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="above 0 and at most 1, not 50"):
        voc_ap([found], [truth], 1, iou=50)


def test_curves_tell_the_average_precision() -> None:
    for seed in range(20):
        predictions, targets, classes = random_set(seed)
        means = []
        for curve in precision_recall(predictions, targets, classes):
            assert len(curve.recall) == len(curve.precision) == len(curve.scores)
            if torch.isfinite(curve.scores).all():
                assert (curve.scores.diff() <= 0).all()
            assert (curve.recall.diff() >= 0).all()
            points = [curve.precision[curve.recall >= r].tolist() for r in np.linspace(0, 1, 101)]
            means.append(np.mean([max(values, default=0) for values in points]))
        # Which classes have truths that are asked for, an empty curve does not tell.
        asked = {c for c in range(classes) if voc_ap(predictions, targets, classes)[1].get(c) is not None}
        expected = coco_map(predictions, targets, classes)["AP50"]
        # Truths of areas beyond the ranges are none in these sets.
        assert expected == pytest.approx(np.mean([means[c] for c in asked]) if asked else -1, abs=1e-9), seed
        assert all(
            not len(curve.recall) for c, curve in enumerate(precision_recall(*random_set(seed))) if c not in asked
        )


def test_figures_of_each_class_are_those_of_it_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    truth = Objects(boxes, torch.tensor([0, 1, 3]), ignored=torch.tensor([False, False, True]))
    # Class 0 is found, class 1 by a box of half its area, class 2 is only predicted, class 3 is not asked for.
    found = boxes.clone()
    found[1, 3] = 30.1
    collected = DetectEvaluator(4)
    collected.predictions = [Objects(found, torch.tensor([0, 1, 2]), scores=torch.tensor([0.9, 0.8, 0.7]))]
    collected.truths = [truth]
    assert collected.per_class() == [
        {"objects": 1, "AP": 1.0, "AP50": 1.0, "AP75": 1.0},
        {"objects": 1, "AP": pytest.approx(0.1), "AP50": 1.0, "AP75": 0.0},
        {"objects": 0},
        {"objects": 0},
    ]
    assert collected.compute()["mAP50"] == 1.0


def test_how_many_objects_a_figure_rests_on() -> None:
    """Crowds and ignored objects are not required, and each size has its own."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 32, 32], [0, 0, 50, 50], [0, 0, 100, 100], [0, 0, 20, 20]])
    crowd = torch.tensor([False, False, False, False, True])
    evaluator = DetectEvaluator(1)
    evaluator.truths = [Objects(boxes, torch.zeros(5, dtype=torch.int64), crowd=crowd)]
    evaluator.predictions = [Objects(boxes[:1], torch.zeros(1, dtype=torch.int64), torch.ones(1))]
    basis = evaluator.basis()
    assert basis.keys() == {name.replace("AP", "mAP") for name in FIGURES}
    # 32 x 32 is small and medium, as COCO counts it.
    counts = {name: count for name, (count, _) in basis.items()}
    assert (counts["mAP"], counts["mAP50"], counts["mAPs"], counts["mAPm"], counts["mAPl"]) == (4, 4, 2, 2, 1)
    assert (counts["AR100"], counts["ARl"]) == (4, 1)
