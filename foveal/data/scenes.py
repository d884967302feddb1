"""Scenes: digits and shapes pasted on photographs, with all that the tasks of foveal ask of an image, made from a seed.

Handwritten digits (Alpaydin and Kaynak 1998, through scikit-learn) and four drawn shapes lie at random scale, rotation
and overlap on parts of scikit-learn's two sample photographs. Digits and places in the photographs that train sees are
seen by no other split. An object has the ink of one of seven colours, chosen to stand out where it lies, and a thin
border that sets it off from whatever it covers.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from foveal.data.dataset import SPLITS, Dataset, ImageArray, LabelColumn, count_classes
from foveal.errors import InputError
from foveal.structures import Caption, Objects, SemanticMap, Target
from foveal.system import resize

SIDE = 96  # pixels
COUNTS = {"train": 1200, "val": 150, "test": 300}
DIGITS = ("0", "1", "2", "3")
SHAPES = ("circle", "square", "triangle", "star")
OBJECTS = DIGITS + SHAPES
TEXTURES = ("temple", "flower")  # what fills the rest of an image: scikit-learn's china.jpg and flower.jpg
INKS = {
    "red": (215, 35, 35),
    "yellow": (245, 215, 40),
    "green": (30, 160, 60),
    "blue": (40, 80, 225),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
WORDS = ("a", *INKS, *OBJECTS, "left", "right", "of", "above", "below")
LABELS = {Objects.task: OBJECTS, SemanticMap.task: OBJECTS + TEXTURES, Caption.task: WORDS}
MIRRORED = (0, 2, 1)  # keypoints top, left, right in the mirror image

MOST = 4  # objects in an image
HEIGHTS = {"digit": (24, 48), "shape": (16, 48)}  # of the upright object, in pixels
TILT = 30.0  # degrees either way, so that every object keeps a top
MIN_VISIBLE = 0.6  # of an object's own pixels, what others and the border of the image leave of it
FINE = 8  # pixels of a digit drawn for each of its 8 x 8 before it is scaled
INK = 0.45  # share of full ink from which a pixel of a digit is a part of its stroke
BORDER = 1.2  # pixels
STANDS_OUT = 120.0  # least distance of an ink from what lies under it, in RGB
COLUMNS = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}  # of the photographs


class Scenes(Sequence[Target]):
    """What is known of the scenes, in flat arrays that worker processes share; targets are made when asked for.

    task:   which targets: Objects to detect, SemanticMap to segment, Caption to caption.
    ends:   (N,) one after the last object of each image, in the arrays of objects.
    owners: (N, H, W) uint8: 0 where no object is seen, k where the k-th object of the image is.
    boxes:  (M, 4), labels (M,), inks (M,), points (M, 3, 3): of all objects.
    stuff:  (N,) index into TEXTURES.
    """

    def __init__(self, task: str, ends: Any, owners: Any, boxes: Any, labels: Any, inks: Any, points: Any, stuff: Any):
        self.task, self.ends, self.owners, self.stuff = task, ends, owners, stuff
        self.boxes, self.labels, self.inks, self.points = boxes, labels, inks, points

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        rows = slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))
        labels, boxes, owner = self.labels[rows], self.boxes[rows], self.owners[index]
        if self.task == SemanticMap.task:
            names = np.concatenate([[len(OBJECTS) + self.stuff[index]], labels])
            return SemanticMap(torch.from_numpy(names[owner]))
        if self.task == Caption.task:
            return Caption(torch.tensor([WORDS.index(word) for word in _say(labels, self.inks[rows], boxes)]))
        masks = torch.from_numpy(owner[None] == np.arange(1, len(labels) + 1)[:, None, None])
        tensors = (torch.from_numpy(array.copy()) for array in (boxes, labels, self.points[rows]))
        return Objects(next(tensors), next(tensors), masks=masks, keypoints=next(tensors))


class SceneObjects(Scenes):
    """The same to detect, with how often each class is there."""

    def counts(self, items: np.ndarray | None, mapping: Tensor | None, num_classes: int) -> np.ndarray:
        owners = np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))
        labels = self.labels if items is None else self.labels[np.isin(owners, items)]
        return count_classes(labels, mapping, num_classes)


def make_scenes(digits: Dataset, task: str | None = None, seed: int = 0) -> Dataset:
    """1,650 images of 96 x 96 with one to four objects, from the data set of digits.

    task: "detect" (default): Objects with the boxes, masks and keypoints of what is seen of them. A keypoint, of the
          object's top, left and right, is 2 where it is seen, 1 where another object hides it, 0 outside the image.
          "segment": SemanticMap, in which the photograph has a name too. "caption": Caption, as in "a red 3 left of
          a blue star": the larger two objects, the largest first.
    """
    task = task or Objects.task
    if task not in LABELS:
        raise InputError(f"scenes is data to {', '.join(LABELS)}, not to {task}")
    painter = _Painter(digits)
    splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [COUNTS[split] for split in SPLITS])
    scenes = [painter.paint(SPLITS[split], np.random.default_rng([seed, i])) for i, split in enumerate(splits)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    kind = SceneObjects if task == Objects.task else Scenes
    targets = kind(
        task,
        np.cumsum([len(scene.labels) for scene in scenes]),
        np.stack([scene.owner for scene in scenes]),
        np.concatenate([_boxes(scene.owner, len(scene.labels)) for scene in scenes]),
        np.concatenate([scene.labels for scene in scenes]),
        np.concatenate([scene.inks for scene in scenes]),
        np.concatenate([scene.points for scene in scenes]).astype(np.float32),
        np.array([scene.texture for scene in scenes]),
    )
    # Left and right are words of captions, which a mirror would make wrong.
    return Dataset(
        source="scenes",
        task=task,
        labels=LABELS[task],
        images=ImageArray(images, "scenes"),
        targets=targets,
        splits=splits,
        upright=task == Caption.task,
        mirrored=MIRRORED,
    )


class _Scene(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8
    owner: np.ndarray  # (H, W) uint8
    labels: np.ndarray  # (n,)
    inks: np.ndarray  # (n,)
    points: np.ndarray  # (n, 3, 3)
    texture: int


class _Painter:
    """Paints scenes with the digits and the parts of the photographs that belong to a split."""

    def __init__(self, digits: Dataset) -> None:
        from sklearn.datasets import load_sample_images

        assert isinstance(digits.targets, LabelColumn)
        assert isinstance(digits.images, ImageArray)
        values, images = digits.targets.values, digits.images.images
        assert isinstance(images, Tensor)
        # A frame of no ink around, so that strokes at the border are drawn whole.
        grey = pad(images[:, :1].float() / 255, (1, 1, 1, 1))
        self.originals = {
            split: [np.flatnonzero((values == int(name)) & (digits.splits == code)) for name in DIGITS]
            for code, split in enumerate(SPLITS)
        }
        fields = interpolate(grey[values < len(DIGITS)], scale_factor=FINE, mode="bicubic")[:, 0].numpy()
        self.fields = dict(zip(np.flatnonzero(values < len(DIGITS)).tolist(), fields, strict=True))
        self.photographs = [torch.tensor(photograph).permute(2, 0, 1) for photograph in load_sample_images().images]

    def paint(self, split: str, rng: np.random.Generator) -> _Scene:
        texture = int(rng.integers(len(TEXTURES)))
        canvas = self.ground(texture, split, rng)
        owner = np.zeros((SIDE, SIDE), np.uint8)
        labels: list[int] = []
        inks: list[int] = []
        points: list[np.ndarray] = []
        areas, seen = np.zeros(MOST + 1, np.int64), np.zeros(MOST + 1, np.int64)  # pixels of each object
        for _ in range(int(rng.integers(1, MOST, endpoint=True))):
            for _ in range(20):
                label = int(rng.integers(len(OBJECTS)))
                # Another place for what would hide too much, or itself be hidden by the border of the image.
                (y, x), depth, corners, area = self.place(label, split, rng)
                shown = depth > 0
                under = owner[y, x]
                covered = np.bincount(under[shown], minlength=MOST + 1)
                left = seen - covered
                if shown.sum() < MIN_VISIBLE * area or (left[1:] < MIN_VISIBLE * areas[1:]).any():
                    continue
                taken = [inks[k - 1] for k in np.flatnonzero(covered[1:]) + 1]
                ink = _choose_ink(canvas[y, x], shown, taken, rng)
                _draw(canvas[y, x], depth, (_COLOURS[ink] + rng.uniform(-10, 10, 3)).astype(np.float32))
                labels.append(label)
                inks.append(ink)
                number = len(labels)
                under[shown], areas[number] = number, area
                seen = left
                seen[number] = shown.sum()
                points.append(corners)
                break
        keypoints = np.stack([_seen(corners, owner, k + 1) for k, corners in enumerate(points)])
        image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
        return _Scene(image, owner, np.array(labels), np.array(inks), keypoints, texture)

    def ground(self, texture: int, split: str, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) float: a part of a photograph, of another size, maybe mirrored, brightness and contrast changed."""
        photograph = self.photographs[texture]
        first, last = (round(share * photograph.shape[2]) for share in COLUMNS[split])
        side = int(rng.integers(64, 128, endpoint=True))
        top, left = int(rng.integers(photograph.shape[1] - side + 1)), int(rng.integers(first, last - side + 1))
        part = photograph[:, top : top + side, left : left + side]
        pixels = resize(part, (SIDE, SIDE)).permute(1, 2, 0).numpy().astype(np.float32)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        mean = pixels.mean()
        pixels = (pixels - mean) * np.float32(rng.uniform(0.6, 1.1)) + mean * np.float32(rng.uniform(0.6, 1.1))
        return np.ascontiguousarray(np.clip(pixels, 0, 255))

    def place(
        self, label: int, split: str, rng: np.random.Generator
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, int]:
        """Where an object lies: the part of the image that holds it; how far within its outline each pixel of that
        part is, in pixels; its keypoints (3, 2), as x and y; and how many pixels it has, in the image or not."""
        kind = "digit" if label < len(DIGITS) else "shape"
        half = rng.uniform(*HEIGHTS[kind]) / 2
        angle = math.radians(rng.uniform(-TILT, TILT)) if OBJECTS[label] != "circle" else 0.0
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = rng.uniform(0.8 * half, SIDE - 0.8 * half, 2)
        reach = half * (cos + abs(sin)) + 1
        x0, y0 = math.floor(x - reach), math.floor(y - reach)
        extent = math.ceil(2 * reach) + 1
        # The upright frame of the object has its middle at (0, 0) and its upper edge at v = -1.
        columns = (np.arange(x0, x0 + extent, dtype=np.float32) + np.float32(0.5 - x)) / np.float32(half)
        rows = ((np.arange(y0, y0 + extent, dtype=np.float32) + np.float32(0.5 - y)) / np.float32(half))[:, None]
        u, v = columns * np.float32(cos) + rows * np.float32(sin), rows * np.float32(cos) - columns * np.float32(sin)
        if kind == "digit":
            choices = self.originals[split][label]
            depth, width = self.digit(int(choices[rng.integers(len(choices))]), u, v, half)
            frame = np.array([[0, -1], [-width, 0], [width, 0]])
        else:
            outline, frame = _SHAPES[OBJECTS[label]]
            depth = outline(u, v) * half
        points = frame @ np.array([[cos, sin], [-sin, cos]]) * half + [x, y]
        top, left = max(0, -y0), max(0, -x0)
        bottom, right = min(extent, SIDE - y0), min(extent, SIDE - x0)
        part = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
        return part, depth[top:bottom, left:right], points, int((depth > 0).sum())

    def digit(self, original: int, u: np.ndarray, v: np.ndarray, half: float) -> tuple[np.ndarray, float]:
        """Depth of a digit, scaled to the height of the frame; and half its width in the frame."""
        field = self.fields[original]
        ink = field > INK
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        scale = float(bottom - top) / 2
        row = np.clip(v * scale + (top + bottom) / 2, 0, len(field) - 1).astype(np.int64)
        column = np.clip(u * scale + (left + right) / 2, 0, len(field) - 1).astype(np.int64)
        # Ink falls from full to none in about one and a half pixels of the original.
        depth = (field[row, column] - INK) * (1.5 * FINE * half / scale)
        return depth, (right - left) / (bottom - top)


def _polygon(corners: list[tuple[float, float]]) -> Any:
    """(u, v) -> how far within a convex polygon, whose corners go clockwise to the eye, a point is."""

    def depth(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        inside = np.full_like(u, math.inf)
        for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = math.hypot(x2 - x1, y2 - y1)
            inside = np.minimum(inside, ((x2 - x1) * (v - y1) - (y2 - y1) * (u - x1)) / length)
        return inside

    return depth


def _star(u: np.ndarray, v: np.ndarray, inner: float = 0.45) -> np.ndarray:
    """Depth in a star of five tips on the unit circle, inner corners on a circle of `inner`: folded to half a tip."""
    angle = np.abs((np.arctan2(u, -v) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(u, v)
    x, y = radius * np.sin(angle), radius * np.cos(angle)
    # The edge goes from (0, 1) to the inner corner.
    dx, dy = inner * math.sin(math.pi / 5), inner * math.cos(math.pi / 5) - 1
    return (-dx * (y - 1) + dy * x) / math.hypot(dx, dy)


_COLOURS = np.array(list(INKS.values()), np.float32)
_TIP = (math.sin(2 * math.pi / 5), -math.cos(2 * math.pi / 5))
_SHAPES: dict[str, tuple[Any, np.ndarray]] = {
    "circle": (lambda u, v: 1 - np.hypot(u, v), np.array([[0, -1], [-1, 0], [1, 0]])),
    "square": (_polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)]), np.array([[0, -1], [-1, 0], [1, 0]])),
    "triangle": (_polygon([(0, -1), (1, 1), (-1, 1)]), np.array([[0, -1], [-1, 1], [1, 1]])),
    "star": (_star, np.array([[0, -1], [-_TIP[0], _TIP[1]], _TIP])),
}


def _choose_ink(pixels: np.ndarray, shown: np.ndarray, taken: list[int], rng: np.random.Generator) -> int:
    """An ink that stands out from the mean of the pixels under it, one of those that do, or the one that does most;
    none of those of the objects under it, which are taken."""
    mean = np.tensordot(shown.astype(np.float32), pixels, 2) / shown.sum()
    distance = np.sqrt(((_COLOURS - mean) ** 2).sum(1))
    distance[taken] = 0
    good = np.flatnonzero(distance >= STANDS_OUT)
    return int(rng.choice(good)) if len(good) else int(distance.argmax())


def _draw(pixels: np.ndarray, depth: np.ndarray, ink: np.ndarray) -> None:
    """Paint an object over its pixels (h, w, 3), with a border that is dark around light ink and light around dark."""
    border = 0.25 * ink if ink.mean() > 110 else 0.4 * ink + 150
    cover, inner = (np.clip(depth + offset, 0, 1)[..., None] for offset in (0.5, 0.5 - BORDER))
    pixels += cover * (border + inner * (ink - border) - pixels)


def _seen(corners: np.ndarray, owner: np.ndarray, number: int) -> np.ndarray:
    """(3, 3): the keypoints with how they are seen: 2, behind a later object 1, outside the image 0."""
    column, row = np.floor(corners).astype(int).T
    inside = (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
    hidden = owner[row.clip(0, SIDE - 1), column.clip(0, SIDE - 1)] > number
    return np.column_stack([corners, np.where(inside, np.where(hidden, 1, 2), 0)])


def _boxes(owner: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) float32: the box of what is seen of each object."""
    boxes = np.zeros((count, 4), np.float32)
    for k in range(count):
        rows, columns = np.flatnonzero((owner == k + 1).any(1)), np.flatnonzero((owner == k + 1).any(0))
        boxes[k] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _say(labels: np.ndarray, inks: np.ndarray, boxes: np.ndarray) -> list[str]:
    """The words for one image."""
    x1, y1, x2, y2 = boxes.T
    order = np.argsort(-(x2 - x1) * (y2 - y1), kind="stable")[:2]
    colours = list(INKS)
    names = [["a", colours[inks[k]], OBJECTS[labels[k]]] for k in order]
    if len(order) == 1:
        return names[0]
    one, two = order
    x, y = x1[one] + x2[one] - x1[two] - x2[two], y1[one] + y2[one] - y1[two] - y2[two]
    between = ["right" if x > 0 else "left", "of"] if abs(x) >= abs(y) else ["below" if y > 0 else "above"]
    return [*names[0], *between, *names[1]]
