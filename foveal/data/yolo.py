"""YOLO's text files: beside the folder of images one of labels, with a line for each object of an image.

A line is `class x y width height`, the box by its centre; or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; or a box and key
points, `class x y width height px1 py1 px2 py2 ...`, if wanted with a visibility after each (0 absent, 1 hidden, 2
visible). All are in shares of the image's sides. Classes are counted from 0. An image without a file has no objects.
Class names and splits are in a data.yaml, in darknet's obj.data, or in files like classes.txt and train.txt.
"""

import os
from dataclasses import replace
from pathlib import Path

from foveal.data.dataset import Dataset
from foveal.data.files import Complaints, split_folder, subfolders
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.layouts import suffixes_below
from foveal.data.objects import ObjectRows
from foveal.data.yolo_files import (
    Folders,
    has_labels,
    images_of,
    is_label_file,
    label_files,
    mirrors,
    parts_of,
    unnamed_labels,
)
from foveal.data.yolo_lines import UNKNOWN, Lines
from foveal.data.yolo_settings import (
    Settings,
    class_files,
    class_names,
    names_classes,
    names_splits,
    read_settings,
    settings_file,
)
from foveal.errors import InputError


def recognise(root: Path) -> bool:
    """Whether a folder has settings that name splits; folders images and labels, if wanted in folders of splits; class
    names and label files; or label files beside images. Also whether the folder above does, which `load` then names as
    the one to pass."""
    return _is_data(root) or _misplaced(root) is not None


def recognise_content(root: Path) -> bool:
    """Whether another folder holds label files of images that lie beside that folder."""
    return bool(unnamed_labels(root))


def load(path: Path, complain: Complaints) -> Dataset:
    """A folder, or its data.yaml. The labels of a/images/b.jpg are in a/labels/b.txt, or else beside the image.
    Raises InputError."""
    root = path if path.is_dir() else path.parent
    if path.is_dir() and not _is_data(root) and (place := _misplaced(root)) is not None:
        raise InputError(f"{path} is a part of YOLO data: pass {place}")
    file = settings_file(root) if path.is_dir() else path
    settings = Settings() if file is None else read_settings(file, complain)
    classes = class_names(settings, path, root, complain)
    rows, folders = ObjectRows(complain), Folders()
    images = _images(settings, root, folders, complain)
    labels = label_files(path, root, [image for image, _ in images], folders, complain)
    lines = Lines(len(classes), settings, [one for one in labels if one is not None], rows)
    for (image, split), own in zip(images, labels, strict=True):
        size = rows.image(root, os.path.relpath(image, root), split)
        if own is not None and size != (0, 0):
            lines.read(own, size)
    hint = "all ids may be one too high, as if counted from 1"
    hints = {UNKNOWN: hint} if lines.unknown == {len(classes)} else None
    dataset = rows.dataset(str(path), root, classes, hints)
    if lines.reading is not None and lines.reading.points > 1 and settings.mirrored is None:
        complain.note("no flip_idx says which key points are left and right: in mirrored images they keep their order")
    return replace(dataset, mirrored=settings.mirrored)


def _images(settings: Settings, root: Path, folders: Folders, complain: Complaints) -> list[tuple[Path, int]]:
    """(image, code of its split) of each image that is there, once."""
    found: dict[str, tuple[Path, int]] = {}
    places: dict[str, Path] = {}
    for part in parts_of(settings, root, folders, complain):
        images, again = images_of(part, root, folders, complain)
        if not images:
            complain.note(f"{part.images} has no images")
        for image in images:
            name = os.path.normpath(image)
            if name in found:
                again += found[name][1] == part.split
                if found[name][1] != part.split:
                    text = f"{image} is in {places[name]} and in {part.images}"
                    complain.fault("images in two splits", text)
            elif not os.path.isfile(image):
                complain.fault("missing images", f"there is no {image}, which {part.images} lists")
            elif complain.admits(image, str(part.images)):
                found[name], places[name] = (image, part.split), part.images
        if again:
            complain.note(f"{part.images}: images that are named again, read once: {again}")
    return list(found.values())


def _is_data(root: Path) -> bool:
    file, folders = settings_file(root), subfolders(root)
    if file is not None and names_splits(file):
        return True
    if any(_is_pair(folder) for folder in (root, *folders) if folder == root or split_folder(folder.name)):
        return True
    if file is not None or class_files(root):
        # Folders of classes may have their names in such a file too.
        return not folders or has_labels(root)
    return _has_labelled_image(root)


def _is_pair(folder: Path) -> bool:
    inner = {one.name.lower(): one for one in subfolders(folder)}
    if "images" not in inner or "labels" not in inner:
        return False
    suffixes = suffixes_below(inner["labels"])
    return ".xml" not in suffixes and (".json" not in suffixes or ".txt" in suffixes)


def _has_labelled_image(root: Path) -> bool:
    """Whether a folder has a label file beside its image, and nothing that may be annotations of another format."""
    names = set(os.listdir(root))
    if any(name.lower().endswith((".xml", ".json")) for name in names):
        return False
    stems = (os.path.splitext(name) for name in sorted(names))
    texts = (root / f"{stem}.txt" for stem, suffix in stems if suffix.lower() in IMAGE_SUFFIXES)
    return any(is_label_file(text) for text in texts if text.name in names)


def _misplaced(root: Path) -> Path | None:
    """The folder of YOLO data that a folder of its images is a part of."""
    here = root.absolute()
    for folder in (here, *here.parents[:2]):
        if folder.name.lower() == "images" and _is_pair(folder.parent):
            labels = next(one for one in subfolders(folder.parent) if one.name.lower() == "labels")
            if mirrors(here, labels / here.relative_to(folder)):
                above = folder.parent.parent
                return above if names_classes(above) else folder.parent
    return None
