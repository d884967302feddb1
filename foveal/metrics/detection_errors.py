"""What goes wrong in detection, and what each kind of error costs.

Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020,
arXiv:2008.08115. An error is mended, all else left as it is, and AP measured again; the gain is the cost of the error.

Departures: where an error could be of several kinds, the first in the list of `errors` holds, so a detection that
overlaps two objects is told from the one that it overlaps well; and a class of which nothing but missed objects was
asked for has an AP of 1 when these are mended, rather than none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveal.errors import InputError
from foveal.metrics.average_precision import Table, interpolated, needed, overlapping
from foveal.metrics.detect import RECALLS, matched
from foveal.structures import Objects

KINDS = ("duplicate", "class", "location", "both", "background", "missed")
MENDED = ("class", "location")  # those that become the detection that was meant; other wrong detections are left out


@dataclass(frozen=True)
class Error:
    """count: how often it happens. cost: AP at the IoU asked for that is lost by it, in [0, 1]."""

    count: int
    cost: float


def errors(
    predictions: Sequence[Objects],
    targets: Sequence[Objects],
    num_classes: int,
    iou: float = 0.5,
    background: float = 0.1,
) -> dict[str, Error]:
    """The errors of each kind. Detections are matched at `iou` as by `coco_map`; one that finds nothing is

    duplicate:  of an object of its class that a better one has found, by an IoU of `iou` or more;
    class:      on an object of another class, by `iou` or more;
    location:   near an object of its class, by `background` or more;
    both:       near an object of another class, by `background` or more;
    background: on nothing.

    missed: objects that are not found and that no error of class or location was meant for. Crowds and ignored truths
    are no objects here, but that a second detection of an ignored one is a duplicate.

    Raises InputError as `coco_map`, and unless 0 < background < iou <= 1.
    """
    if not 0 < background < iou <= 1:
        raise InputError(f"errors need 0 < background < iou <= 1, not a background of {background} and an iou of {iou}")
    detections, truths, found = matched(predictions, targets, num_classes, iou)
    asked = ~(truths.crowd | truths.ignored)
    kind, meant = _kinds(detections, truths, found, iou, background)

    is_found = np.zeros(len(truths), dtype=bool)
    is_found[found[found >= 0]] = True
    covered = np.zeros(len(truths), dtype=bool)
    covered[meant[meant >= 0]] = True
    missed = asked & ~is_found & ~covered

    right, wrong = found >= 0, found < 0
    right[right] = asked[found[right]]
    number = np.bincount(truths.label[asked], minlength=num_classes)
    before = _mean_precision(detections.label, detections.score, right, wrong, number, number)
    found_errors = {}
    for index, name in enumerate(KINDS[:-1]):
        own = kind == index
        label, mended = detections.label, right
        if name in MENDED:
            # Of those that were meant for one object that none has found, the best becomes the one that does.
            best_first = np.flatnonzero(own)[np.argsort(-detections.score[own], kind="stable")]
            truth, first = np.unique(meant[best_first], return_index=True)
            finders = best_first[first[~is_found[truth]]]
            label, mended = label.copy(), right.copy()
            mended[finders], label[finders] = True, truths.label[meant[finders]]
        after = _mean_precision(label, detections.score, mended, wrong & ~own, number, number)
        found_errors[name] = Error(int(own.sum()), after - before)
    left = number - np.bincount(truths.label[missed], minlength=num_classes)
    after = _mean_precision(detections.label, detections.score, right, wrong, left, number)
    found_errors["missed"] = Error(int(missed.sum()), after - before)
    return found_errors


def _kinds(
    detections: Table, truths: Table, found: np.ndarray, iou: float, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the place of its kind in KINDS, -1 where it is no error, and the truth that it was meant for
    by a kind of MENDED, -1 elsewhere; both (D,) int64."""
    by_image = np.argsort(truths.image, kind="stable")
    wrong = np.flatnonzero(found < 0)
    errant, sorted_truths = detections[wrong], truths[by_image]
    pairs = overlapping(errant, sorted_truths, (errant.image, sorted_truths.image), background, crowds=False)
    detection, truth = wrong[pairs.detection], by_image[pairs.truth]
    same, well = detections.label[detection] == truths.label[truth], pairs.iou >= iou
    asked = ~(truths.crowd | truths.ignored)[truth]
    holds = {
        "duplicate": same & well & ~truths.crowd[truth],
        "class": ~same & well & asked,
        "location": same & ~well & asked,
        "both": ~same & ~well & asked,
    }
    kind, meant = np.full(len(found), -1), np.full(len(found), -1)
    kind[wrong] = KINDS.index("background")
    best_last = np.argsort(pairs.iou, kind="stable")
    for name in reversed(holds):  # the first in the list is written last
        chosen = best_last[holds[name][best_last]]
        kind[detection[chosen]] = KINDS.index(name)
        meant[detection[chosen]] = truth[chosen] if name in MENDED else -1
    return kind, meant


def _mean_precision(
    label: np.ndarray, score: np.ndarray, right: np.ndarray, wrong: np.ndarray, number: np.ndarray, before: np.ndarray
) -> float:
    """Mean AP by COCO's recalls over the classes of which there were truths `before`; `number` are left to be found."""
    order = np.lexsort((-score, label))
    right, wrong, sorted_label = right[order], wrong[order], label[order]
    figures = []
    for c in np.flatnonzero(before):
        own = slice(*np.searchsorted(sorted_label, [c, c + 1]))
        counts = needed(number[c], RECALLS)[None] if number[c] else None
        figures.append(1.0 if counts is None else interpolated(right[None, own], wrong[None, own], counts).mean())
    return float(np.mean(figures)) if figures else 0.0
