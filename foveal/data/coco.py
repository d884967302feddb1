"""COCO's JSON of instances (Lin et al. 2014, arXiv:1405.0312; format of https://cocodataset.org/#format-data).

A bbox is x, y, width, height in continuous pixels. Category ids may have gaps; classes go by the order of the ids, and
those of several files are one class where their names are one. Key points count whole pixels, so their centres lie half
a pixel further here.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import SPLIT_NAMES, Complaints, files_in, split_named, subfolders
from foveal.data.objects import ObjectRows, Polygons, Segmentation
from foveal.data.splits import UNSPLIT
from foveal.errors import InputError, few
from foveal.ops.masks import rle_counts, rle_text

ROBOFLOW = "_annotations.coco"
OTHERS = ("captions", "image_info", "panoptic", "person_keypoints", "stuff")  # kinds of COCO's files beside instances


def recognise(root: Path) -> bool:
    """Whether there are JSON files of instances in a folder, in its folder annotations, or so in folders of splits."""
    return bool(_files(root))


def load(path: Path, complain: Complaints) -> Dataset:
    """A JSON file; or a folder with JSON files in it or in `annotations`, one a split, or Roboflow's one in each folder
    of a split. A file whose name or folder speaks of no split is split by content. Raises InputError."""
    parts = {path: split_named(path.stem) or _folder_split(path)} if path.is_file() else _files(path)
    if unclear := [file for file, split in parts.items() if split is None and len(parts) > 1]:
        raise InputError(f"{path}: the name of {unclear[0].name} does not say of which split it is: train, val or test")
    for file, split in parts.items():
        if same := [other for other in parts if other != file and parts[other] == split]:
            raise InputError(f"{path}: {file.name} and {same[0].name} are both of split {split}; name one of them")
    # The training data's ids decide the order of the classes, where files differ.
    parts = dict(sorted(parts.items(), key=lambda part: SPLITS.index(part[1] or SPLITS[0])))
    root = path if path.is_dir() else path.parent
    rows, documents = ObjectRows(complain), {file: read_document(file) for file in parts}
    classes = {file: read_categories(file, document) for file, document in documents.items()}
    order: dict[str, int] = {}
    for names in classes.values():
        order.update(dict.fromkeys((name for _, name in sorted(names.items()) if name not in order), 0))
    order = {name: place for place, name in enumerate(order)}
    hints: dict[str, str] = {}
    for file, split in parts.items():
        code = UNSPLIT if split is None else SPLITS.index(split)
        categories = {number: order[name] for number, name in classes[file].items()}
        _read(file, documents[file], categories, root, code, rows, hints)
    ids = {split: {name: number for number, name in classes[file].items()} for file, split in parts.items()}
    return replace(rows.dataset(str(path), root, list(order), hints), class_ids=ids)


def _folder_split(file: Path) -> str | None:
    return SPLIT_NAMES.get(file.parent.name.lower()) if file.stem == ROBOFLOW else None


def _files(root: Path) -> dict[Path, str | None]:
    """The JSON files of a folder's data, each with the split that its name speaks of."""
    found: dict[Path, str | None] = {}
    for folder in subfolders(root):
        if folder.name.lower() in SPLIT_NAMES and (file := folder / f"{ROBOFLOW}.json").is_file():
            found[file] = SPLIT_NAMES[folder.name.lower()]
    if not found:
        for folder in (root / "annotations", root):
            files = files_in(folder, ".json") if folder.is_dir() else []
            files = [file for file in files if not file.stem.startswith(OTHERS) and _is_coco(file)]
            # Where there are COCO's own, what else lies there is something else.
            files = [file for file in files if file.stem.startswith("instances")] or files
            if files:
                return {file: split_named(file.stem) for file in files}
    return found


def _is_coco(file: Path) -> bool:
    """Whether a file's beginning or end has the words that COCO's have, as those with settings or names have not."""
    try:
        with open(file, "rb") as opened:
            beginning = opened.read(_PART)
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - _PART))
            return any(word in beginning + opened.read(_PART) for word in (b'"images"', b'"annotations"'))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None


_PART = 2**16  # bytes


def read_document(file: Path) -> dict[str, Any]:
    """What a file holds, with its three lists. Raises InputError."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            document = json.load(opened)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{file} is not COCO's JSON: it is nested too deeply") from None
    except ValueError as error:  # not JSON, or not in UTF-8
        raise InputError(f"{file} is not JSON: {error}") from None
    known = {"images", "annotations", "categories"}
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in known):
        raise InputError(f"{file} is not COCO's JSON of instances, an object with lists {few(sorted(known))}")
    if not document["images"]:
        raise InputError(f"{file} has no images in it")
    return document


def read_categories(file: Path, document: dict[str, Any]) -> dict[int, str]:
    """id -> name. Raises InputError."""
    found: dict[int, str] = {}
    for number, category in enumerate(document["categories"], 1):
        entry = category if isinstance(category, dict) else {}
        identity, name = entry.get("id"), entry.get("name")
        if type(identity) is not int or not isinstance(name, str) or not name.strip():
            raise InputError(f"{file}, category {number}: it has no whole number as id, or no name")
        if identity in found or name in found.values():
            raise InputError(f"{file}, category {number}: another one has its id, {identity}, or its name, {name!r}")
        found[identity] = name
    return found


def _read(
    file: Path,
    document: dict[str, Any],
    categories: dict[int, int],
    root: Path,
    split: int,
    rows: ObjectRows,
    hints: dict[str, str],
) -> None:
    """Put one file's images and objects into the rows."""
    complain = rows.complain
    images: dict[Any, tuple[str, dict[str, Any]]] = {}
    for number, entry in enumerate(document["images"], 1):
        name, identity = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(identity, int | str):
            complain.fault("images without id or name", f"{file}, image {number}: it has no id, or no file_name")
        elif identity in images:
            text = f"{file}, image {number}: {name} has the id of {images[identity][0]}, {identity}"
            complain.fault("images with one id", text)
        else:
            images[identity] = name, entry
    folder = _image_folder(file, [name for name, _ in images.values()], root)
    of_image: dict[Any, list[tuple[str, dict[str, Any]]]] = {identity: [] for identity in images}
    before: dict[Any, int] = {}
    unknown: set[Any] = set()
    for number, entry in enumerate(document["annotations"], 1):
        identity = entry.get("id") if isinstance(entry, dict) else None
        identity = identity if isinstance(identity, int | str) else None
        where = f"{file}, annotation {number}" + ("" if identity is None else f" (id {identity})")
        if not isinstance(entry, dict):
            complain.fault("annotations that are none", f"{where}: it is no object")
            continue
        if identity is not None and before.setdefault(identity, number) != number:
            complain.fault("annotations with one id", f"{where}: annotation {before[identity]} has its id")
            continue
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image, int | str) or image not in of_image:
            complain.fault("annotations of no image", f"{where}: there is no image with the id {image!r}")
        elif type(category) is not int or category not in categories:
            unknown.add(category if type(category) is int else None)
            complain.fault("annotations of no category", f"{where}: no category has the id {category!r}")
        else:
            of_image[image].append((f"{where}, {images[image][0]}", entry))
    if categories and unknown == {min(categories) - 1}:
        hints["annotations of no category"] = "all ids may be one too low, as if counted from another number"
    elif categories and unknown == {max(categories) + 1}:
        hints["annotations of no category"] = "all ids may be one too high, as if counted from another number"
    seen: dict[str, str] = {}
    for identity, (name, entry) in images.items():
        path = os.path.relpath(folder / name, root) if "\0" not in name else name
        if not os.path.isfile(root / path):
            complain.fault("missing images", f"{file}, image with the id {identity!r}: there is no {folder / name}")
        elif path in seen:
            complain.fault("files of two images", f"{file}, image with the id {identity!r}: {name} is there twice")
        else:
            seen[path] = name
            size = rows.image(root, path, split, (entry.get("height"), entry.get("width")), identity)
            for where, annotation in of_image[identity]:
                _add(rows, where, annotation, categories[annotation["category_id"]], size)


def _add(rows: ObjectRows, where: str, entry: dict[str, Any], label: int, size: tuple[int, int]) -> None:
    numbers = _numbers(entry.get("bbox"))
    if numbers is None or len(numbers) != 4:
        rows.complain.fault("annotations without a bbox", f"{where}: its bbox is not four numbers")
        return
    x, y, width, height = numbers
    area = _numbers([entry.get("area")])
    try:
        segmentation, keypoints = _segmentation(entry.get("segmentation"), size), _keypoints(entry.get("keypoints"))
    except InputError as error:
        rows.complain.fault("masks or key points that are none", f"{where}: {error}")
        return
    rows.add(
        where,
        (x, y, x + width, y + height),
        label,
        area=area[0] if area else None,
        crowd=entry.get("iscrowd") in (1, True),
        ignored=entry.get("ignore") in (1, True),
        keypoints=keypoints,
        segmentation=segmentation,
        otherwise=numbers,
    )


def _numbers(values: Any) -> list[float] | None:
    """A list of numbers, as float; NaN for what is too large for one. None for anything else."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    return [float(value) if abs(value) < 1e300 else math.nan for value in values]


def _segmentation(found: Any, size: tuple[int, int]) -> Segmentation | None:
    """Polygons, or a run-length code as text. Raises InputError for what is neither."""
    if not found:
        return None
    if isinstance(found, list):
        polygons: Polygons = []
        for part in found:
            numbers = _numbers(part)
            if numbers is None or len(numbers) % 2 or not all(abs(number) < 2**24 for number in numbers):
                raise InputError("its segmentation has a polygon that is not pairs of numbers")
            if len(numbers) >= 6:  # a point or a line covers nothing
                polygons.append(np.array(numbers, np.float32).reshape(-1, 2))
        return polygons
    counts, stated = (found.get("counts"), found.get("size")) if isinstance(found, dict) else (None, None)
    if isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**31 for count in counts):
        runs = torch.tensor(counts, dtype=torch.int64)
    elif isinstance(counts, str):
        runs = rle_counts(counts)
    else:
        raise InputError("its segmentation is neither polygons nor a run-length code")
    if stated != list(size) or int(runs.sum()) != size[0] * size[1]:
        raise InputError(f"its run-length code is not of the image's height and width, {size[0]} and {size[1]}")
    return counts if isinstance(counts, str) else rle_text(runs)


def _keypoints(found: Any) -> np.ndarray | None:
    """(K, 3) x, y, visible"""
    if not found:
        return None
    numbers = _numbers(found)
    if numbers is None or len(numbers) % 3 or not all(abs(number) < 2**24 for number in numbers):
        raise InputError("its keypoints are not triples of numbers")
    points = np.array(numbers, np.float32).reshape(-1, 3)
    points[:, :2] += np.where(points[:, 2:] > 0, 0.5, 0)
    return points


def _image_folder(file: Path, names: list[str], root: Path) -> Path:
    """The folder that has most of a file's images, of those in which they usually are. Raises InputError where none has
    any."""
    few_names = [name for name in names[:: max(1, len(names) // 50)] if "\0" not in name]
    places = list(dict.fromkeys(_places(file, root)))
    hits = [sum(os.path.isfile(place / name) for name in few_names) for place in places]
    if any(hits):
        return places[hits.index(max(hits))]
    for place in places:
        if any(os.path.isfile(place / name) for name in names):
            return place
    looked = few([str(place) for place in places], 8)
    raise InputError(f"{file}: no image that it names is there, as {few(names, 1) or 'none'}; looked in {looked}")


def _places(file: Path, root: Path) -> Iterator[Path]:
    kind, _, rest = file.stem.partition("_")
    named = [file.stem, rest] if rest and kind else [file.stem]  # instances_val2017 -> val2017
    split = split_named(file.stem)
    words = [word for word, meant in SPLIT_NAMES.items() if split is not None and meant == split]
    for base in dict.fromkeys((file.parent, file.parent.parent, root)):
        yield base
        yield from (base / parent / name for parent in ("", "images") for name in (*named, *words))
        yield base / "images"
