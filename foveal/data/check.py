"""What is wrong with a data set, or looks as if it were, by file name: told before a network learns it."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike

import numpy as np

from foveal.data.dataset import SPLITS, Dataset, LabelColumn
from foveal.data.image import ImageError
from foveal.data.sources import survey
from foveal.data.splits import content_position
from foveal.system import resize

THUMBNAIL = 16  # pixels a side of what images are compared by
NEAR = 3.0  # mean difference of two thumbnails, of 255, up to which one image is a near copy of the other
FLAT = 2.0  # standard deviation of a thumbnail below which it shows nothing to compare
IMBALANCE = 10.0  # times as many images in the largest class as in the smallest
ODD = 5.0  # times as long as wide, or as the median image is, from which a size is odd
NEIGHBOURS = 8  # most similar images that, all of one other class, make a label implausible


@dataclass(frozen=True)
class Findings:
    """What `check` found; all that is empty is well.

    counts:      split -> class -> number of images.
    layout:      what is wrong with folders, files and rows, whose images are in none of the others.
    unreadable:  name -> reason.
    two_labels:  groups of names with one content and several classes.
    leaks:       groups of names with one content in several splits.
    near_copies: pairs of names that look alike and stand in different splits.
    odd_sizes:   name -> what is odd.
    implausible: name -> its label, and what the images most like it are.
    notes:       what concerns the whole.
    """

    counts: dict[str, dict[str, int]]
    layout: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    two_labels: list[list[str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)
    near_copies: list[list[str]] = field(default_factory=list)
    odd_sizes: dict[str, str] = field(default_factory=dict)
    implausible: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many things need a look; counts and notes are none."""
        listed = (
            self.layout,
            self.unreadable,
            self.two_labels,
            self.leaks,
            self.near_copies,
            self.odd_sizes,
            self.implausible,
        )
        return sum(map(len, listed))


def check_source(source: str | PathLike[str]) -> Findings:
    """`check` of the data at a source, with all that is wrong with how it is laid out."""
    dataset, complaints = survey(source, task="classify")
    found = Findings({}) if dataset is None else check(dataset)
    found.layout.extend(complaints.collected or ())
    if others := complaints.others:
        shown = ", ".join(f"{count} {what}" for what, count in sorted(others.items(), key=lambda item: -item[1])[:5])
        found.notes.append(f"files whose names are not of images were passed over: {shown}")
    return found


def check(dataset: Dataset) -> Findings:
    """Read every image once and say what is wrong with images, labels and splits. For data with one label an image."""
    present = dataset.split_counts()
    counts = {split: dataset.select(split).class_counts() for split in present}
    found = Findings(counts, notes=_notes(counts))
    assert isinstance(dataset.targets, LabelColumn)
    labels = np.array([int(dataset.target(index).label) for index in range(len(dataset))])  # type: ignore[union-attr]
    splits = dataset.splits if dataset.items is None else dataset.splits[dataset.items]
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(lambda index: _look(dataset, index), range(len(dataset))))
    names = [dataset.name(index) for index in range(len(dataset))]
    found.unreadable.update({name: look for name, look in zip(names, looks, strict=True) if isinstance(look, str)})
    seen = {index: look for index, look in enumerate(looks) if isinstance(look, _Seen)}
    good = list(seen)

    same: dict[float, list[int]] = defaultdict(list)
    for index in good:
        same[seen[index].content].append(index)
    for group in (group for group in same.values() if len(group) > 1):
        if len(set(labels[group])) > 1:
            found.two_labels.append([f"{names[i]} ({dataset.labels[labels[i]]})" for i in group])
        if len(set(splits[group])) > 1:
            found.leaks.append([f"{names[i]} ({SPLITS[splits[i]]})" for i in group])
    copies = [[names[i] for i in group] for group in same.values() if len(group) > 1 and _one(labels, splits, group)]
    if copies:
        count = sum(len(group) - 1 for group in copies)
        shown = ", ".join(copies[0][:3])
        found.notes.append(f"{count} {'image is a copy' if count == 1 else 'images are copies'} of others, as {shown}")

    thumbnails = np.stack([seen[index].thumbnail for index in good]) if good else np.zeros((0, 1))
    for one, two in _alike(thumbnails):
        i, j = good[one], good[two]
        if splits[i] != splits[j] and seen[i].content != seen[j].content:
            found.near_copies.append([f"{names[k]} ({SPLITS[splits[k]]})" for k in (i, j)])
    found.odd_sizes.update({names[good[n]]: what for n, what in _odd([seen[i].size for i in good]).items()})
    for n, other in _implausible(thumbnails, labels[good], found.notes).items():
        found.implausible[names[good[n]]] = (
            f"labelled {dataset.labels[labels[good[n]]]}, but the {NEIGHBOURS} images most like it are all "
            f"{dataset.labels[other]}"
        )
    return found


def _one(labels: np.ndarray, splits: np.ndarray, group: list[int]) -> bool:
    """Whether the images of a group are of one class and one split."""
    return len(set(labels[group])) == len(set(splits[group])) == 1


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image that was looked at."""

    content: float
    size: tuple[int, int]
    thumbnail: np.ndarray


def _look(dataset: Dataset, index: int) -> "_Seen | str":
    try:
        image = dataset.image(index)
        content = content_position(dataset.content(index))
    except (ImageError, OSError) as error:
        return str(error)
    small = resize(image.contiguous(), (THUMBNAIL, THUMBNAIL)).numpy()
    return _Seen(content, (image.shape[1], image.shape[2]), small.reshape(-1))


def _notes(counts: dict[str, dict[str, int]]) -> list[str]:
    notes = []
    train = counts.get("train", {})
    for label in [label for label, count in train.items() if not count][:10]:
        notes.append(f"class {label} has no training image")
    present = [count for count in train.values() if count]
    if present and max(present) > IMBALANCE * min(present):
        notes.append(
            f"the classes are unbalanced: {min(present)} to {max(present)} training images; "
            "--class-weights balanced gives each the same say"
        )
    return notes


def _alike(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows that differ by NEAR or less on average.

    Only rows with one of four keys in common are compared: signs of differences between neighbours, a quarter of them
    in each, which survive another compression or size.
    """
    if not len(thumbnails):
        return []
    grey = thumbnails.reshape(len(thumbnails), 3, THUMBNAIL, THUMBNAIL).mean(1)
    coarse = grey.reshape(len(grey), 8, 2, 8, 2).mean((2, 4))
    signs = (coarse[:, :, 1:] > coarse[:, :, :-1]).reshape(len(grey), -1)
    flat = grey.std((1, 2)) < FLAT
    pairs: set[tuple[int, int]] = set()
    for quarter in np.array_split(np.arange(signs.shape[1]), 4):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~flat).tolist():
            buckets[np.packbits(signs[row, quarter]).tobytes()].append(row)
        for rows in buckets.values():
            block = thumbnails[rows].astype(np.float32)
            for n, row in enumerate(rows[:-1]):
                close = np.abs(block[n + 1 :] - block[n]).mean(1) <= NEAR
                pairs.update((row, rows[n + 1 + k]) for k in np.flatnonzero(close).tolist())
    return sorted(pairs)


def _odd(sizes: list[tuple[int, int]]) -> dict[int, str]:
    """Sizes far from the median image's, or far from square unless most are."""
    if not sizes:
        return {}
    array = np.array(sizes, np.float64)
    side, shape = np.sqrt(array.prod(1)), array[:, 0] / array[:, 1]
    odd: dict[int, str] = {}
    for values, what in ((side, "size"), (shape, "shape")):
        ratio = values / np.median(values)
        for n in np.flatnonzero((ratio > ODD) | (ratio < 1 / ODD)).tolist():
            height, width = sizes[n]
            odd.setdefault(n, f"{width} x {height} pixels, an odd {what} beside the others")
    return odd


def _implausible(thumbnails: np.ndarray, labels: np.ndarray, notes: list[str]) -> dict[int, int]:
    """row -> other class, where all of the NEIGHBOURS images that look most like it are of that other class."""
    if not NEIGHBOURS < len(labels) <= 50_000:
        notes.append(f"labels were not judged: that takes more than {NEIGHBOURS} and at most 50,000 images")
        return {}
    from sklearn.neighbors import NearestNeighbors

    half = THUMBNAIL // 2
    rows = thumbnails.reshape(-1, 3, half, 2, half, 2).mean((3, 5)).reshape(len(thumbnails), -1)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(rows).kneighbors(rows, return_distance=False)
    around = labels[nearest[:, 1:]]  # the nearest of all is the image itself
    if (right := float((around[:, 0] == labels).mean())) < 0.8:
        notes.append(f"labels were not judged: only {right:.0%} of the images look most like one of their own class")
        return {}
    agreed = (around == around[:, :1]).all(1) & (around[:, 0] != labels)
    return {n: int(around[n, 0]) for n in np.flatnonzero(agreed).tolist()}
