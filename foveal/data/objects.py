"""The objects of all images in flat arrays, and how the readers of COCO, VOC and YOLO files fill them.

What can be taken in one way only is put right and counted: a box that sticks out of its image is clipped; one wholly
outside, or without area, is left out. What may mean anything is an error that names file and annotation.
"""

import contextlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foveal.data.dataset import Dataset, ImageFiles, count_classes
from foveal.data.files import Complaints
from foveal.data.frames import Frame
from foveal.data.image import ImageError, image_size
from foveal.data.splits import complete_splits
from foveal.errors import InputError
from foveal.ops.masks import polygon_mask, rle_counts, rle_decode, rle_encode, rle_text
from foveal.structures import Masks, Objects

BACKWARDS = "boxes that end before they begin"
CLIPPED, OUTSIDE, EMPTY = "stuck out of the image and were clipped", "lay outside it", "had no area"
SLACK = 0.1  # pixels that a box may stick out by without a word: files round
FAR = 0.1  # share of a side by which a box leaves its image that is not one drawn carelessly
MAX_OBJECTS = 100_000  # in an image; NWPU-Crowd has 20,033 in one
MAX_KEYPOINTS = 1024  # of an object; faces have up to 468
MAX_POINTS = 2**28  # key points of all objects in one array, those included that an object lacks
MAX_CROSSINGS = 2**25  # of the sides of an object's polygons with rows of pixels
CERTAIN = 5  # boxes from which what all have in common is no chance

Polygons = list[np.ndarray]  # each (P, 2) float32 corners x, y


class Turned(NamedTuple):
    """A run-length code, as COCO's text, in another frame than the upright image."""

    code: str
    frame: Frame


Segmentation = Polygons | str | Turned  # text is a run-length code as COCO has it


@dataclass(frozen=True)
class Segmentations:
    """The masks of all objects as their files have them.

    data:   (bytes,) uint8, one piece after the other: the float32 corners of a polygon, or a run-length code as text.
    ends:   where each piece ends in `data`.
    pieces: (M,) where each object's pieces end in `ends`; an object has one or several polygons, or one code, or none.
    coded:  (M,) bool: it is a code.
    frames: of the codes that are in another frame than the upright image.
    """

    data: np.ndarray
    ends: np.ndarray
    pieces: np.ndarray
    coded: np.ndarray
    frames: Mapping[int, Frame]

    def __getitem__(self, index: int) -> Segmentation:
        first, last = self.pieces[index - 1] if index else 0, self.pieces[index]
        starts = [int(self.ends[piece - 1]) if piece else 0 for piece in range(first, last)]
        parts = [self.data[start:end].tobytes() for start, end in zip(starts, self.ends[first:last], strict=True)]
        if self.coded[index]:
            code = parts[0].decode("ascii")
            return Turned(code, self.frames[index]) if index in self.frames else code
        return [np.frombuffer(part, np.float32).reshape(-1, 2) for part in parts]


def drawn(shape: Segmentation, size: tuple[int, int]) -> Tensor:
    """The mask (H, W) bool of one object, for size (H, W): the union of its polygons, or the pixels of its code. Raises
    ImageError where polygons are more work than those of any object."""
    if isinstance(shape, Turned):
        stated = rle_decode(rle_counts(shape.code), shape.frame.stated)
        return torch.from_numpy(shape.frame.mask(stated.numpy()))
    if isinstance(shape, str):
        return rle_decode(rle_counts(shape), size)
    mask = torch.zeros(size, dtype=torch.bool)
    heights = (np.abs(np.diff(points[:, 1], append=points[:1, 1])).clip(max=size[0]).sum() for points in shape)
    if sum(heights) > MAX_CROSSINGS:
        raise ImageError(f"the sides of a polygon cross more than {MAX_CROSSINGS:,} rows of pixels")
    for points in shape:
        mask |= polygon_mask(torch.from_numpy(points.copy()), size)
    return mask


def upright(shape: Segmentation, size: tuple[int, int]) -> Polygons | str:
    """The shape in pixels of the upright image of this size (H, W)."""
    return rle_text(rle_encode(drawn(shape, size))) if isinstance(shape, Turned) else shape


@dataclass(frozen=True)
class ObjectTable(Sequence[Objects]):
    """The objects of N images, M in all, in arrays that worker processes share; `table[i]` are those of image i.

    ends:      (N,) where the objects of each image end.
    sizes:     (N, 2) height and width of each image; 0 where its file cannot be read and no annotation gives them.
    boxes:     (M, 4) float32 x1, y1, x2, y2.
    labels:    (M,) int32.
    crowd, ignored: (M,) bool; areas: (M,) float32; keypoints: (M, K, 3) float32. None where no object needs them.
    segments:  the masks, packed. None where there are none.
    decoded:   whether `table[i]` has Masks. See `with_masks`.
    """

    ends: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray | None = None
    ignored: np.ndarray | None = None
    areas: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    segments: Segmentations | None = None
    decoded: bool = False

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self.rows(index)

        def part(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values[rows].copy())

        return Objects(
            boxes=torch.from_numpy(self.boxes[rows].copy()),
            labels=torch.from_numpy(self.labels[rows].astype(np.int64)),
            masks=self.masks(index) if self.decoded else None,
            keypoints=part(self.keypoints),
            crowd=part(self.crowd),
            areas=part(self.areas),
            ignored=part(self.ignored),
        )

    def rows(self, index: int) -> slice:
        """Where the objects of an image stand in the arrays."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def masks(self, index: int) -> Masks:
        """Those of one image, none of which is drawn yet."""
        assert self.segments is not None
        rows, (height, width) = self.rows(index), self.sizes[index].tolist()
        shapes = tuple(self.segments[row] for row in range(rows.start, rows.stop))
        return Masks(shapes, drawn, ((height, width),))

    def with_masks(self) -> "ObjectTable":
        """The same table, whose objects have Masks. Raises InputError where one has none."""
        bare = len(self.labels)
        if self.segments is not None:
            bare = int((np.diff(self.segments.pieces, prepend=0) == 0).sum())
        if bare:
            raise InputError(f"{bare} of {len(self.labels)} objects have no mask")
        return replace(self, decoded=True)

    def counts(self, items: np.ndarray | None, mapping: Tensor | None, num_classes: int) -> np.ndarray:
        labels = self.labels
        if items is not None:
            parts = [labels[self.rows(index)] for index in items.tolist()]
            labels = np.concatenate(parts) if parts else labels[:0]
        return count_classes(labels, mapping, num_classes)


def misplaced(complain: Complaints) -> int:
    """How many boxes leave their image or end before they begin."""
    return complain.mended[OUTSIDE] + complain.mended[CLIPPED] + complain.faults[BACKWARDS]


class Choices:
    """Counts of what was read in one of several ways, with the first case of each; `settle` notes them."""

    def __init__(self) -> None:
        self.counts, self.first = Counter[str](), dict[str, str]()

    def __call__(self, kind: str, case: str, count: int = 1) -> None:
        self.counts[kind] += count
        self.first.setdefault(kind, case)

    def settle(self, complain: Complaints) -> None:
        for kind, count in self.counts.items():
            complain.note(f"{kind}: {count}, first {self.first[kind]}")


class ObjectRows:
    """Objects on their way into a table: `image`, then `add` for each of its objects, and so on; `dataset` at the end.

    complain: what is done about boxes that cannot be right.
    choices:  what was read in one of several ways.
    """

    def __init__(self, complain: Complaints) -> None:
        self.complain, self.choices = complain, Choices()
        self._shares = self._fractions = self._otherwise = self._far = 0
        self._first_share = self._first_far = ""
        self.paths: list[str] = []
        self.ids: list[int | str] = []
        self.splits, self.ends, self.sizes = array("b"), array("q"), array("i")
        self.boxes, self.labels, self.areas = array("f"), array("i"), array("f")
        self.crowd, self.ignored = array("b"), array("b")
        self.keypoints: list[np.ndarray | None] = []
        self.data, self.piece_ends, self.pieces, self.coded = bytearray(), array("q"), array("q"), array("b")
        self.frames: dict[int, Frame] = {}
        self._size, self._count = (0, 0), 0

    def image(
        self,
        root: Path,
        path: str,
        split: int,
        size: tuple[int, int] | None = None,
        identity: int | str | None = None,
    ) -> tuple[int, int]:
        """The next image: its path below the root, the code of its split, its height and width, which are read from its
        file by default (zeros where that cannot be read), and its id in the annotation file. Returns the size."""
        self._size, self._count = (0, 0) if size is None else size, 0
        if size is None:
            with contextlib.suppress(ImageError):  # the loader leaves the image out, and `check` names it
                self._size = image_size(root / path)
        self.paths.append(path)
        self.ids += [] if identity is None else [identity]
        self.splits.append(split)
        self.sizes.extend(self._size)
        self.ends.append(len(self.labels))
        return self._size

    def add(
        self,
        where: str,
        box: Sequence[float],
        label: int,
        *,
        area: float | None = None,
        crowd: bool = False,
        ignored: bool = False,
        keypoints: np.ndarray | None = None,
        segmentation: Segmentation | None = None,
        otherwise: Sequence[float] | None = None,
        written: Sequence[float] = (),
    ) -> None:
        """An object of the last image. where: file and annotation, for a person. otherwise: the box, if its numbers
        were meant in the way that they are most often mistaken for. written: the four numbers of the file, where they
        count pixels."""
        self._count += 1
        if self._count > MAX_OBJECTS:
            if self._count == MAX_OBJECTS + 1:
                text = f"{where}: it follows {MAX_OBJECTS:,} objects of one image, which may have no more"
                self.complain.fault("images with too many objects", text)
            return
        before = misplaced(self.complain)
        kept = self._judged(where, box)
        fits = otherwise is not None and self._within(otherwise)
        self._otherwise += fits
        if misplaced(self.complain) > before and fits:
            self.complain.otherwise += 1
            if self._overshoot(box) > FAR:
                self._far += 1
                self._first_far = self._first_far or where
        if written and all(0 <= value <= 1 for value in written) and written[2] and written[3]:
            self._shares += 1
            self._fractions += any(0 < value < 1 for value in written)
            self._first_share = self._first_share or f"{where}: ({', '.join(f'{value:g}' for value in written)})"
        if kept is None:
            return
        x1, y1, x2, y2 = kept
        self.boxes.extend(kept)
        self.labels.append(label)
        known = area is not None and 0 <= area < 2**48
        self.areas.append(area if known else (x2 - x1) * (y2 - y1))  # type: ignore[arg-type]
        self.crowd.append(crowd)
        self.ignored.append(ignored)
        self.keypoints.append(keypoints)
        if isinstance(segmentation, Turned):
            segmentation, self.frames[len(self.pieces)] = segmentation
        parts = [] if segmentation is None else segmentation
        for part in [parts] if isinstance(parts, str) else parts:
            self.data += part.encode("ascii") if isinstance(part, str) else part.astype(np.float32).tobytes()
            self.piece_ends.append(len(self.data))
        self.pieces.append(len(self.piece_ends))
        self.coded.append(isinstance(parts, str))
        self.ends[-1] = len(self.labels)

    def _within(self, box: Sequence[float]) -> bool:
        """Whether it is a box inside its image."""
        (x1, y1, x2, y2), (height, width) = box, self._size
        return 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height

    def _overshoot(self, box: Sequence[float]) -> float:
        """By how much of a side a box leaves its image."""
        (x1, y1, x2, y2), (height, width) = box, self._size
        return max(-x1 / width, -y1 / height, x2 / width - 1, y2 / height - 1)

    def _suspect(self) -> None:
        """Complain of numbers that mean something else in all of the data."""
        if 2 * self._shares > self.complain.boxes and self._fractions:
            self.complain.fault(
                "boxes in shares",
                f"{self._first_share} lies between 0 and 1, as {self._shares} of {self.complain.boxes} boxes: write "
                "pixels, not shares of the sides of the image",
            )
        elif self._shares:
            self.choices("boxes within the first pixel, as if in shares of the image", self._first_share, self._shares)
        if self._otherwise == self.complain.boxes >= CERTAIN and 4 * self._far >= self.complain.boxes:
            self.complain.fault(
                "boxes in corners",
                f"{self._first_far}: the box leaves the image, as {misplaced(self.complain)} of {self.complain.boxes} "
                "boxes, and all would fit with width and height in place of the second corner, or the reverse: write "
                "them as the format has them",
            )

    def _judged(self, where: str, box: Sequence[float]) -> tuple[float, float, float, float] | None:
        """The box within its image; None where there is nothing to keep."""
        x1, y1, x2, y2 = box
        self.complain.boxes += 1
        shown = ", ".join(f"{value:g}" for value in box)
        # Beyond that float32 can tell no pixels apart, and sums overflow.
        if not all(abs(value) < 2**24 for value in box):
            self.complain.fault("boxes that are no numbers of pixels", f"{where}: the box ({shown}) is none in pixels")
        elif x2 < x1 or y2 < y1:
            text = f"{where}: the box ({shown}) ends before it begins, as x1, y1, x2, y2"
            self.complain.fault(BACKWARDS, text)
        elif x2 == x1 or y2 == y1:
            self.complain.mend(EMPTY, f"{where}: ({shown}) has no area")
        elif self._size == (0, 0):
            return x1, y1, x2, y2
        else:
            height, width = self._size
            a, b, c, d = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
            place = f"{where}: ({shown}) in an image of {width} x {height}"
            if a >= c or b >= d:
                self.complain.mend(OUTSIDE, place)
                return None
            if max(a - x1, b - y1, x2 - c, y2 - d) > SLACK:
                self.complain.mend(CLIPPED, place)
            return a, b, c, d
        return None

    def pixels(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Centre x, y, width and height in shares of the last image's sides -> x1, y1, x2, y2 in its pixels."""
        height, width = self._size
        x, y, w, h = box
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height

    def dataset(self, source: str, root: Path, labels: Sequence[str], hints: dict[str, str] | None = None) -> Dataset:
        """The data set of all images, once the complaints are settled. areas are kept where a file tells more than the
        boxes do. Raises InputError."""
        self._suspect()
        self.complain.settle(hints)
        self.choices.settle(self.complain)
        if not self.paths:
            raise InputError(f"{source} has no images")
        if not labels:
            raise InputError(f"{source} names no classes")
        count = max((len(points) for points in self.keypoints if points is not None), default=0)
        if count * len(self.labels) > MAX_POINTS:
            raise InputError(
                f"{source}: one of {len(self.labels):,} objects has {count:,} key points; so many objects may have "
                f"{MAX_POINTS // len(self.labels):,} each"
            )
        images = ImageFiles(root, self.paths)
        ends, shown = np.array(self.ends, np.int64), np.array(self.labels, np.int64)
        of = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        splits, drawn = complete_splits(source, images, np.array(self.splits, np.int8), (of, shown))
        return Dataset(source, Objects.task, tuple(labels), images, self._table(), splits, ids=self._ids(), drawn=drawn)

    def _ids(self) -> Sequence[int | str] | None:
        """As one array where all are numbers, since there may be millions."""
        numbers = [identity for identity in self.ids if type(identity) is int and abs(identity) < 2**63]
        return (array("q", numbers) if len(numbers) == len(self.ids) else self.ids) or None

    def _table(self) -> ObjectTable:
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        areas, crowd, ignored = (np.array(values) for values in (self.areas, self.crowd, self.ignored))
        same = np.allclose(areas, (boxes[:, 2:] - boxes[:, :2]).prod(1), rtol=1e-4)
        count = max((len(points) for points in self.keypoints if points is not None), default=0)
        keypoints = np.zeros((len(boxes), count, 3), np.float32)
        for row, points in zip(keypoints, self.keypoints, strict=True):
            row[: 0 if points is None else len(points)] = 0 if points is None else points
        segments = Segmentations(
            np.frombuffer(bytes(self.data), np.uint8),
            np.array(self.piece_ends, np.int64),
            np.array(self.pieces, np.int64),
            np.array(self.coded, bool),
            self.frames,
        )
        return ObjectTable(
            ends=np.array(self.ends, np.int64),
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            boxes=boxes,
            labels=np.array(self.labels, np.int32),
            crowd=crowd.astype(bool) if crowd.any() else None,
            ignored=ignored.astype(bool) if ignored.any() else None,
            areas=None if same else areas.astype(np.float32),
            keypoints=keypoints if count else None,
            segments=segments if len(self.piece_ends) else None,
        )
