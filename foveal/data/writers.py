"""Data to detect, and predictions, as files in the layouts that data/coco.py, voc.py and yolo.py read."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from torch import Tensor

from foveal.data.dataset import SPLITS, Dataset, ImageFiles
from foveal.data.image import MAX_FILE, image_size, write_image
from foveal.data.objects import ObjectTable, Polygons, upright
from foveal.errors import InputError
from foveal.filesystem import check_output, make_folder, open_file, own_folder, replacing, write_bytes
from foveal.ops.masks import rle_encode, rle_text
from foveal.structures import Objects


def write_coco(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """A view as COCO's JSON of instances; its i-th image gets the id i + 1, class c the id c + 1.

    Image files stay where they are, named from the folder of the JSON (`load_dataset` takes
    outside=True for those that are not in it); images that are no files are written into a
    folder images beside it, which the views of all splits can share. A split is known by the name of the file. Raises
    InputError.
    """
    path = Path(path)
    folder = make_folder(path.parent)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for index in range(len(dataset)):
        target, (height, width) = _objects(dataset, index), _size(dataset, index)
        if isinstance(dataset.images, ImageFiles):
            name = os.path.relpath(dataset.name(index), path.parent)
        else:
            name = f"images/{_item(dataset, index):06}.png"
            _put(dataset, index, own_folder(folder, "images") / os.path.basename(name))
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        segments = _segments(dataset, index, target)
        for number in range(len(target)):
            one = target[number]
            entry = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": int(one.labels[0]) + 1}
            entry |= _shape(one, segments[number], (height, width))
            entry["iscrowd"] = int(one.crowd is not None and bool(one.crowd[0]))
            if one.ignored is not None and bool(one.ignored[0]):
                entry["ignore"] = 1
            annotations.append(entry)
    categories = [{"id": number, "name": name} for number, name in enumerate(dataset.labels, 1)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def write_predictions(
    path: str | os.PathLike[str],
    predictions: Sequence[Objects],
    images: Sequence[int | str] | None = None,
    categories: Sequence[int] | None = None,
) -> None:
    """Predictions as COCO's JSON of results.

    images:     the id of each image; default 1, 2, 3 ..., as `write_coco` gives them.
    categories: the id of each class; default as `write_coco` gives them.
    Raises InputError.
    """
    entries = []
    for number, target in enumerate(predictions):
        masks: list[Polygons | str | None] = [None] * len(target)
        if target.masks is not None:
            masks = [rle_text(rle_encode(mask.cpu())) for mask in target.masks]
        for row in range(len(target)):
            one = target[row]
            label = int(one.labels[0])
            size = (0, 0) if one.masks is None else (one.masks.shape[1], one.masks.shape[2])
            entry: dict[str, Any] = {"image_id": number + 1 if images is None else images[number]}
            entry["category_id"] = label + 1 if categories is None else categories[label]
            entry |= _shape(one, masks[row], size)
            entry["score"] = 1.0 if one.scores is None else float(one.scores[0])
            entries.append(entry)
    write_json(path, entries)


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """A document as a JSON file. Raises InputError."""
    make_folder(Path(path).parent)
    _save(Path(path), json.dumps(document))


def write_voc(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """All that a view has as a folder of Pascal VOC: JPEGImages, Annotations and ImageSets/Main. Crowds become
    difficult; masks and key points have no place in it. Raises InputError."""
    root, lists = make_folder(root), dict[str, list[str]]()
    pictures, files = own_folder(root, "JPEGImages"), own_folder(root, "Annotations")
    for index, name, split in _named(dataset):
        target, (height, width) = _objects(dataset, index), _size(dataset, index)
        _put(dataset, index, pictures / name)
        tree = ElementTree.Element("annotation")
        _child(tree, "filename", name)
        size = _child(tree, "size")
        for side, value in (("width", width), ("height", height), ("depth", 3)):
            _child(size, side, str(value))
        hard = [values for values in (target.crowd, target.ignored) if values is not None]
        for row, (box, label) in enumerate(zip(target.boxes.tolist(), target.labels.tolist(), strict=True)):
            one = _child(tree, "object")
            _child(one, "name", dataset.labels[label])
            _child(one, "difficult", str(int(any(bool(values[row]) for values in hard))))
            corners = _child(one, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                _child(corners, side, f"{round(value + side.endswith('min'), 5):.15g}")
        stem = Path(name).stem
        ElementTree.indent(tree)
        _save(files / f"{stem}.xml", ElementTree.tostring(tree, "unicode"))
        lists.setdefault(split, []).append(f"{stem}\n")
    for split, names in lists.items():
        _save(own_folder(own_folder(root, "ImageSets"), "Main") / f"{split}.txt", "".join(names))


def write_yolo(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """All that a view has as a folder of YOLO's: images, labels and data.yaml. Only boxes have a place in it; crowds
    and what is ignored are left out. Raises InputError."""
    root, splits = make_folder(root), dict[str, None]()
    pictures, labels = own_folder(root, "images"), own_folder(root, "labels")
    for index, name, split in _named(dataset):
        target, (height, width) = _objects(dataset, index), _size(dataset, index)
        _put(dataset, index, own_folder(pictures, split) / name)
        hard = [values for values in (target.crowd, target.ignored) if values is not None]
        lines = []
        for row, (box, label) in enumerate(zip(target.boxes.tolist(), target.labels.tolist(), strict=True)):
            if not any(bool(values[row]) for values in hard):
                x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
                values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                lines.append(" ".join([str(label), *(f"{value:.9f}" for value in values)]) + "\n")
        _save(own_folder(labels, split) / f"{Path(name).stem}.txt", "".join(lines))
        splits[split] = None
    parts = [f"{split}: images/{split}\n" for split in splits]
    names = [f"  {number}: {_quoted(name)}\n" for number, name in enumerate(dataset.labels)]
    _save(root / "data.yaml", "".join([*parts, "names:\n", *names]))


def _shape(one: Objects, segments: Polygons | str | None, size: tuple[int, int]) -> dict[str, Any]:
    """What COCO says of the place of one object."""
    x1, y1, x2, y2 = one.boxes[0].tolist()
    entry: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    if one.masks is not None:
        entry["area"] = float(one.masks[0].count_nonzero())
    if one.areas is not None:
        entry["area"] = float(one.areas[0])
    if isinstance(segments, str):
        entry["segmentation"] = {"size": list(size), "counts": segments}
    elif segments:
        entry["segmentation"] = [points.reshape(-1).tolist() for points in segments]
    if one.keypoints is not None:
        points = one.keypoints[0].double().cpu().numpy().copy()
        points[:, :2] -= np.where(points[:, 2:] > 0, 0.5, 0)
        entry["keypoints"], entry["num_keypoints"] = points.reshape(-1).tolist(), int((points[:, 2] > 0).sum())
    return entry


def _item(dataset: Dataset, index: int) -> int:
    """Which of all images an image of a view is."""
    return index if dataset.items is None else int(dataset.items[index])


def _objects(dataset: Dataset, index: int) -> Objects:
    target = dataset.target(index)
    if not isinstance(target, Objects):
        raise InputError(f"{dataset.source} is data to {dataset.task}; only data of objects is written")
    return target


def _segments(dataset: Dataset, index: int, target: Objects) -> list[Polygons | str | None]:
    """The mask of each object of an image, as its file had it if it came from one."""
    if isinstance(dataset.targets, ObjectTable) and dataset.targets.segments is not None:
        rows = dataset.targets.rows(_item(dataset, index))
        size = _size(dataset, index)
        return [upright(dataset.targets.segments[row], size) for row in range(rows.start, rows.stop)]
    if target.masks is not None:
        return [rle_text(rle_encode(mask)) for mask in target.masks]
    return [None] * len(target)


def _size(dataset: Dataset, index: int) -> tuple[int, int]:
    """Height and width; as annotated, so that shares and masks stay what they were."""
    if isinstance(dataset.targets, ObjectTable):
        height, width = dataset.targets.sizes[_item(dataset, index)].tolist()
        if height and width:
            return height, width
    if isinstance(dataset.images, ImageFiles):
        return image_size(dataset.name(index))
    image: Tensor = dataset.image(index)
    return image.shape[1], image.shape[2]


def _named(dataset: Dataset) -> list[tuple[int, str, str]]:
    """(index, a file name without folders, the split) of each image; no two names differ in their suffix alone."""
    names = [f"{_item(dataset, index):06}.png" for index in range(len(dataset))]
    if isinstance(dataset.images, ImageFiles):
        names = [os.path.basename(dataset.name(index)) for index in range(len(dataset))]
    if len({Path(name).stem for name in names}) < len(names):
        names = [f"{index:06}_{name}" for index, name in enumerate(names)]
    codes = dataset.splits if dataset.items is None else dataset.splits[dataset.items]
    return [(index, name, SPLITS[code]) for index, (name, code) in enumerate(zip(names, codes, strict=True))]


def _put(dataset: Dataset, index: int, path: Path) -> None:
    """An image as a file in a folder that is there: a copy of its own, or its pixels."""
    if isinstance(dataset.images, ImageFiles):
        source = Path(dataset.name(index))
        check_output(path, [source])
        with open_file(source, MAX_FILE) as original, replacing(path) as copy:
            shutil.copyfileobj(original, copy)
    else:
        write_image(path, dataset.image(index))


def _save(path: Path, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: {error}") from None
    write_bytes(path, data)


def _child(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = text
    return child


def _quoted(name: str) -> str:
    """A class name as a text of YAML."""
    sign = '"' if "'" in name else "'"
    if sign in name or not name.isprintable() or (sign == '"' and "\\" in name):
        raise InputError(f"the class name {name!r} cannot be written into a data.yaml")
    return f"{sign}{name}{sign}"
