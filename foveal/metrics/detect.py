"""Figures of a detector.

    precision = right / (right + wrong)     recall = right / truths
    AP = mean over recalls r of the best precision at a recall of r or more

Of COCO: Lin et al., "Microsoft COCO", 2014, arXiv:1405.0312, with the rules of its evaluation server. Of Pascal VOC:
Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", 2010. Boxes here are continuous, so that of VOC's
inclusive pixels one less the upper left corner makes a box; its IoU adds 1 to each side instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.metrics.average_precision import (
    Table,
    by_score,
    covered,
    envelope,
    interpolated,
    match,
    needed,
    overlapping,
    tables,
)
from foveal.structures import Batch, Objects

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of one class in one image that count, the best ones
# all, small, medium, large: area in pixels, both ends included
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_map(predictions: Sequence[Objects], targets: Sequence[Objects], num_classes: int) -> dict[str, float]:
    """The twelve figures of COCO, in [0, 1], -1 where no truth is of that size; both sequences have an item an image.

    AP: mean over IoU thresholds .50, .55 ... .95, classes with truths, and 101 recalls. AP50, AP75: at one threshold.
    AR1, AR10, AR100: mean share of truths found by so many detections of a class in an image. s, m, l: truths of less
    than 32 x 32 pixels, up to 96 x 96, or more, by `areas`, else by the mask, else by the box.

    A `crowd` may be found any number of times, by intersection over the detection's area; an `ignored` truth once, by
    IoU, as those of other sizes are where a figure is of one size. Neither is asked for, and what finds it does not
    count. A second detection of an ignored object is wrong, as of any other.

    Raises InputError where the numbers of images differ, a prediction has no scores or a label is no class.
    """
    detections, truths = tables(predictions, targets, num_classes)
    detections = detections[detections.rank < MOST]
    groups = detections.groups(len(targets)), truths.groups(len(targets))
    pairs = overlapping(detections, truths, groups, IOUS[0])
    low, high = AREAS[:, :1], AREAS[:, 1:]
    ignored = truths.crowd | truths.ignored | (truths.area < low) | (truths.area > high)  # (A, G)
    found = match(detections, truths, pairs, IOUS, ignored)  # (D, A, T)

    outside = ((detections.area < low) | (detections.area > high)).T[:, :, None]  # (D, A, 1)
    hit = found >= 0
    void = np.zeros_like(hit)
    for range_, row in enumerate(ignored):
        void[:, range_][hit[:, range_]] = row[found[:, range_][hit[:, range_]]]
    true, false = hit & ~void, ~hit & ~outside

    order, label = by_score(detections)
    rank = detections.rank[order]
    true, false = true[order], false[order]
    asked = np.stack([np.bincount(truths.label[~row], minlength=num_classes) for row in ignored])  # (A, C)
    shape = (len(AREAS), len(IOUS), num_classes)
    precision = np.full((*shape, len(RECALLS)), -1.0)
    recall = np.full((3, *shape), -1.0)
    for c in np.flatnonzero(asked[0]):
        own = slice(*np.searchsorted(label, [c, c + 1]))
        right_rows, wrong_rows = (half[own].reshape(-1, shape[0] * shape[1]).T for half in (true, false))  # (A T, N)
        ranges = np.flatnonzero(asked[:, c])
        wanted = np.ones((shape[0], 1, len(RECALLS)), dtype=np.int64)
        wanted[ranges, 0] = [needed(asked[a, c], RECALLS) for a in ranges]
        for_all = np.repeat(wanted, shape[1], 1).reshape(-1, len(RECALLS))
        precision[ranges, :, c] = interpolated(right_rows, wrong_rows, for_all).reshape(*shape[:2], -1)[ranges]
        for row, most in enumerate((1, 10, MOST)):
            right = true[own][rank[own] < most].sum(0)  # (A, T)
            recall[row, ranges, :, c] = right[ranges] / asked[ranges, c, None]

    at = {0.5: 0, 0.75: 5}
    figures = [
        precision[0],
        precision[0, at[0.5]],
        precision[0, at[0.75]],
        *precision[1:],
        *recall[:, 0],
        *recall[2, 1:],
    ]
    return {name: _mean(values) for name, values in zip(FIGURES, figures, strict=True)}


def _mean(values: np.ndarray) -> float:
    """Over what there is, or -1."""
    there = values[values > -1]
    return float(there.mean()) if len(there) else -1.0


def voc_ap(
    predictions: Sequence[Objects],
    targets: Sequence[Objects],
    num_classes: int,
    iou: float = 0.5,
    points: Literal["area", "eleven"] = "area",
) -> tuple[float, dict[int, float]]:
    """Mean AP of Pascal VOC, -1 where there is no truth, and that of each class that has truths, by its index.

    points: "area", all recalls, as since 2010, or "eleven", the recalls 0, .1 ... 1, as before.

    A detection stands for the truth that it overlaps most, of equal ones the first; with a smaller IoU than `iou` it is
    wrong, and so is every one but the best for one truth. Those for an `ignored` truth, "difficult" in VOC, or a crowd
    do not count, however many they are.

    Raises InputError as `coco_map`, and where `iou` or `points` cannot be.
    """
    _check(iou)
    if points not in ("area", "eleven"):
        raise InputError(f'points of an average precision are "area" or "eleven", not {points!r}')
    detections, truths = tables(predictions, targets, num_classes)
    groups = detections.groups(len(targets)), truths.groups(len(targets))
    pairs = overlapping(detections, truths, groups, iou, crowds=False)
    order = np.lexsort((pairs.truth, -pairs.iou, pairs.detection))
    own, most = np.unique(pairs.detection[order], return_index=True)
    found = np.full(len(detections), -1)
    found[own] = pairs.truth[order][most]

    order, label = by_score(detections)
    found = found[order]
    truth, first = np.unique(found, return_index=True)  # the first detection for each truth
    void = _void(found, truths)
    right = np.zeros(len(found), dtype=bool)
    right[first[truth >= 0]] = True
    right &= ~void
    wrong = ~right & ~void
    asked = _asked(truths, num_classes)
    figures = {}
    for c in np.flatnonzero(asked).tolist():
        part = slice(*np.searchsorted(label, [c, c + 1]))
        if points == "area":
            best = envelope(right[None, part], wrong[None, part])[1][0]
            figures[c] = float(best[right[part]].sum() / asked[c])  # each right one is a step of 1 / asked
        else:
            tenths = np.maximum(-(-np.arange(11) * asked[c] // 10), 1)  # rounded up, exactly
            figures[c] = float(interpolated(right[None, part], wrong[None, part], tenths[None]).mean())
    return (sum(figures.values()) / len(figures) if figures else -1.0), figures


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class down to each of its N detections that count, best first.

    recall, precision, scores: (N,) float64.
    """

    recall: Tensor
    precision: Tensor
    scores: Tensor


def precision_recall(
    predictions: Sequence[Objects], targets: Sequence[Objects], num_classes: int, iou: float = 0.5
) -> list[Curve]:
    """The curve of each class, matched as by `coco_map` at one IoU; empty for a class that has no truths.

    Raises InputError as `coco_map`, and where `iou` cannot be.
    """
    _check(iou)
    detections, truths, found = matched(predictions, targets, num_classes, iou)
    order, label = by_score(detections)
    void = _void(found[order], truths)
    asked = _asked(truths, num_classes)
    curves = []
    for c in range(num_classes):
        own = order[(label == c) & ~void] if asked[c] else order[:0]
        count = np.cumsum(found[own] >= 0)
        columns = (count / max(asked[c], 1), count / np.arange(1, len(own) + 1), detections.score[own])
        curves.append(Curve(*(torch.from_numpy(column) for column in columns)))
    return curves


def matched(
    predictions: Sequence[Objects], targets: Sequence[Objects], num_classes: int, iou: float
) -> tuple[Table, Table, np.ndarray]:
    """Detections that count, truths, and which truth each finds by COCO's rules, (D,) int64, -1 where none."""
    detections, truths = tables(predictions, targets, num_classes)
    detections = detections[detections.rank < MOST]
    groups = detections.groups(len(targets)), truths.groups(len(targets))
    pairs = overlapping(detections, truths, groups, iou)
    ignored = truths.crowd | truths.ignored
    found = match(detections, truths, pairs, np.array([iou]), ignored[None])[:, 0, 0]
    # A box that is turned inside out can have a negative area, which no range of COCO holds.
    counts = (found >= 0) | ~((detections.area < AREAS[0, 0]) | (detections.area > AREAS[0, 1]))
    return detections[counts], truths, found[counts]


def _void(found: np.ndarray, truths: Table) -> np.ndarray:
    """(D,) bool: which detections do not count, as what they find is not asked for."""
    return (found >= 0) & np.append(truths.crowd | truths.ignored, False)[found]


def _asked(truths: Table, num_classes: int) -> np.ndarray:
    """(C,) how many truths of each class are asked for."""
    return np.bincount(truths.label[~(truths.crowd | truths.ignored)], minlength=num_classes)


def _check(iou: float) -> None:
    if not 0 < iou <= 1:
        raise InputError(f"an IoU that a detection needs is above 0 and at most 1, not {iou}")


class DetectEvaluator:
    """COCO's figures by `coco_map`: mAP, mAP50, mAP75; mAPs, mAPm, mAPl of small, medium and large objects; AR1, AR10,
    AR100, ARs, ARm, ARl. Those of sizes that no truth has are left out.

    predictions, truths: of each image, in the order in which they were taken in, on the CPU and without masks.
    """

    criteria: tuple[tuple[str, str], ...] = (("mAP", "max"),)

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.predictions: list[Objects] = []
        self.truths: list[Objects] = []

    def asks(self, truth: Objects) -> bool:
        """Whether there is an object in it that is not a crowd, nor too difficult."""
        return not excluded(truth).all()

    def update(self, system: Any, batch: Batch, truths: Sequence[Objects]) -> None:
        self.predictions += [_slim(objects) for objects in system.decode(system.outputs(batch), batch)]
        self.truths += [_slim(objects) for objects in truths]

    def merge(self, other: Self) -> None:
        self.predictions += other.predictions
        self.truths += other.truths

    def per_class(self) -> list[dict[str, float]]:
        """objects: how many there are to find. AP, AP50, AP75: of this class alone, left out where it has none."""
        return [self._of_class(label) for label in range(self.num_classes)]

    def _of_class(self, label: int) -> dict[str, float]:
        pairs = [
            (p[p.labels == label], t[t.labels == label]) for p, t in zip(self.predictions, self.truths, strict=True)
        ]
        pairs = [(p, t) for p, t in pairs if len(p) or len(t)]
        objects = sum(int((~excluded(truth)).sum()) for _, truth in pairs)
        if not objects:
            return {"objects": 0}
        figures = coco_map([p for p, _ in pairs], [t for _, t in pairs], self.num_classes)
        return {"objects": objects, **{name: figures[name] for name in ("AP", "AP50", "AP75")}}

    def basis(self) -> dict[str, tuple[int, str]]:
        _, truths = tables(self.predictions, self.truths, self.num_classes)
        areas = truths.area[~(truths.crowd | truths.ignored)]
        counts = ((areas >= AREAS[:, :1]) & (areas <= AREAS[:, 1:])).sum(1).tolist()
        ends = dict(zip(("", "s", "m", "l"), counts, strict=True))
        names = [name.replace("AP", "mAP") for name in FIGURES]
        return {name: (ends[name[-1] if name[-1] in "sml" else ""], "object") for name in names}

    def compute(self) -> dict[str, float]:
        figures = coco_map(self.predictions, self.truths, self.num_classes)
        return {name.replace("AP", "mAP"): value for name, value in figures.items() if value >= 0}


def excluded(objects: Objects) -> Tensor:
    """(N,) bool: which objects no detection has to find: crowds, and those too difficult."""
    flags = [flags for flags in (objects.crowd, objects.ignored) if flags is not None]
    return torch.stack([torch.zeros_like(objects.labels, dtype=torch.bool), *flags]).any(0)


def _slim(objects: Objects) -> Objects:
    """What the figures need of the objects, on the CPU."""
    return replace(objects, areas=covered(objects), masks=None, keypoints=None).map(torch.Tensor.detach).to("cpu")
