"""What is wrong with data to detect: objects in boxes."""

from dataclasses import dataclass, field

import numpy as np

from foveal.data.dataset import Dataset
from foveal.data.files import Complaints
from foveal.data.findings import Findings, look
from foveal.data.objects import EMPTY, misplaced
from foveal.data.splits import absent_notes
from foveal.progress import SILENT, Silent

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
    """

    images: dict[str, int] = field(default_factory=dict)
    showing: dict[str, dict[str, int]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list, metadata={"title": "boxes outside the image"})
    empty: list[str] = field(default_factory=list, metadata={"title": "boxes without area"})
    duplicated: list[str] = field(default_factory=list, metadata={"title": "objects that are there twice"})
    implausible: list[str] = field(default_factory=list, metadata={"title": "implausible boxes"})

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


def check(dataset: Dataset, bar: Silent = SILENT) -> DetectFindings:
    """Read every image once and say what is wrong with images, objects and splits."""
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
    return found


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
