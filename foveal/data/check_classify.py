"""What is wrong with data to classify: one class for each image."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from foveal.data.dataset import Dataset
from foveal.data.findings import IMPLAUSIBLE, Findings, Looks, look
from foveal.data.splits import absent_notes
from foveal.data.suspects import LIMIT, Suspect, chosen, copies_of, judge, limited
from foveal.progress import SILENT, Silent

IMBALANCE = 10.0  # times as many images in the largest class as in the smallest
READ_AHEAD = 256  # images in memory


@dataclass(frozen=True)
class ClassifyFindings(Findings):
    """counts are of images.

    two_labels:  groups of names with one content and several classes.
    implausible: name -> its label and the class that the judge predicts, the most probably wrong first.
    """

    two_labels: list[list[str]] = field(default_factory=list, metadata={"title": "one image, several classes"})
    implausible: dict[str, str] = field(default_factory=dict, metadata={"title": IMPLAUSIBLE})


def check(dataset: Dataset, bar: Silent = SILENT, limit: int = LIMIT) -> ClassifyFindings:
    """Read every image and list the faults of images, labels and splits. limit: the most labels that are judged."""
    counts = {split: dataset.select(split).class_counts() for split in dataset.split_counts()}
    found = ClassifyFindings(counts, notes=_notes(counts))
    if one := only_class(dataset):
        found.layout.append(one)
    labels = np.array([int(dataset.target(index).label) for index in range(len(dataset))])  # type: ignore[union-attr]
    seen = look(dataset, found, labels, bar)
    for copies in seen.copies:
        if len(set(labels[copies])) > 1:
            found.two_labels.append([f"{seen.names[i]} ({dataset.labels[labels[i]]})" for i in copies])
    if len(dataset.labels) > 1:
        _judge_labels(dataset, found, labels, seen, limit, bar)
    return found


def _judge_labels(
    dataset: Dataset, found: ClassifyFindings, labels: np.ndarray, seen: Looks, limit: int, bar: Silent
) -> None:
    """Add the suspects and the notes of the judge to the findings."""
    rows = chosen(labels[seen.good], limit)
    items = np.array(seen.good, np.int64)[rows]
    found.notes.extend(limited(len(rows), len(seen.good), "image"))
    if not len(rows):
        return

    def pictures(of: Sequence[int]) -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for part in np.array_split(items[list(of)], max(1, len(of) // READ_AHEAD)):
                yield from pool.map(dataset.image, part.tolist())

    verdicts, notes = judge(
        labels[items],
        dataset.labels,
        seen.thumbnails[rows],
        copies_of(len(labels), seen.copies)[items],
        pictures,
        "image",
        bar,
    )
    found.notes.extend(notes)
    for verdict in verdicts:
        item = int(items[verdict.row])
        suspect = Suspect.of(verdict, seen.names[item], dataset.labels, int(labels[item]), item)
        found.suspects.append(suspect)
        found.implausible[suspect.name] = suspect.describe()


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
