"""One annotation file of Pascal VOC, as the tools that write it have it: its encoding, its tags, its numbers."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from foveal.data.files import Complaints
from foveal.data.values import number, read_text, side
from foveal.errors import InputError

Box = tuple[float, float, float, float]
MAX_XML = 2**23  # bytes; 20,000 objects have half of it
SIDES = ("xmin", "ymin", "xmax", "ymax")


class Item(NamedTuple):
    """An object. box: x1, y1, x2, y2, pixels counted from 0; None where it has neither bndbox nor polygon. written: the
    numbers of the bndbox; empty where the box is taken from the polygon."""

    where: str
    name: str
    box: Box | None
    written: tuple[float, ...]
    difficult: bool


class Annotation(NamedTuple):
    """names: what the file says of its image, filename first. size: height and width; 0 where it gives none."""

    file: Path
    names: list[str]
    size: tuple[int, int]
    items: list[Item]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what could define entities, which grow when they are read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("it has a DTD, which no annotation needs")


def read_annotation(file: Path, complain: Complaints) -> Annotation | None:
    """An annotation file; None, and a fault, where it cannot be read."""
    try:
        text, _ = read_text(complain.own(file), MAX_XML, windows=True, declared=True)
        # Of text, whatever encoding it declares is passed over.
        tree = ElementTree.fromstring(text, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # InputError is a ValueError
        reason = str(error).removeprefix(f"cannot read {file}: ")
    else:
        for element in tree.iter():
            element.tag = element.tag.rpartition("}")[2]  # without its namespace
        names = [name for name in (_text(tree, "filename"), _text(tree, "path")) if name]
        size = side(_text(tree, "size/height")), side(_text(tree, "size/width"))
        return Annotation(file, names, size, list(_items(file, tree)))
    complain.fault("unreadable annotations", f"cannot read {file}: {reason}")
    return None


def _items(file: Path, tree: ElementTree.Element) -> Iterator[Item]:
    for place, item in enumerate(tree.findall("object"), 1):
        corners, box = item.find("bndbox"), None
        written: tuple[float, ...] = ()
        if corners is not None:
            x1, y1, x2, y2 = written = tuple(_number(_text(corners, name)) for name in SIDES)
            # In VOC the first pixel is 1. A 0 comes from a tool that counts from 0: there is no pixel before it.
            box = (x1 - 1 if not 0 <= x1 < 1 else 0.0, y1 - 1 if not 0 <= y1 < 1 else 0.0, x2, y2)
        elif (polygon := item.find("polygon")) is not None:
            box = _around(polygon)
        difficult = _text(item, "difficult").lower()
        yield Item(
            f"{file}, object {place}", _text(item, "name"), box, written, difficult in ("1", "1.0", "true", "yes")
        )


def _around(polygon: ElementTree.Element) -> Box | None:
    """The box around a polygon: x1, y1, x2, y2 ..., or points with x and y."""
    values: dict[str, list[float]] = {"x": [], "y": []}
    for element in polygon.iter():
        if axis := re.fullmatch(r"([xy])[0-9]*", element.tag):
            values[axis[1]].append(_number(element.text or ""))
    if not values["x"] or len(values["x"]) != len(values["y"]):
        return None
    return min(values["x"]), min(values["y"]), max(values["x"]), max(values["y"])


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float:
    """NaN for what is no number."""
    found = number(text)
    return math.nan if found is None else found
