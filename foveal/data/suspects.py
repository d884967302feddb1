"""Labels that are probably wrong, of images or of the objects in boxes.

A judge is a set of features with the cross-validated classifier of data/noise.py. Pixels are the first features. Where
they predict labels badly, those of a network that a package brings are tried, and the better judge is taken. A class
that the judge does not recognise either is not judged, and a note says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from foveal.data.noise import Scored, cross_validated
from foveal.errors import few
from foveal.progress import SILENT, Silent
from foveal.structures import to_float
from foveal.system import resize
from foveal.weights.packages import PACKAGED, available
from foveal.wording import counted

LIMIT = 20_000  # labels that are judged unless the user asks for more
FEWEST = 20  # labels of a class that can be judged
STRONG = 0.8  # of the way from chance to certainty: pixels that come so far need no network
ENOUGH = 0.4  # of that way: a judge that comes less far is no judge
WRONG = 0.5  # probability above which a label is suspect
NETWORK = "efficientnet_lite0"
SIDE = 96  # pixels a side of what the network sees
BATCH = 64
NAMED = 6  # classes in a note

Pictures = Callable[[Sequence[int]], Iterator[Tensor]]


@dataclass(frozen=True)
class Verdict:
    """The judge's answer for one row: the fields are those of `Suspect`, and `other` is the number of a class."""

    row: int
    other: int
    probability: float
    of_label: float
    wrong: float


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong.

    name:        of the image.
    object:      the number of the object in it, from 1; None for the label of the whole image.
    box:         of that object, x1, y1, x2, y2 in pixels.
    label:       the class in the data.
    other:       the class that the judge predicts.
    probability: of `other`.
    of_label:    the probability of `label`.
    wrong:       the probability that the label is wrong, given the estimated share of wrong labels.
    index:       of the image in the data set.
    """

    name: str
    object: int | None
    box: list[float] | None
    label: str
    other: str
    probability: float
    of_label: float
    wrong: float
    index: int

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        name: str,
        labels: Sequence[str],
        label: int,
        index: int,
        number: int | None = None,
        box: list[float] | None = None,
    ) -> "Suspect":
        """The suspect of a verdict on the label of an image, or of an object in it."""
        figures = verdict.probability, verdict.of_label, verdict.wrong
        return cls(name, number, box, labels[label], labels[verdict.other], *figures, index)

    def describe(self) -> str:
        """One line without the name of the image."""
        which = "" if self.object is None else f"object {self.object} is "
        return f"{which}labelled {self.label}, but looks like {self.other} (probability {self.probability:.2f})"


def chosen(labels: np.ndarray, limit: int) -> np.ndarray:
    """The rows (M,) of at most `limit` labels, drawn by a fixed seed."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    return np.sort(np.random.default_rng(0).permutation(len(labels))[:limit])


def judge(
    labels: np.ndarray,
    names: Sequence[str],
    thumbnails: np.ndarray,
    groups: np.ndarray,
    pictures: Pictures,
    noun: str,
    bar: Silent = SILENT,
) -> tuple[list[Verdict], list[str]]:
    """Judge N labels (N,); the suspects, most probably wrong first, and notes on the judge and on what was not judged.

    names:      of the classes.
    thumbnails: (N, D) uint8 pixels.
    groups:     (N,); rows of one group are copies.
    pictures:   rows -> their images, (3, H, W) uint8.
    noun:       what has a label.
    """
    counts = np.bincount(labels, minlength=len(names))
    rare = (counts > 0) & (counts < FEWEST)
    notes = []
    if rare.any():
        notes.append(
            f"the labels of {_classes(names, rare)} were not judged: fewer than {FEWEST} {noun}s have "
            f"{'it' if rare.sum() == 1 else 'each'}"
        )
    usable = np.flatnonzero(counts >= FEWEST)
    if len(usable) < 2:
        return [], [*notes, f"labels of {noun}s were not judged: fewer than two classes have {FEWEST} {noun}s or more"]
    rows = np.flatnonzero(np.isin(labels, usable))
    truth = np.searchsorted(usable, labels[rows])
    bar.stage("judging labels by pixels")
    best, by = cross_validated(thumbnails[rows], truth, len(usable), groups[rows]), "pixels"
    absent = ""
    if _skill(best.recall).mean() < STRONG:
        if available(NETWORK):
            vectors = _network_features(pictures, rows, bar)
            bar.stage("judging labels by features")
            other = cross_validated(vectors, truth, len(usable), groups[rows])
            if other.recall.mean() > best.recall.mean():
                best, by = other, f"features of {NETWORK}"
        else:
            absent = f"; features of a network may judge them: pip install 'foveal[{PACKAGED[NETWORK].extra}]'"
    agrees = f"a cross-validated classifier on {by} predicts {best.accuracy:.1%} of {len(rows):,} labels"
    skill = _skill(best.recall)
    if skill.mean() < ENOUGH:
        return [], [*notes, f"labels of {noun}s were not judged: {agrees}, which is too few{absent}"]
    estimate = f"and estimates that {best.rate:.1%} of the labels are wrong at random"
    notes.append(f"labels of {noun}s were judged: {agrees} {estimate}")
    weak = skill < ENOUGH
    if weak.any():
        shown = np.isin(np.arange(len(names)), usable[weak])
        notes.append(
            f"the labels of {_classes(names, shown)} were not judged: the classifier predicts only "
            f"{best.recall[weak].max():.0%} of them{'' if weak.sum() == 1 else ' or less'}{absent}"
        )
    return _verdicts(best, rows, truth, usable, weak), notes


def copies_of(count: int, copies: Sequence[Sequence[int]]) -> np.ndarray:
    """(count,) the group of each image: equal for those that are copies of each other."""
    groups = np.arange(count)
    for group in copies:
        groups[list(group)] = group[0]
    return groups


def crop(image: Tensor, box: Sequence[float] | Tensor) -> Tensor:
    """(3, H, W) -> the pixels that a box x1, y1, x2, y2 touches, one at least."""
    height, width = image.shape[1:]
    x1, y1, x2, y2 = (float(side) for side in box)
    left, top = min(max(0, int(x1)), width - 1), min(max(0, int(y1)), height - 1)
    return image[:, top : max(top + 1, ceil(y2)), left : max(left + 1, ceil(x2))]


def limited(judged: int, count: int, noun: str) -> list[str]:
    """A note where fewer labels than there are were judged."""
    if judged == count:
        return []
    if not judged:
        return [f"labels of {noun}s were not judged, as --labels 0 says"]
    return [f"labels of {judged:,} of {count:,} {noun}s, drawn at random, were judged; --labels {count} judges all"]


def _verdicts(
    scored: Scored, rows: np.ndarray, truth: np.ndarray, usable: np.ndarray, weak: np.ndarray
) -> list[Verdict]:
    others = scored.probabilities.copy()
    place = np.arange(len(truth))
    others[place, truth] = -1
    other = others.argmax(1)
    suspect = (scored.wrong > WRONG) & ~weak[truth] & ~weak[other]
    margin = scored.probabilities[place, truth] - others[place, other]
    order = np.lexsort((margin, -scored.wrong))
    return [
        Verdict(
            int(rows[n]),
            int(usable[other[n]]),
            float(others[n, other[n]]),
            float(scored.probabilities[n, truth[n]]),
            float(scored.wrong[n]),
        )
        for n in order.tolist()
        if suspect[n]
    ]


def _skill(recall: np.ndarray) -> np.ndarray:
    """Recall of each class as a share of the way from chance to certainty."""
    return (recall - 1 / len(recall)) / (1 - 1 / len(recall))


def _classes(names: Sequence[str], which: np.ndarray) -> str:
    """class cat; 2 classes (cat, dog)."""
    listed = [names[n] for n in np.flatnonzero(which).tolist()]
    return f"class {listed[0]}" if len(listed) == 1 else f"{len(listed):,} classes ({few(listed, NAMED)})"


def _network_features(pictures: Pictures, rows: np.ndarray, bar: Silent) -> np.ndarray:
    """(N, D) float32 features of the packaged network for these rows."""
    from foveal.build import create

    network = create(NETWORK, weights="package", image_size=SIDE).eval()
    bar.stage(f"computing features of {counted(len(rows), 'picture')}", len(rows))
    parts: list[np.ndarray] = []
    waiting: list[Tensor] = []
    for number, image in enumerate(pictures(rows.tolist()), 1):
        waiting.append(resize(image.contiguous(), (SIDE, SIDE)))
        if len(waiting) == BATCH or number == len(rows):
            with torch.inference_mode():
                parts.append(network.features(to_float(torch.stack(waiting))).numpy())
            bar.advance(len(waiting))
            waiting = []
    return np.concatenate(parts)
