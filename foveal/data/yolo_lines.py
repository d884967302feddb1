"""The lines of YOLO's label files: boxes, polygons, or boxes with key points, in shares of the image's sides."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveal.data.files import Complaints
from foveal.data.objects import MAX_KEYPOINTS, MAX_OBJECTS, ObjectRows
from foveal.data.values import read_text
from foveal.data.yolo_settings import Settings
from foveal.errors import InputError
from foveal.wording import counted

UNKNOWN = "objects of no class"
MAX_LABELS = 2**25  # bytes of a label file
MAX_PAIRS = 2**26  # of numbers in the lines that are weighed
SAMPLE = 1000  # lines by whose geometry polygons are told from key points
SURE = math.log(15)  # evidence for one reading from which it is taken


class Reading(NamedTuple):
    """What a long line has after the class: a box and `points` key points of `numbers` numbers, or a polygon (0, 0)."""

    points: int
    numbers: int

    @property
    def columns(self) -> int:
        """How many numbers a line has, the class among them."""
        return 5 + self.points * self.numbers


POLYGONS = Reading(0, 0)


class Lines:
    """Reads label files into rows.

    files:   all label files of the data: where no setting says whether long lines are polygons or key points, they
             decide it together.
    unknown: class numbers without a class, of the files that were read.
    """

    def __init__(self, classes: int, settings: Settings, files: list[Path], rows: ObjectRows) -> None:
        self.classes, self.files, self.rows, self.settings = classes, files, rows, settings
        self.reading = None if settings.points is None else Reading(*settings.points)
        self.unknown: set[int] = set()

    def read(self, file: Path, size: tuple[int, int]) -> None:
        """Put the objects of one image, of height and width `size`, into the rows."""
        try:
            lines = _lines(file)
        except InputError as error:
            self.rows.complain.fault("unreadable labels", str(error))
            return
        for number, line in enumerate(lines, 1):
            if words := line.split():
                self._line(f"{file}, line {number}", [_number(word) for word in words], size)

    def _line(self, where: str, values: list[float], size: tuple[int, int]) -> None:
        complain = self.rows.complain
        if len(values) > 6 and self.reading is None:
            self.reading = choose(self.files, self.settings, complain)
        reading = self.reading or POLYGONS
        fits = len(values) == 5 or (
            len(values) == reading.columns if reading.points else len(values) > 6 and len(values) % 2 == 1
        )
        if not fits or not values[0].is_integer():
            complain.fault("lines that are no object", f"{where}: {_misfit(values, reading)}")
        elif not 0 <= values[0] < self.classes:
            self.unknown.add(int(values[0]))
            text = f"{where}: class {int(values[0])} is none of the {self.classes}, 0 to {self.classes - 1}"
            complain.fault(UNKNOWN, text)
        elif not all(abs(value) < 100 for value in values[1:]):
            complain.fault("boxes that are no shares", f"{where}: its numbers are not shares of the image's sides")
        elif len(values) == 5 or reading.points:
            keypoints = None
            if len(values) > 5:
                keypoints = _keypoints(values[5:], reading.numbers, size)
                if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
                    complain.fault("key points without visibility", f"{where}: a visibility is not 0, 1 or 2")
                    return
            corners = [share * side for share, side in zip(values[1:5], (*size, *size)[::-1], strict=True)]
            self.rows.add(where, self.rows.pixels(values[1:5]), int(values[0]), keypoints=keypoints, otherwise=corners)
        else:
            points = np.array(values[1:], np.float64).reshape(-1, 2) * size[::-1]
            box = (*points.min(0).tolist(), *points.max(0).tolist())
            self.rows.add(where, box, int(values[0]), segmentation=[points.astype(np.float32)])


def _lines(file: Path) -> list[str]:
    """The lines of a label file. Raises InputError where they are too many."""
    lines = read_text(file, MAX_LABELS)[0].splitlines()
    if len(lines) > MAX_OBJECTS:
        raise InputError(f"{file} has {len(lines):,} lines; an image may have {MAX_OBJECTS:,} objects")
    return lines


def _misfit(values: list[float], reading: Reading) -> str:
    if reading.points and values[0].is_integer() and len(values) > 5:
        return (
            f"it has {len(values)} numbers; with {reading.points} key points of {reading.numbers} numbers there are "
            f"{reading.columns}"
        )
    if len(values) == 6 and values[0].is_integer():
        return (
            "its sixth number is a confidence, as in predictions, or an angle; labels have class x y width height, and "
            "rotated boxes four corners"
        )
    return "it is neither class x y width height nor a polygon"


def _keypoints(values: list[float], numbers: int, size: tuple[int, int]) -> np.ndarray:
    """(K, 3) x, y in pixels and visibility. Points at (0, 0) or left of it are absent where no visibility says it."""
    given = np.array(values, np.float64).reshape(-1, numbers)
    points = np.zeros((len(given), 3), np.float32)
    points[:, :2] = given[:, :2] * size[::-1]
    points[:, 2] = given[:, 2] if numbers == 3 else np.where(_absent(given[:, :2]), 0, 2)
    points[points[:, 2] == 0] = 0
    return points


def _absent(points: np.ndarray) -> np.ndarray:
    """(..., 2) -> (...) whether a point without visibility is one that was not annotated."""
    return (points == 0).all(-1) | (points < 0).any(-1)


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- Polygons or key points -------------------------------------------------------------------------------------------


def choose(files: Iterable[Path], settings: Settings, complain: Complaints) -> Reading:
    """Whether long lines are polygons or key points, by all lines of the data, where no kpt_shape says it.

    Key points need one number of values in all long lines; then the geometry of the lines is weighed. The choice is
    noted. Raises InputError where both readings fit.
    """
    counts, lines, step = Counter[int](), list[list[float]](), 1
    for file in files:
        try:
            own = _lines(file)
        except InputError:
            continue
        for line in own:
            words = line.split()
            counts[len(words)] += 1
            if len(words) > 6 and counts[len(words)] % step == 0:
                lines.append([_number(word) for word in words])
                if len(lines) > SAMPLE:
                    lines, step = lines[::2], step * 2
    long = [count for count in counts if count > 6]
    if settings.mirrored:
        points = len(settings.mirrored)
        numbers = [number for number in (2, 3) if long == [5 + points * number]]
        if not numbers:
            raise InputError(
                f"{settings.file}: flip_idx has {points} key points, but lines have {' or '.join(map(str, long[:3]))} "
                "numbers; write kpt_shape: [number of key points, 2 or 3] into it"
            )
        return Reading(points, numbers[0])
    if len(long) > 1:
        return POLYGONS
    columns = long[0]
    if columns > 5 + 3 * MAX_KEYPOINTS:
        return POLYGONS
    # Whether a polygon crosses itself is a question about each pair of its sides.
    values = np.array(lines[: max(1, MAX_PAIRS // columns**2)], np.float64)
    values = values[np.isfinite(values).all(1)]
    if not len(values):
        return POLYGONS
    third = (columns - 5) % 3 == 0 and bool(np.isin(values[:, 7::3], (0, 1, 2)).all())
    fits = third and sum(_in_box(one[1:5], one[5:].reshape(-1, 3)) for one in values) >= 0.9 * len(values)
    if columns % 2 == 0 and not fits:
        return POLYGONS  # of which each line is then a fault
    numbers_each = 3 if third else 2
    reading = Reading((columns - 5) // numbers_each, numbers_each)
    found = evidence(values, numbers_each) if columns % 2 else -math.inf
    place = settings.file or "a data.yaml"
    shown = f"a box and {counted(reading.points, 'key point')}"
    if found <= -SURE:
        complain.note(
            f"lines of {columns} numbers are read as {shown} of {numbers_each} numbers; "
            f"kpt_shape: [{reading.points}, {numbers_each}] in {place} says so for certain"
        )
        return reading
    if found >= SURE and 5 in counts:
        return POLYGONS  # key points have no lines of a box alone
    if found >= SURE or 5 in counts:
        complain.note(
            f"lines of {columns} numbers are read as polygons; were they a box and key points, kpt_shape: "
            f"[{reading.points}, {numbers_each}] in {place} would say so"
        )
        return POLYGONS
    raise InputError(
        f"lines of {columns} numbers may be polygons or {shown}: write kpt_shape: "
        f"[{reading.points}, {numbers_each}] into {place} for key points, kpt_shape: [0, 0] for polygons"
    )


def evidence(lines: np.ndarray, numbers: int) -> float:
    """How much more probable (N, columns) lines are as polygons than as boxes with key points of that many numbers: the
    logarithm of the ratio, negative where they are less.

    Of each line three things are weighed, by rough probabilities of each under both readings: whether the second pair
    of values, a corner or else a width and height, lies where the other corners are; whether the corners in their order
    make a polygon that does not cross itself or, of four, a parallelogram; and whether the points lie in the box.
    """
    total = 0.0
    for line in lines[:, 1:]:
        corners = line.reshape(-1, 2) if len(line) % 2 == 0 else line[:-1].reshape(-1, 2)
        others = np.delete(corners, 1, 0)
        low, high = others.min(0), others.max(0)
        around = (high - low).max() + 0.01
        low, high = np.clip(low - around, 0, 1), np.clip(high + around, 0, 1)
        near = float(np.clip((high - low).prod(), 1e-3, 0.99))
        inside = bool(((corners[1] >= low) & (corners[1] <= high)).all())
        total += math.log(0.99 / near) if inside else math.log(0.01 / (1 - near))
        total += _order(corners)
        points = line[4:].reshape(-1, numbers)
        total += math.log(0.5 / 0.95) if _in_box(line[:4], points) else math.log(0.5 / 0.05)
        if numbers == 3:
            total -= 3.0 * len(points)  # corners that are whole numbers in each third place
    return total


def _order(corners: np.ndarray) -> float:
    """Evidence of the order of corners: that of points without an order is a polygon's by chance alone."""
    if len(corners) == 3:
        return 0.0
    chance = {4: 0.67, 5: 0.4}.get(len(corners), 0.15)  # of an order without crossing
    if _crosses(corners):
        return math.log(0.02 / (1 - chance))
    if len(corners) > 4:
        return math.log(0.98 / chance)
    diagonal = max(np.abs(corners[0] - corners[2]).max(), np.abs(corners[1] - corners[3]).max(), 1e-6)
    skew = float(np.abs(corners[0] - corners[1] + corners[2] - corners[3]).max() / diagonal)
    return math.log(0.3 / 0.005) if skew < 0.02 else math.log(0.3 / 0.1) if skew < 0.25 else math.log(0.4 / 0.6)


def _in_box(box: np.ndarray, points: np.ndarray) -> bool:
    """Whether (K, 2 or 3) key points that are there lie in a box of the image, its centre, width and height."""
    there = points[:, 2] > 0 if points.shape[1] == 3 else ~_absent(points[:, :2])
    half = box[2:] / 2
    slack = 0.1 * half + 0.01
    in_image = bool((half > 0).all() and (box[:2] - half > -0.02).all() and (box[:2] + half < 1.02).all())
    return in_image and bool((np.abs(points[there, :2] - box[:2]) <= half + slack).all())


def _crosses(corners: np.ndarray) -> bool:
    """Whether two sides of a closed polygon that are no neighbours cross."""
    start, end = corners, np.roll(corners, -1, 0)

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.sign(
            (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        )

    a, b, c, d = start[:, None], end[:, None], start[None], end[None]
    crossing = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return bool(crossing.any())
