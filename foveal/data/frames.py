"""The frame of an annotation: the image itself, the image before its EXIF orientation, or a larger or smaller copy.

An annotation gives the size of its image. Where the image has another size, all boxes of the data set together decide:
the one frame that holds them is taken and noted; where several or none do, the data is refused.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foveal.data.files import Complaints
from foveal.data.image import ImageError, image_orientation, image_size

Size = tuple[int, int]  # height, width
Box = tuple[float, float, float, float]  # x1, y1, x2, y2

SLACK = 0.01  # share of a side by which boxes may stick out of their frame: files round, and boxes are drawn by hand
FAR = 0.1  # share of a side by which a box leaves its image that is not one drawn carelessly
NEAR = 2  # pixels by which two sizes of one image may differ

OWN = "the image itself"
UNTURNED = "the image before it is turned as its EXIF block says"
SCALED = "an image of the size that the file gives, scaled"
SCALED_UNTURNED = "an unturned image of the size that the file gives, scaled"
SCALED_SWAPPED = "an image of the size that the file gives with width and height swapped, scaled"
REFUSED = "images of another size than annotated"


@dataclass(frozen=True)
class Frame:
    """How pixels of an annotation become pixels of its image.

    size:   height and width of the upright image; zeros where they are unknown.
    stated: height and width of the frame that the annotation counts in.
    turn:   EXIF orientation, 1 to 8, that turns the frame into the upright image.
    """

    size: Size
    stated: Size
    turn: int = 1

    @property
    def same(self) -> bool:
        return self.size == self.stated and self.turn == 1

    @property
    def growth(self) -> float:
        """How many pixels of the image a pixel of the frame covers."""
        return 1.0 if self.same else self.size[0] * self.size[1] / (self.stated[0] * self.stated[1])

    def points(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) x, y in the frame -> in the upright image."""
        (height, width), x, y = self.stated, points[:, 0], points[:, 1]
        if self.turn >= 5:
            x, y, width, height = y, x, height, width
        x = width - x if self.turn in (2, 3, 6, 7) else x
        y = height - y if self.turn in (3, 4, 7, 8) else y
        return np.stack([x * (self.size[1] / width), y * (self.size[0] / height)], 1)

    def box(self, box: Box) -> Box:
        """A box in the frame -> in the upright image. A box that ends before it begins stays as it is."""
        if self.same or not (box[0] <= box[2] and box[1] <= box[3]):
            return box
        corners = self.points(np.array(box, np.float64).reshape(2, 2))
        (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
        return x1, y1, x2, y2

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the frame -> of the upright image, by the nearest pixel."""
        mask = mask.T if self.turn >= 5 else mask
        mask = mask[:, ::-1] if self.turn in (2, 3, 6, 7) else mask
        mask = mask[::-1] if self.turn in (3, 4, 7, 8) else mask
        rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(self.size, mask.shape, strict=True))
        return np.ascontiguousarray(mask[np.ix_(rows, columns)])


class _Doubt(NamedTuple):
    """An image whose annotation gives another size. readings: what the frame may be -> the frame."""

    path: str
    file: str
    hull: Box
    own: Size
    stated: Size
    turn: int
    readings: dict[str, Frame]


class Frames:
    """The frames of all images of a data set: `add` each, then `settle`, then ask for each by its path."""

    def __init__(self, root: Path, complain: Complaints) -> None:
        self.root, self.complain = root, complain
        self._frames: dict[str, Frame] = {}
        self._doubts: list[_Doubt] = []
        self._plain: dict[str, Box] = {}  # around the boxes of each image that has the size that is given, or none

    def add(self, path: str, file: str, stated: Size, boxes: Iterable[Sequence[float]]) -> None:
        """An image, the annotation file, the size that it gives the image (zeros: none) and the boxes."""
        try:
            own = image_size(self.root / path)
        except ImageError:  # the loader leaves the image out, and `check` names it
            self._frames[path] = Frame(stated, stated) if 0 not in stated else Frame((0, 0), (0, 0))
            return
        self._frames[path] = Frame(own, own)
        if (hull := _hull(boxes)) is None:
            return
        if 0 in stated or stated == own:
            self._plain[path] = hull
            return
        turn = image_orientation(self.root / path)
        self._doubts.append(_Doubt(path, file, hull, own, stated, turn, _readings(own, stated, turn)))

    def settle(self) -> None:
        """Decide on the images whose annotation gives another size; refused ones have no frame."""
        groups: dict[tuple[Any, ...], list[_Doubt]] = {}
        for doubt in self._doubts:
            kind = _near(doubt.own, doubt.stated), doubt.stated == doubt.own[::-1], *doubt.readings
            groups.setdefault(kind, []).append(doubt)
        for doubts in groups.values():
            fitting = [
                name for name in doubts[0].readings if all(_holds(doubt.readings[name], doubt.hull) for doubt in doubts)
            ]
            if len(fitting) == 1:
                self._take(fitting[0], doubts)
                continue
            for doubt in doubts:
                del self._frames[doubt.path]
                fits = " and in ".join(fitting) if fitting else "no frame"
                self.complain.fault(
                    REFUSED,
                    f"{doubt.file}: {_described(doubt)}; the boxes would lie in {fits}: correct the size in the file",
                )
        self._doubts = []
        self._settle_plain()

    def _settle_plain(self) -> None:
        """Where boxes leave images of the size that is given, or of which none is given, by far, and all boxes of such
        images with an EXIF orientation lie in the image before it is turned, they are of that image."""
        far = [path for path, hull in self._plain.items() if not _holds(self._frames[path], hull, FAR)]
        if not any(self._turn(path) >= 5 for path in far):
            return
        before: dict[str, Frame] = {}
        for path, hull in self._plain.items():
            size = self._frames[path].size
            if (turn := self._turn(path)) >= 5 and self._frames[path].same:
                before[path] = turned(size, turn)
                if not _holds(before[path], hull):
                    return
        self._frames |= before
        first = next(path for path in far if path in before)
        self.complain.note(
            f"boxes that lie in {UNTURNED}, and not in the turned one: those of {len(before)} images are turned with "
            f"them; first {first}"
        )

    def _turn(self, path: str) -> int:
        try:
            return image_orientation(self.root / path)
        except ImageError:
            return 1

    def _take(self, reading: str, doubts: list[_Doubt]) -> None:
        for doubt in doubts:
            self._frames[doubt.path] = doubt.readings[reading]
        self.complain.note(
            f"sizes that are not those of the images: {len(doubts)}; the boxes are taken in pixels of {reading}, the "
            f"one frame that holds all of them; first {_described(doubts[0])}"
        )
        if reading == UNTURNED:
            # The size does not tell an image that is turned by half, or a square one: it follows the others.
            for path, frame in self._frames.items():
                turn = self._turn(path) if frame.same else 1
                if 1 < turn < 5 or (turn > 1 and frame.size[0] == frame.size[1]):
                    self._frames[path] = turned(frame.size, turn)

    def __getitem__(self, path: str) -> Frame | None:
        """None for an image that was refused."""
        return self._frames.get(path)


def _same_shape(one: Size, two: Size) -> bool:
    """Whether two sizes are of one image, scaled and rounded to whole pixels."""
    return abs(one[0] * two[1] - one[1] * two[0]) <= max(*one, *two)


def _near(one: Size, two: Size) -> bool:
    return all(abs(a - b) <= NEAR for a, b in zip(one, two, strict=True))


def _readings(own: Size, stated: Size, turn: int) -> dict[str, Frame]:
    """What the frame of an annotation may be that gives an image another size."""
    found, swapped = {OWN: Frame(own, own)}, own[::-1]
    if _near(own, stated):
        return found
    if turn >= 5 and stated == swapped:
        found[UNTURNED] = Frame(own, stated, turn)
    elif stated == swapped:
        pass
    else:
        if _same_shape(stated, own):
            found[SCALED] = Frame(own, stated)
        if _same_shape(stated, swapped):
            found[SCALED_SWAPPED] = Frame(own, stated[::-1])
            if turn >= 5:
                found[SCALED_UNTURNED] = Frame(own, stated, turn)
    return found


def _hull(boxes: Iterable[Sequence[float]]) -> Box | None:
    """What all boxes lie in, those left out that end before they begin or are no numbers; None where none is left."""
    x1 = y1 = math.inf
    x2 = y2 = -math.inf
    for a, b, c, d in boxes:
        if -math.inf < a <= c < math.inf and -math.inf < b <= d < math.inf:
            x1, y1, x2, y2 = min(x1, a), min(y1, b), max(x2, c), max(y2, d)
    return None if x1 == math.inf else (x1, y1, x2, y2)


def _holds(frame: Frame, hull: Box, slack: float = SLACK) -> bool:
    height, width = frame.stated
    x, y = max(1.0, slack * width), max(1.0, slack * height)
    return -x <= hull[0] and -y <= hull[1] and hull[2] <= width + x and hull[3] <= height + y


def _described(doubt: _Doubt) -> str:
    turned = ", turned as its EXIF block says" if doubt.turn >= 5 else ""
    (height, width), (own_height, own_width) = doubt.stated, doubt.own
    return f"{doubt.path}: annotated as {width} x {height} pixels, it has {own_width} x {own_height}{turned}"


def turned(size: Size, turn: int) -> Frame:
    """The frame of an image of this upright size before its EXIF orientation."""
    return replace(Frame(size, size[::-1] if turn >= 5 else size), turn=turn)
