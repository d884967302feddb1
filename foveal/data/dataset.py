"""A data set: images, targets, class names and splits, held as flat arrays that worker processes share."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from foveal.data.image import MAX_FILE, read_image
from foveal.errors import InputError, few, nearest
from foveal.filesystem import open_file
from foveal.structures import ANYTHING, Label, Target
from foveal.task import Task

SPLITS = ("train", "val", "test")
ALL = "all"  # in place of a split: every image


class Images(Protocol):
    """Where the pixels come from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8."""

    def name(self, index: int) -> str:
        """What a person calls this image: its path, or its number in a built-in set."""

    def content(self, index: int) -> bytes:
        """Bytes that are equal for copies of one image."""


class ImageFiles:
    """Image files below a folder; their paths stand in one row of bytes."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        row, ends = bytearray(), array("q")
        for path in paths:
            row += os.fsencode(path)
            ends.append(len(row))
        self.root = root
        self.ends = np.array(ends)
        self.paths = np.frombuffer(row, np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.root / self._path(index))

    def name(self, index: int) -> str:
        return str(self.root / self._path(index))

    def digest(self, index: int) -> bytes:
        with open_file(self.root / self._path(index), MAX_FILE) as file:
            return hashlib.file_digest(file, "blake2b").digest()

    def content(self, index: int) -> bytes:
        # Size, beginning, middle and end tell files apart as well as the whole does, and cost three reads.
        with open_file(self.root / self._path(index)) as file:
            size = os.fstat(file.fileno()).st_size
            parts = [str(size).encode()]
            for start in sorted({0, max(0, size // 2 - _PART // 2), max(0, size - _PART)}):
                file.seek(start)
                parts.append(file.read(_PART))
        return b"".join(parts)

    def twice(self) -> Iterator[tuple[int, int]]:
        """(the first, another) index of each path that is there more than once."""
        # Numbers in place of a dictionary of millions of paths; those that are equal are then looked at.
        marks = np.fromiter((hash(os.path.normpath(self._path(i))) for i in range(len(self))), np.int64, len(self))
        order = np.argsort(marks, kind="stable")
        first = 0
        for place in (np.flatnonzero(np.diff(marks[order]) == 0) + 1).tolist():
            if marks[order[first]] != marks[order[place]]:
                first = place - 1
            one, two = int(order[first]), int(order[place])
            if os.path.normpath(self._path(one)) == os.path.normpath(self._path(two)):
                yield one, two

    def _path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.paths[start : self.ends[index]].tobytes())


_PART = 16384  # bytes


class ImageArray:
    """Images in memory: (N, 3, H, W) uint8, or a list of (3, H, W) where sizes differ."""

    def __init__(self, images: Tensor | Sequence[Tensor], title: str) -> None:
        self.images, self.title = images, title

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"{self.title}/{index}"

    def content(self, index: int) -> bytes:
        return self.images[index].numpy().tobytes()


@runtime_checkable
class Counted(Protocol):
    """Targets that know how often they show each class."""

    def counts(self, items: np.ndarray | None, mapping: Tensor | None, num_classes: int) -> np.ndarray:
        """(num_classes,) how often each class stands in these items (None: all), by its new index under `mapping`."""


def count_classes(values: np.ndarray, mapping: Tensor | None, num_classes: int) -> np.ndarray:
    """(num_classes,) how often each class is among the values, by its new index under `mapping`."""
    return np.bincount(values if mapping is None else mapping.numpy()[values], minlength=num_classes)


class LabelColumn(Sequence[Label]):
    """One class for each image, as one array."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.int64)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return Label(torch.tensor(self.values[index]))

    def counts(self, items: np.ndarray | None, mapping: Tensor | None, num_classes: int) -> np.ndarray:
        return count_classes(self.values if items is None else self.values[items], mapping, num_classes)


@dataclass(frozen=True)
class Drawn:
    """How foveal drew splits that the data does not name (data/splits.py).

    splits: their names.
    digest: of the contents of all images that were split, whatever their order.
    rule:   "class", stratified by class; or "content", by content alone.
    older:  (N,) the codes of all images by content alone, the only rule of older runs.
    """

    splits: tuple[str, ...]
    digest: str
    rule: str
    older: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Images with what is known of them. `dataset[i]` is the i-th (image, target) of this view.

    source:  where it came from, as the user wrote it.
    task:    the task that its targets serve.
    labels:  class names.
    images:  the pixels, read when asked for.
    targets: one an image; None where the data has none.
    splits:  (N,) for each image its place in SPLITS.
    split:   the split that this view shows, or several, as in "train+val", or "all"; None where none was chosen.
    items:   which images the view shows, in order.
    mapping: new index of each class of `targets`, after `relabel`.
    upright: the class of an image is another one when the image is mirrored or turned.
    mirrored: which keypoint each becomes in the mirror image, where some come in a left and a right.
    ids:     the id of each image in its file of annotations; None where the layout has none.
    class_ids: split -> class name -> its id in the file of that split; a file of no split stands under None.
    drawn:   how foveal drew the splits that the data does not name; None where the data names all.
    """

    source: str
    task: str
    labels: tuple[str, ...]
    images: Images
    targets: Sequence[Target] | None
    splits: np.ndarray
    split: str | None = None
    items: np.ndarray | None = None
    mapping: Tensor | None = None
    upright: bool = False
    mirrored: tuple[int, ...] | None = None
    ids: Sequence[int | str] | None = None
    class_ids: Mapping[str | None, Mapping[str, int]] = field(default_factory=dict)
    drawn: Drawn | None = None

    def __len__(self) -> int:
        return len(self.images) if self.items is None else len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Target | None]:
        return self.image(index), self.target(index)

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8. Raises ImageError, which names the file, where it does not decode."""
        return self.images[self._item(index)]

    def target(self, index: int) -> Target | None:
        if self.targets is None:
            return None
        target = self.targets[self._item(index)]
        return target if self.mapping is None else target.relabel(self.mapping)

    def name(self, index: int) -> str:
        return self.images.name(self._item(index))

    def digest(self, index: int) -> bytes:
        """Of everything in an image's file, or of its pixels where it has none; `content` samples large files."""
        if isinstance(self.images, ImageFiles):
            return self.images.digest(self._item(index))
        return hashlib.blake2b(self.content(index)).digest()

    def content(self, index: int) -> bytes:
        """Bytes that are equal for copies of one image."""
        return self.images.content(self._item(index))

    def id(self, index: int) -> int | str | None:
        """The image's id in its file of annotations; None where the layout has none."""
        return None if self.ids is None else self.ids[self._item(index)]

    @property
    def ids_of_classes(self) -> Mapping[str, int]:
        """Class name -> its id in the file of this split, else in the first one; empty where there are no ids."""
        return self.class_ids.get(self.split) or next(iter(self.class_ids.values()), {})

    @property
    def in_memory(self) -> bool:
        """Whether reading an image costs next to nothing."""
        return isinstance(self.images, ImageArray)

    def select(self, *splits: str) -> "Dataset":
        """The view of one split, of several together, or of "all" images. Raises InputError where a split is empty."""
        items, name = np.zeros(len(self.splits), bool), "+".join(splits)
        if name == ALL and self.split in (None, ALL):
            return replace(self, split=ALL)
        for split in splits:
            if split not in SPLITS:
                raise InputError(f"unknown split {split!r}{nearest(split, (*SPLITS, ALL))}")
            if self.split not in (None, name):
                raise InputError(f"{self.source}: this is the {self.split} split, which has no split {split!r} in it")
            found = self.splits == SPLITS.index(split)
            if not found.any():
                present = ", ".join(self.split_counts())
                raise InputError(f"{self.source} has no images in split {split!r}; it has {present}")
            items |= found
        return replace(self, split=name, items=np.flatnonzero(items))

    def drawn_by(self, rule: str | None) -> "Dataset":
        """The same data, its drawn splits by the rule that a run recorded; None stands for runs older than records of
        it. A view of chosen images stays as it is."""
        if self.drawn is None or self.split is not None or rule not in (None, "content"):
            return self
        return replace(self, splits=self.drawn.older, drawn=replace(self.drawn, rule="content"))

    def evaluation_split(self) -> "Dataset":
        """This view if it is of one split; else test, else val, else everything there is."""
        present = self.split_counts()
        chosen = next((split for split in ("test", "val") if split in present), None)
        return self if self.split or chosen is None else self.select(chosen)

    def split_counts(self) -> dict[str, int]:
        """How many images each split has, those without any left out."""
        codes = self.splits if self.items is None else self.splits[self.items]
        counts = np.bincount(codes, minlength=len(SPLITS)).tolist()
        return {split: count for split, count in zip(SPLITS, counts, strict=True) if count}

    def class_counts(self) -> dict[str, int]:
        """How many images are of each class or, in data to detect, how many objects; in the order of `labels`."""
        if not isinstance(self.targets, Counted):
            raise InputError(f"{self.source} has no classes that could be counted")
        counts = self.targets.counts(self.items, self.mapping, len(self.labels)).tolist()
        return dict(zip(self.labels, counts, strict=True))

    def absent_classes(self) -> list[str]:
        """Names of the classes that nothing in this view is of, where it has classes."""
        known = isinstance(self.targets, Counted)
        return [label for label, count in self.class_counts().items() if not count] if known else []

    def serving(self, task: str) -> "Dataset":
        """The same data for a task; some are served by any images, with their classes where each has one.

        Raises InputError where it does not serve.
        """
        if task == self.task:
            return self
        if not Task.of(task).any_images:
            raise InputError(f"{self.source} is data to {self.task}, not to {task}")
        alone: dict[str, Any] = {} if self.task == Label.task else {"labels": (), "targets": None, "mapping": None}
        return replace(self, task=task, **alone)

    def relabel(self, labels: Sequence[str]) -> "Dataset":
        """The same data with the class order of a system; one whose only class is ANYTHING gives that to everything.

        Without class names a system to generate takes the images alone; any other takes the targets as they are, with
        the class order of the data.

        Raises InputError for a class that the system lacks, if anything in this view is of it.
        """
        if not labels:
            return replace(self, labels=(), targets=None, mapping=None) if Task.of(self).any_images else self
        if tuple(labels) == ANYTHING and self.labels:
            nothing = torch.zeros(len(self.labels), dtype=torch.int64)
            return replace(self, labels=ANYTHING, mapping=nothing if self.mapping is None else nothing[self.mapping])
        if tuple(labels) == self.labels:
            return self
        places = {label: number for number, label in reversed([*enumerate(labels)])}
        absent = set(self.absent_classes())
        unknown = [label for label in self.labels if label not in places and label not in absent]
        if unknown:
            raise InputError(
                f"{self.source} has {'classes' if len(unknown) > 1 else 'a class'} that the system does not know: "
                f"{few(unknown, 6)}; it knows {few(labels, 6)}"
            )
        # A class that nothing is of needs no index, and has none.
        mapping = torch.tensor([places.get(label, -1) for label in self.labels])
        return replace(self, labels=tuple(labels), mapping=mapping if self.mapping is None else mapping[self.mapping])

    def _item(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index if self.items is None else int(self.items[index])
