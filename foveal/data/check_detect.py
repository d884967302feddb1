"""What is wrong with data to detect: objects in boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from foveal.data.dataset import Dataset
from foveal.data.files import Complaints
from foveal.data.findings import IMPLAUSIBLE, THUMBNAIL, Findings, Looks, look
from foveal.data.objects import EMPTY, misplaced
from foveal.data.splits import absent_notes
from foveal.data.suspects import LIMIT, Suspect, chosen, copies_of, crop, judge, limited
from foveal.progress import SILENT, Silent
from foveal.structures import Objects
from foveal.system import resize

SAME = 0.95  # intersection over union above which two boxes of one class are one object twice
ROWS = 2**20  # pairs that are compared at once
MAX_PAIRS = 2**22  # pairs of an image that are compared; of 2,000 objects all are
MANY = 1000  # objects in one image


@dataclass(frozen=True)
class DetectFindings(Findings):
    """counts are of objects.

    images:      split -> number of images.
    showing:     split -> class -> number of images with an object of it.
    outside:     boxes that stick out of their image, or lay outside.
    empty:       boxes without area.
    duplicated:  objects that are there twice.
    implausible: what many boxes have in common and should not.
    labels:      objects whose label is probably wrong, the most probable first.
    """

    images: dict[str, int] = field(default_factory=dict)
    showing: dict[str, dict[str, int]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list, metadata={"title": "boxes outside the image"})
    empty: list[str] = field(default_factory=list, metadata={"title": "boxes without area"})
    duplicated: list[str] = field(default_factory=list, metadata={"title": "objects that are there twice"})
    implausible: list[str] = field(default_factory=list, metadata={"title": "implausible boxes"})
    labels: list[str] = field(default_factory=list, metadata={"title": IMPLAUSIBLE})

    def table(self) -> tuple[list[str], list[list[str]]]:
        labels = next(iter(self.counts.values()), {})
        rows = []
        for label in [*labels, None]:
            cells = [label or "all"]
            for split, counts in self.counts.items():
                cells.append(str(sum(counts.values()) if label is None else counts[label]))
                cells.append(str(self.images[split] if label is None else self.showing[split][label]))
            rows.append(cells)
        return ["class", *(f"{split}{what}" for split in self.counts for what in ("", " images"))], rows

    def add(self, complaints: Complaints) -> None:
        super().add(complaints)
        for kind, texts in complaints.told.items():
            (self.empty if kind == EMPTY else self.outside).extend(texts)
        odd = misplaced(complaints)
        # By chance hardly a wrong box is right when its numbers are taken for something else.
        if 2 * odd > complaints.boxes or complaints.otherwise > max(2, complaints.boxes / 100):
            self.implausible.append(
                f"{odd} of {complaints.boxes} boxes leave their image or end before they begin; of these "
                f"{complaints.otherwise} would be right with width and height in place of the second corner, or the "
                "reverse: is that how they are meant?"
            )


def check(dataset: Dataset, bar: Silent = SILENT, limit: int = LIMIT) -> DetectFindings:
    """Read every image and list the faults of images, objects and splits. limit: the most labels that are judged."""
    present = dataset.split_counts()
    found = DetectFindings({split: dataset.select(split).class_counts() for split in present}, images=present)
    objects = [dataset.target(index) for index in range(len(dataset))]
    seen = look(dataset, found, np.zeros(len(dataset)), bar)
    for split in present:
        view, shown = dataset.select(split), np.zeros(len(dataset.labels), int)
        for index in range(len(view)):
            shown[np.unique(view.target(index).labels.numpy())] += 1  # type: ignore[union-attr]
        found.showing[split] = dict(zip(dataset.labels, shown.tolist(), strict=True))
    for name, one in zip(seen.names, objects, strict=True):
        labels = one.labels.numpy()  # type: ignore[union-attr]
        for again, first in repeated(one.boxes.double().numpy(), labels).items():  # type: ignore[union-attr]
            label = dataset.labels[labels[again]]
            found.duplicated.append(f"{name}: object {again + 1} ({label}) is object {first + 1} again")
    many = [(name, len(one)) for name, one in zip(seen.names, objects, strict=True) if len(one) > MANY]  # type: ignore[arg-type]
    found.notes.extend(
        f"{name} has {count:,} objects: all are learned, and a step with this image may take much time and memory"
        for name, count in many
    )
    bare = sum(not len(one) for one in objects)  # type: ignore[arg-type]
    if bare:
        found.notes.append(f"{bare} of {len(objects)} images have no objects")
    found.notes.extend(absent_notes(found.counts, "object"))
    _judge_labels(dataset, found, objects, seen, limit, bar)  # type: ignore[arg-type]
    return found


def _judge_labels(
    dataset: Dataset, found: DetectFindings, objects: Sequence[Objects], seen: Looks, limit: int, bar: Silent
) -> None:
    """Judge the classes of objects by what is inside their boxes, and add suspects and notes to the findings."""
    found.notes.append("the places of boxes were not judged, nor whether an object lacks a box")
    pairs = [(item, n) for item in seen.good for n in _single(objects[item])]
    labels = np.array([int(objects[item].labels[n]) for item, n in pairs], np.int64)
    rows = chosen(labels, limit if len(dataset.labels) > 1 else 0)
    if len(dataset.labels) > 1:
        found.notes.extend(limited(len(rows), len(pairs), "object"))
    if not len(rows):
        return

    def crops(of: Sequence[int]) -> Iterator[Tensor]:
        open_item, image = -1, None
        for row in of:
            item, n = pairs[rows[row]]
            if item != open_item:  # rows are in the order of images
                open_item, image = item, dataset.image(item)
            assert image is not None
            yield crop(image, objects[item].boxes[n])

    thumbnails = [
        resize(one.contiguous(), (THUMBNAIL, THUMBNAIL)).numpy().reshape(-1)
        for one in bar.track(crops(range(len(rows))), "looking at objects", len(rows))
    ]
    groups = copies_of(len(objects), seen.copies)[[pairs[row][0] for row in rows]]
    verdicts, notes = judge(labels[rows], dataset.labels, np.stack(thumbnails), groups, crops, "object", bar)
    found.notes.extend(notes)
    for verdict in verdicts:
        row = rows[verdict.row]
        item, n = pairs[row]
        box = objects[item].boxes[n].tolist()
        suspect = Suspect.of(verdict, seen.names[item], dataset.labels, int(labels[row]), item, n + 1, box)
        found.suspects.append(suspect)
        found.labels.append(f"{suspect.name}: {suspect.describe()}")


def _single(one: Objects) -> list[int]:
    """The objects that are no crowds."""
    return [n for n in range(len(one)) if one.crowd is None or not one.crowd[n]]


def repeated(boxes: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """(N, 4) boxes, (N,) labels -> of each object that is there before with its class, and an intersection over union
    above SAME: its index -> an earlier one's. Of more than MAX_PAIRS pairs those nearest in x are compared."""
    found: dict[int, int] = {}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept, first, inverse = np.unique(boxes[rows], axis=0, return_index=True, return_inverse=True)
        origin = rows[first][inverse.reshape(-1)]
        found.update({int(row): int(one) for row, one in zip(rows, origin, strict=True) if row != one})
        # In the order of x1, boxes that overlap so much are near each other: what the second begins later, at most
        # (1 - SAME) of the first one's width, is missing from what they share.
        wide, area = kept[:, 2] - kept[:, 0], (kept[:, 2:] - kept[:, :2]).prod(1)
        ends = np.searchsorted(kept[:, 0], kept[:, 0] + (1 - SAME) * wide, side="right")
        counts = (ends - np.arange(len(kept)) - 1).clip(max=max(1, MAX_PAIRS // len(boxes)))
        start = 0
        while start < len(kept):
            stop = max(start + 1, int(np.searchsorted(np.cumsum(counts[start:]), ROWS)) + start)
            one = np.repeat(np.arange(start, stop), counts[start:stop])
            offset = np.arange(len(one)) - np.repeat(
                np.cumsum(counts[start:stop]) - counts[start:stop], counts[start:stop]
            )
            two = one + 1 + offset
            low, high = np.maximum(kept[one, :2], kept[two, :2]), np.minimum(kept[one, 2:], kept[two, 2:])
            common = (high - low).clip(min=0).prod(1)
            near = common > SAME * (area[one] + area[two] - common)
            pairs = np.sort(np.stack([rows[first[one[near]]], rows[first[two[near]]]]), 0)
            after, place = np.unique(pairs[1], return_index=True)
            for again, before in zip(after.tolist(), pairs[0, place].tolist(), strict=True):
                found.setdefault(again, before)
            start = stop
    return dict(sorted(found.items()))
