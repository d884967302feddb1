"""What a COCO file holds, as the tools that write it have it: its encoding, its lists, its ids."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveal.data.values import WINDOWS, read_text
from foveal.errors import InputError, few
from foveal.filesystem import open_file

MAX_JSON = 2**33  # bytes; the largest that is published has 6e9, of Objects365
LISTS = ("annotations", "categories", "images")


def is_coco(file: Path) -> bool:
    """Whether a file's beginning or end has the words that COCO's have, as those with settings or names have not."""
    with open_file(file) as opened:
        try:
            beginning = opened.read(_PART)
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - _PART))
            text = (beginning + opened.read(_PART)).replace(b"\0", b"")  # as UTF-16 has them
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from None
    return any(word in text for word in (b'"images"', b'"annotations"'))


_PART = 2**16  # bytes


def read_document(file: Path, notes: list[str] | None = None) -> dict[str, Any]:
    """The object in a file, with its three lists. notes: takes a line for each choice between two readings. Raises
    InputError."""
    told: list[str] = [] if notes is None else notes
    text, encoding = read_text(file, MAX_JSON, windows=True)
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise InputError(f"{file} is not COCO's JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None
    if encoding == WINDOWS:
        told.append(f"{file} is not in UTF-8; it is read in the code page of Windows, {WINDOWS}")
    if isinstance(document, dict) and {"images", "categories"} <= document.keys() and "annotations" not in document:
        told.append(f"{file} has no annotations: its images have no objects")
        document["annotations"] = []
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in LISTS):
        raise InputError(f"{file} is not COCO's JSON of instances, an object with lists {few(LISTS)}")
    if not document["images"]:
        raise InputError(f"{file} has no images in it")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value and found[key] == found[key]:  # NaN is another number than NaN
                raise ValueError(f"an object has two values of {key!r}")
    return found


def identity(value: Any) -> int | str | None:
    """An id as one thing, whether it is written 1, 1.0, "1" or "1.0"; text that is no such number stays text. None for
    what can be no id."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\s*(-?(?:0|[1-9][0-9]{0,18}))(?:\.0*)?\s*", value)
        return int(whole[1]) if whole else value or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def read_categories(file: Path, document: dict[str, Any]) -> dict[int, str]:
    """id -> name, without the root that Roboflow puts above the classes. Raises InputError."""
    found: dict[int, str] = {}
    names = set[str]()
    root = root_category(document)
    for number, category in enumerate(document["categories"], 1):
        if category is root:
            continue
        entry = category if isinstance(category, dict) else {}
        key, name = identity(entry.get("id")), entry.get("name")
        if not isinstance(key, int) or not isinstance(name, str) or not name.strip():
            raise InputError(f"{file}, category {number}: it has no whole number as id, or no name")
        if key in found or name in names:
            raise InputError(f"{file}, category {number}: another one has its id, {key}, or its name, {name!r}")
        found[key] = name
        names.add(name)
    return found


def root_category(document: dict[str, Any]) -> dict[str, Any] | None:
    """The category 0 that Roboflow writes as supercategory of all others, where no annotation has it."""
    entries = [entry for entry in document["categories"] if isinstance(entry, dict)]
    first = next((entry for entry in entries if identity(entry.get("id")) == 0), None)
    if first is None or first.get("supercategory") not in ("none", "", None) or len(entries) < 2:
        return None
    if any(entry.get("supercategory") != first.get("name") for entry in entries if entry is not first):
        return None
    return None if 0 in _used(document["annotations"]) else first


def _used(annotations: Iterable[Any]) -> set[int | str | None]:
    """The category ids of annotations."""
    return {identity(entry.get("category_id")) for entry in annotations if isinstance(entry, dict)}
