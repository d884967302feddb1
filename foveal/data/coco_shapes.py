"""Boxes, masks and key points of COCO's annotations, in pixels of the upright image."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveal.data.frames import Frame, Size, turned
from foveal.data.image import MAX_PIXELS, ImageError, image_orientation
from foveal.data.objects import MAX_KEYPOINTS, Polygons, Segmentation, Turned
from foveal.data.values import number, side
from foveal.errors import InputError
from foveal.ops.masks import rle_box, rle_counts, rle_text

FROM_TEXT = "boxes written as text"
FROM_SHAPE = "boxes that are missing and taken from the mask"


def numbers(values: Any) -> list[float] | None:
    """A list of numbers, as float; NaN for what is too large for one. None for anything else."""
    if not isinstance(values, list):
        return None
    if set(map(type, values)) <= {int, float}:  # nearly always, and there may be millions
        with contextlib.suppress(OverflowError):
            return list(map(float, values))
    found = [number(value) for value in values]
    return None if None in found else found  # type: ignore[return-value]


def bbox(entry: dict[str, Any]) -> tuple[list[float] | None, str]:
    """x, y, width, height of an annotation as it counts them, and the choice that was made for it, if any; of one
    without a bbox, around its mask. None where there is neither."""
    if entry.get("bbox") not in (None, []):
        found = numbers(entry["bbox"])
        if found is None or len(found) != 4:
            return None, ""
        return found, FROM_TEXT if any(isinstance(value, str) for value in entry["bbox"]) else ""
    try:
        shape = _read(entry.get("segmentation"))
    except InputError:
        return None, ""
    if isinstance(shape, tuple):
        size, runs = shape
        if (around := rle_box(runs, size)) is None:
            return None, ""
        x1, y1, x2, y2 = map(float, around)
    elif shape:
        points = np.concatenate(shape)
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    else:
        return None, ""
    return [x1, y1, x2 - x1, y2 - y1], FROM_SHAPE


def segmentation(found: Any, frame: Frame, box: Sequence[float], image: Path) -> Segmentation | None:
    """Polygons, or a run-length code as text, of the upright image. box: x1, y1, x2, y2 in the frame. Raises InputError
    for what is neither."""
    shape = _read(found)
    if not shape:
        return None
    if isinstance(shape, list):
        if _in_shares(np.concatenate(shape), box):
            raise InputError("its segmentation is in shares of the image, its bbox in pixels")
        return shape if frame.same else [frame.points(points).astype(np.float32) for points in shape]
    stated, runs = shape
    code = found["counts"] if isinstance(found["counts"], str) else rle_text(runs)
    if stated == frame.size and (frame.same or stated != frame.stated):
        return code
    if stated == frame.stated:
        return Turned(code, frame)
    with contextlib.suppress(ImageError):
        before = turned(frame.size, image_orientation(image))
        if before.turn >= 5 and before.stated == stated:  # the box is of the upright image, the mask is not
            return Turned(code, before)
    raise InputError(f"its run-length code is not of the image's height and width, {frame.size[0]} and {frame.size[1]}")


def keypoints(found: Any, frame: Frame, box: Sequence[float]) -> np.ndarray | None:
    """(K, 3) x, y, visible, of the upright image. box: x1, y1, x2, y2 in the frame. Raises InputError."""
    if not found:
        return None
    values = numbers(found)
    if values is None or len(values) % 3 or not all(abs(value) < 2**24 for value in values):
        raise InputError("its keypoints are not triples of numbers")
    if len(values) > 3 * MAX_KEYPOINTS:
        raise InputError(f"it has more than {MAX_KEYPOINTS:,} key points")
    points = np.array(values, np.float32).reshape(-1, 3)
    there = points[:, 2] > 0
    if _in_shares(points[there, :2], box):
        raise InputError("its keypoints are in shares of the image, its bbox in pixels")
    points[there, :2] += 0.5
    if not frame.same:
        points[there, :2] = frame.points(points[there, :2])
    return points


def _in_shares(points: np.ndarray, box: Sequence[float]) -> bool:
    """Whether points lie between 0 and 1 while the box is one of whole pixels."""
    return len(points) > 0 and points.min() >= 0 and points.max() <= 1 and max(box[2:]) > 2


def _read(found: Any) -> Polygons | tuple[Size, torch.Tensor] | None:
    """Polygons; or the height and width of a run-length code, and its counts. Raises InputError for what is neither."""
    if not found:
        return None
    if isinstance(found, list):
        return _polygons(found)
    counts, stated = (found.get("counts"), found.get("size")) if isinstance(found, dict) else (None, None)
    if isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**31 for count in counts):
        runs = torch.tensor(counts, dtype=torch.int64)
    elif isinstance(counts, str):
        runs = rle_counts(counts)
    else:
        raise InputError("its segmentation is neither polygons nor a run-length code")
    size = (side(stated[0]), side(stated[1])) if isinstance(stated, list) and len(stated) == 2 else (0, 0)
    if not 0 < size[0] * size[1] <= MAX_PIXELS or int(runs.sum()) != size[0] * size[1]:
        raise InputError("its run-length code does not have as many pixels as its height and width")
    return size, runs


def _polygons(found: list[Any]) -> Polygons:
    # One polygon that is not in a list of its own.
    parts = found if isinstance(found[0], list) else [found]
    if len(parts) > 2 and all(isinstance(part, list) and len(part) == 2 for part in parts):
        parts = [[value for part in parts for value in part]]  # one polygon as a list of points
    polygons: Polygons = []
    for part in parts:
        values = np.array(numbers(part) or [np.nan])
        if len(values) % 2 or not np.abs(values).max() < 2**24:
            raise InputError("its segmentation has a polygon that is not pairs of numbers")
        if len(values) >= 6:  # a point or a line covers nothing
            polygons.append(values.astype(np.float32).reshape(-1, 2))
    if not polygons:
        raise InputError("its segmentation has no polygon of three corners")
    return polygons
