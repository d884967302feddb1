"""Which detection finds which truth, and what precision that makes at each recall, for whole data sets at once.

All is flat arrays sorted by class and image, so that nothing loops over detections. A match is greedy: the detections
of one class in one image take their truths in the order of their scores. The k-th detections of all images and classes,
at all IoU thresholds and in all ranges of area, take theirs in one step, from the pairs that overlap at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.structures import Objects

PAIRS = 2**20  # pairs of boxes in memory at once


@dataclass(frozen=True)
class Table:
    """All objects of a data set, N together, sorted by class, then image, then score, best first; truths have none, and
    stay in their order.

    boxes: (N, 4) float64.      label, image: (N,) int64.      score: (N,) float64.
    area:  (N,) float64: that of the box where nothing else is known.
    rank:  (N,) int64: 0 for the first of its class in its image, 1 for the next ...
    crowd, ignored: (N,) bool; of both a crowd's rules hold.
    """

    boxes: np.ndarray
    label: np.ndarray
    image: np.ndarray
    score: np.ndarray
    area: np.ndarray
    rank: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray) -> "Table":
        return Table(*(column[index] for column in vars(self).values()))

    def groups(self, images: int) -> np.ndarray:
        """(N,) int64, one number for each class in each image, increasing."""
        return self.label * images + self.image


@dataclass(frozen=True)
class Pairs:
    """P pairs of a detection and a truth. detection, truth: (P,) int64 rows of their tables. iou: (P,) float64."""

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def tables(predictions: Sequence[Objects], targets: Sequence[Objects], num_classes: int) -> tuple[Table, Table]:
    """Detections and truths of images that stand in the same order.

    Raises InputError where the numbers of images differ, a prediction has no scores or a label is no class.
    """
    if len(predictions) != len(targets):
        raise InputError(
            f"predictions are of {len(predictions)} images and targets of {len(targets)}; give one of each"
        )
    for index, objects in enumerate(predictions):
        if objects.scores is None:
            raise InputError(f"the predictions of image {index} have no scores; a metric needs a score for each box")
    return _table(predictions, "predictions", num_classes), _table(targets, "targets", num_classes)


def _table(items: Sequence[Objects], what: str, num_classes: int) -> Table:
    counts = np.array([len(item.labels) for item in items], dtype=np.int64)
    boxes = _column([item.boxes.reshape(-1, 4) for item in items]).reshape(-1, 4)
    label = _column([item.labels for item in items]).astype(np.int64)
    image = np.repeat(np.arange(len(items)), counts)
    if len(label) and not 0 <= label.min() <= label.max() < num_classes:
        wrong = int(np.argmax((label < 0) | (label >= num_classes)))
        raise InputError(
            f"{what} of image {image[wrong]} have the label {label[wrong]}, which is none of {num_classes} classes"
        )
    none = [torch.zeros(int(count)) for count in counts]
    score = _column([zeros if item.scores is None else item.scores for item, zeros in zip(items, none, strict=True)])
    crowd = _column([zeros if item.crowd is None else item.crowd for item, zeros in zip(items, none, strict=True)])
    ignored = _column(
        [zeros if item.ignored is None else item.ignored for item, zeros in zip(items, none, strict=True)]
    )
    area = _areas(boxes)
    if what == "targets":
        known = [covered(item) for item in items]
        given = np.repeat(np.array([value is not None for value in known], dtype=bool), counts)
        area[given] = _column([value for value in known if value is not None])
    order = np.lexsort((-score, image, label)) if what == "predictions" else np.lexsort((image, label))
    rank = places(label[order] * len(items) + image[order])
    boxes, label, image, score, area = boxes[order], label[order], image[order], score[order], area[order]
    return Table(boxes, label, image, score, area, rank, crowd[order] > 0, ignored[order] > 0)


def covered(objects: Objects) -> Tensor | None:
    """(N,) pixels that each object covers: as given, or else of its mask; None where neither is there."""
    if objects.areas is not None:
        return objects.areas
    if objects.masks is None:
        return None
    return torch.tensor([int(mask.count_nonzero()) for mask in objects.masks], dtype=torch.int64)


def _column(parts: Sequence[Tensor]) -> np.ndarray:
    """One float64 array of all."""
    return torch.cat([part.detach() for part in parts]).cpu().double().numpy() if parts else np.zeros(0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # boxes may hold anything
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def places(sorted_keys: np.ndarray) -> np.ndarray:
    """(N,) int64: how many equal keys come before each."""
    index = np.arange(len(sorted_keys))
    new = np.ones(len(sorted_keys), dtype=bool)
    new[1:] = sorted_keys[1:] != sorted_keys[:-1]
    return index - np.maximum.accumulate(np.where(new, index, 0))


def overlapping(
    detections: Table, truths: Table, groups: tuple[np.ndarray, np.ndarray], least: float, *, crowds: bool = True
) -> Pairs:
    """The pairs of one group with an IoU of `least`, above 0, or more, by detection and then truth.

    groups: a number for each detection and each truth, that of the truths increasing. Only equal ones are paired.
    crowds: with a crowd it is not IoU but intersection over the area of the detection, all of which may lie in it.
    """
    first = np.searchsorted(groups[1], groups[0], "left")
    count = np.searchsorted(groups[1], groups[0], "right") - first
    found = [_overlapping(detections, truths, first, count, part, least, crowds) for part in _parts(count)]
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _parts(count: np.ndarray) -> Iterator[slice]:
    """Runs of detections with about `PAIRS` pairs together."""
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS, "right")))
        yield slice(start, stop)
        start = stop


def _overlapping(
    detections: Table,
    truths: Table,
    first: np.ndarray,
    count: np.ndarray,
    part: slice,
    least: float,
    crowds: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own = np.repeat(np.arange(len(count))[part], count[part])
    truth = first[own] + places(own)
    a, b = detections.boxes[own], truths.boxes[truth]
    with np.errstate(all="ignore"):  # boxes may hold anything; what is no number overlaps nothing
        width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
        height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
        shared = width * height
        size = _areas(detections.boxes)[own]
        union = size + _areas(truths.boxes)[truth] - shared
        if crowds:
            union = np.where(truths.crowd[truth], size, union)
        iou = shared / union
        enough = (width > 0) & (height > 0) & (iou >= least)
    return own[enough], truth[enough], iou[enough]


def match(detections: Table, truths: Table, pairs: Pairs, thresholds: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(D, A, T) int64: which truth each detection finds, -1 where none, by the rules of COCO.

    thresholds: (T,) IoU that a pair needs.      ignored: (A, G) bool, the truths not asked for, in each of A ways.
    pairs: those of one class and image, detections of a class and image in a row, best first.

    A detection takes the free truth that it overlaps most, one that is asked for before one that is not; of equal ones
    the last. What is taken is no longer free, unless it is a crowd.
    """
    shape = (len(ignored), len(thresholds))
    found = np.full((len(detections), *shape), -1, dtype=np.int64)
    if not len(pairs.iou):
        return found
    # Each detection with a pair has its turn, after those before it in its class and image.
    own, inverse = np.unique(pairs.detection, return_inverse=True)
    begins = np.cumsum(detections.rank == 0)[own]  # a number for each class and image
    turn = places(begins)[inverse]
    order = np.lexsort((-pairs.truth, -pairs.iou, pairs.detection, turn))
    detection, truth, turn = pairs.detection[order], pairs.truth[order], turn[order]
    enough = pairs.iou[order][:, None] >= thresholds  # (P, T)
    # In one number: asked for or not, then the order above; the largest wins and tells which pair it is.
    total = len(truth)
    wish = np.where(ignored[:, truth].T, 0, total) + np.arange(total)[::-1, None]  # (P, A)
    wish = wish.astype(np.int32 if total < 2**30 else np.int64)
    taken = np.zeros((len(truths), *shape), dtype=bool)
    ends = np.searchsorted(turn, np.arange(turn[-1] + 1), "right")
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        whose, starts = np.unique(detection[start:stop], return_index=True)
        free = enough[start:stop, None] & ~taken[truth[start:stop]]  # (p, A, T)
        best = np.maximum.reduceat(np.where(free, wish[start:stop, :, None], -1), starts)  # (n, A, T)
        chosen = np.where(best < 0, -1, truth[total - 1 - best % total])
        found[whose] = chosen
        where = np.nonzero(best >= 0)
        taken[chosen[where], where[1], where[2]] = ~truths.crowd[chosen[where]]
    return found


def envelope(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, N) bool, right and wrong detections, best first, each row for itself -> (K, N) int64, number of right ones up
    to each, and (K, N), the best precision that is reached there or later."""
    right = np.cumsum(true, 1)
    precision = right / np.maximum(right + np.cumsum(false, 1), 1)
    return right, np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]


def interpolated(true: np.ndarray, false: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """(K, R): the best precision from the needed[k, r]-th right detection on, 0 where there are fewer.

    true, false: (K, N) bool as of `envelope`.      needed: (K, R) int64, 1 or more.
    """
    rows, number = true.shape
    if not number:
        return np.zeros(needed.shape)
    right, best = envelope(true, false)
    # One search for all rows, each lifted above the ones before it.
    lift = np.arange(rows)[:, None] * (number + 1)
    where = np.searchsorted((right + lift).ravel(), np.minimum(needed, number + 1) + lift)
    reached = where < (np.arange(rows)[:, None] + 1) * number
    return np.where(reached, best.ravel()[np.where(reached, where, 0)], 0.0)


def needed(positives: int, recalls: np.ndarray) -> np.ndarray:
    """(R,) int64: how many of so many truths have to be found for each recall; one at least."""
    return np.searchsorted(np.arange(1, positives + 1) / positives, recalls) + 1


def by_score(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """The order of detections by class and then score, of equal ones by image; and the labels in this order."""
    order = np.lexsort((-table.score, table.label))
    return order, table.label[order]
