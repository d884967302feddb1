"""YOLO's text files: beside the folder of images one of labels, with a line for each object of an image.

A line is `class x y width height`, the box by its centre, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; all in shares of
the image's sides. Classes are counted from 0. An image without a file has no objects. The classes' names are in a
data.yaml, or one a line in classes.txt.
"""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import SPLIT_NAMES, Complaints, files_in, image_files, subfolders
from foveal.data.objects import ObjectRows
from foveal.data.splits import UNSPLIT
from foveal.errors import InputError

NAMES = ("classes.txt", "obj.names", "labels/classes.txt")


class _Part(NamedTuple):
    """A folder of images, or a text file that lists them, and the code of its split."""

    images: Path
    split: int


def recognise(root: Path) -> bool:
    """Whether there is a data.yaml with names, a folder labels beside one of images, or a classes.txt."""
    folders = {folder.name for folder in subfolders(root)}
    return {"images", "labels"} <= folders or any((root / name).is_file() for name in NAMES) or bool(_yaml_of(root))


def load(path: Path, complain: Complaints) -> Dataset:
    """A folder, or its data.yaml. The labels of a/images/b.jpg are in a/labels/b.txt, or else beside the image.
    Raises InputError."""
    root = path if path.is_dir() else path.parent
    file = _yaml_of(root) if path.is_dir() else path
    settings = {} if file is None else _read_yaml(file)
    classes = _classes(file, settings) if "names" in settings else _listed_classes(path, root)
    rows, parts = ObjectRows(complain), _parts(file, settings, root) if settings else []
    lines: dict[Path, str] = {}
    unknown: set[int] = set()
    for part in parts or _folders(root):
        for image in _images(part.images, complain):
            if image in lines:
                complain.fault("images in two splits", f"{image} is in {lines[image]} and in {part.images}")
                continue
            lines[image] = str(part.images)
            if not os.path.isfile(image):
                complain.fault("missing images", f"there is no {image}, which {part.images} lists")
                continue
            size = rows.image(root, os.path.relpath(image, root), part.split)
            labels = _labels_of(image)
            if labels is not None and size != (0, 0):
                unknown |= _read(labels, len(classes), rows, size)
    hint = "all ids may be one too high, as if counted from 1"
    return rows.dataset(str(path), root, classes, {_UNKNOWN: hint} if unknown == {len(classes)} else None)


_UNKNOWN = "objects of no class"


def _read(file: Path, classes: int, rows: ObjectRows, size: tuple[int, int]) -> set[int]:
    """Put the objects of one image into the rows; the classes among them that there are not."""
    unknown = set()
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        rows.complain.fault("unreadable labels", f"cannot read {file}: {error}")
        return set()
    for number, line in enumerate(lines, 1):
        where, words = f"{file}, line {number}", line.split()
        if not words:
            continue
        values = [_number(word) for word in words]
        # Five numbers are a box, and an odd number from seven on a polygon.
        if len(values) < 5 or len(values) % 2 == 0 or not values[0].is_integer():
            rows.complain.fault(
                "lines that are no object", f"{where}: it is neither class x y width height nor a polygon"
            )
        elif not 0 <= values[0] < classes:
            unknown.add(int(values[0]))
            told = f"{where}: class {int(values[0])} is none of the {classes}, 0 to {classes - 1}"
            rows.complain.fault(_UNKNOWN, told)
        elif not all(abs(value) < 100 for value in values[1:]):
            rows.complain.fault("boxes that are no shares", f"{where}: its numbers are not shares of the image's sides")
        elif len(values) == 5:
            corners = [share * side for share, side in zip(values[1:], (*size, *size)[::-1], strict=True)]
            rows.add(where, rows.pixels(values[1:]), int(values[0]), otherwise=corners)
        else:
            points = np.array(values[1:], np.float64).reshape(-1, 2) * size[::-1]
            box = (*points.min(0).tolist(), *points.max(0).tolist())
            rows.add(where, box, int(values[0]), segmentation=[points.astype(np.float32)])
    return unknown


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _labels_of(image: Path) -> Path | None:
    """The file with an image's objects: in the folder labels in place of the last one called images, or beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        place = len(parts) - 2 - parts[-2::-1].index("images")
        file = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
        if file.is_file():
            return file
    file = image.with_suffix(".txt")
    return file if file.is_file() else None


def _images(place: Path, complain: Complaints) -> list[Path]:
    if place.is_dir():
        return [place / name for name in image_files(place, None, complain)]
    try:
        lines = place.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {place}: {error}") from None
    return [place.parent / line.strip() for line in lines if line.strip()]


def _folders(root: Path) -> list[_Part]:
    """images/train or train/images, for each split; else images, or the folder itself."""
    found = []
    inner = root / "images"
    for folder in (*(subfolders(inner) if inner.is_dir() else []), *subfolders(root)):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is not None:
            images = folder / "images"
            found.append(_Part(images if images.is_dir() else folder, SPLITS.index(split)))
    return found or [_Part(inner if inner.is_dir() else root, UNSPLIT)]


def _parts(file: Path | None, settings: dict[str, Any], root: Path) -> list[_Part]:
    """What data.yaml says of the splits; nothing where it says nothing."""
    found = []
    for name in settings.keys() & SPLIT_NAMES.keys():
        listed = settings[name] if isinstance(settings[name], list) else [settings[name]]
        for text in filter(None, listed):
            base = root / str(settings.get("path", ""))
            # Exports often write the path from one folder further down, or from the folder that holds all data sets.
            tried = [base / text, root / text, root / re.sub(r"^(\.\./)+", "", text)]
            place = next((place for place in tried if place.exists()), None)
            if place is None:
                raise InputError(f"{file}: {name} is at {text}, but there is no {tried[0]}")
            found.append(_Part(place, SPLITS.index(SPLIT_NAMES[name])))
    return sorted(found, key=lambda part: part.split)


def _yaml_of(root: Path) -> Path | None:
    """The one YAML file with names of classes in a folder; data.yaml where there are several."""
    found = [file for file in files_in(root, ".yaml", ".yml") if _has_names(file)]
    named = [file for file in found if file.stem == "data"]
    if len(found) > 1 and len(named) != 1:
        raise InputError(
            f"{root} has several files with names of classes, {found[0].name} and {found[1].name}: name one"
        )
    return (named or found or [None])[0]  # type: ignore[list-item]


def _has_names(file: Path) -> bool:
    try:
        return any(line.startswith(b"names:") for line in file.read_bytes().splitlines())
    except OSError:
        return False


def _listed_classes(source: Path, root: Path) -> list[str]:
    for name in NAMES:
        if (root / name).is_file():
            try:
                lines = (root / name).read_text("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot read {root / name}: {error}") from None
            return _checked(root / name, [line.strip() for line in lines if line.strip()])
    raise InputError(f"{source} does not name its classes: write them one a line into {root / NAMES[0]}")


def _classes(file: Path | None, settings: dict[str, Any]) -> list[str]:
    names, count = settings["names"], settings.get("nc")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{file}: the classes under names are not numbered 0, 1, 2 ...")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise InputError(f"{file}: names is not a list of the classes")
    if count is not None and str(len(names)) != count:
        raise InputError(f"{file}: nc is {count}, but there are {len(names)} names")
    return _checked(file, names)


def _checked(file: Path | None, names: list[str]) -> list[str]:
    if not names or not all(names) or len(set(names)) < len(names):
        raise InputError(f"{file}: it names no class, one of them by nothing, or two alike")
    return names


# --- The little of YAML that a data.yaml is written in ---------------------------------------------------------------


def _read_yaml(file: Path) -> dict[str, Any]:
    """Texts, lists and numbered names under names, nc, path and the splits; the rest is passed over.

    Read are `key: text`, `key: [a, b]`, `key: {0: a, 1: b}`, and items `- a` or `0: a` on lines of their own below a
    key. Not read are text over several lines, anchors, tags and documents in a row: of these InputError says the line.
    """
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from None
    found: dict[str, Any] = {}
    key = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        try:
            if item := re.fullmatch(r"\s*- (.*)", line):
                _append(found, key, _scalar(item[1]))
            elif line[0].isspace():
                if key in _KEYS:
                    _append(found, key, *_pair(line))
            else:
                key, text = _pair(line)
                if key in found:
                    raise ValueError(f"{key} is there twice")
                if key in _KEYS:
                    found[key] = _value(_bare(text))
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}; a plain list of names would do") from None
    return found


_KEYS = {"names", "nc", "path", *SPLIT_NAMES}


def _append(found: dict[str, Any], key: str | None, *item: str) -> None:
    """Put an item below a key: a text into a list, a number and a text into a dictionary."""
    if key not in _KEYS:
        return
    place = found.get(key) or ([] if len(item) == 1 else {})
    if len(item) == 1 and isinstance(place, list):
        place.append(item[0])
    elif (
        len(item) == 2
        and isinstance(place, dict)
        and re.fullmatch(r"[0-9]{1,6}", item[0])
        and int(item[0]) not in place
    ):
        place[int(item[0])] = _scalar(item[1])
    else:
        raise ValueError(f"this cannot stand below {key}")
    found[key] = place


def _pair(line: str) -> tuple[str, str]:
    """`key: text`"""
    key, colon, text = line.partition(":")
    if not colon or (text and not text[0].isspace()):
        raise ValueError("it is not in the form key: value")
    return _scalar(key), text.strip()


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_scalar(part) for part in _items(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        found: dict[str, Any] = {}
        for part in _items(text[1:-1]):
            _append(found, "names", *_pair(part.strip()))
        return found.get("names", {})
    return _scalar(text)


def _items(text: str) -> list[str]:
    """The parts between the commas that are in no quotes."""
    return [part for part in re.findall(r"""(?:'[^']*'|"[^"]*"|[^,'"]|['"])+""", text) if part.strip()]


def _scalar(text: str) -> str:
    """A text without its quotes."""
    text = _bare(text)
    if text[:1] in ("'", '"'):
        if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1] or (text[0] == '"' and "\\" in text):
            raise ValueError("it has quotes that are not read here")
        return text[1:-1]
    if text[:1] in tuple("[{&*!|>%@`"):
        raise ValueError("it has YAML that is not read here")
    return text


def _bare(text: str) -> str:
    """Without what stands after a #, outside of quotes."""
    quoted = re.match(r"""\s*('[^']*'|"[^"]*")\s*(#.*)?$""", text)
    return quoted[1] if quoted else re.sub(r"(^|\s)#.*", "", text).strip()
