"""What is wrong with data to classify: one class for each image."""

from dataclasses import dataclass, field

import numpy as np

from foveal.data.dataset import Dataset
from foveal.data.findings import THUMBNAIL, Findings, look
from foveal.data.splits import absent_notes
from foveal.progress import SILENT, Silent

IMBALANCE = 10.0  # times as many images in the largest class as in the smallest
NEIGHBOURS = 8  # most similar images that, all of one other class, make a label implausible


@dataclass(frozen=True)
class ClassifyFindings(Findings):
    """counts are of images.

    two_labels:  groups of names with one content and several classes.
    implausible: name -> its label, and what the images most like it are.
    """

    two_labels: list[list[str]] = field(default_factory=list, metadata={"title": "one image, several classes"})
    implausible: dict[str, str] = field(default_factory=dict, metadata={"title": "implausible label"})


def check(dataset: Dataset, bar: Silent = SILENT) -> ClassifyFindings:
    """Read every image once and say what is wrong with images, labels and splits."""
    counts = {split: dataset.select(split).class_counts() for split in dataset.split_counts()}
    found = ClassifyFindings(counts, notes=_notes(counts))
    if one := only_class(dataset):
        found.layout.append(one)
    labels = np.array([int(dataset.target(index).label) for index in range(len(dataset))])  # type: ignore[union-attr]
    seen = look(dataset, found, labels, bar)
    for copies in seen.copies:
        if len(set(labels[copies])) > 1:
            found.two_labels.append([f"{seen.names[i]} ({dataset.labels[labels[i]]})" for i in copies])
    for n, other in _implausible(seen.thumbnails, labels[seen.good], found.notes).items():
        found.implausible[seen.names[seen.good[n]]] = (
            f"labelled {dataset.labels[labels[seen.good[n]]]}, but the {NEIGHBOURS} images most like it are all "
            f"{dataset.labels[other]}"
        )
    return found


def only_class(dataset: Dataset) -> str | None:
    """Why nothing can be trained to classify on this data: it has one class. A trained system can be measured on it."""
    if len(dataset.labels) != 1:
        return None
    return f"{dataset.source} has one class only, {dataset.labels[0]!r}; to classify takes two or more"


def _notes(counts: dict[str, dict[str, int]]) -> list[str]:
    notes = absent_notes(counts, "image")
    train = counts.get("train", {})
    present = [count for count in train.values() if count]
    if present and max(present) > IMBALANCE * min(present):
        notes.append(
            f"the classes are unbalanced: {min(present)} to {max(present)} training images; "
            "--class-weights balanced gives each the same say"
        )
    return notes


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
