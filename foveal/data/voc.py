"""Pascal VOC (Everingham et al. 2010, The PASCAL Visual Object Classes Challenge): an XML file for each image.

In the files pixels are counted from 1 and a box includes its last one: (xmin, ymin, xmax, ymax) there is
(xmin - 1, ymin - 1, xmax, ymax) here. An object that is `difficult` is ignored.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import SPLIT_NAMES, Complaints, files_in, natural, subfolders
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.objects import ObjectRows
from foveal.data.splits import UNSPLIT
from foveal.errors import InputError

ANNOTATIONS = ("Annotations", "annotations")
IMAGES = ("JPEGImages", "images", "Images")


class _Entry(NamedTuple):
    """An annotation file, the folders in which its image may be, and the code of its split."""

    file: Path
    folders: list[Path]
    split: int


def recognise(root: Path) -> bool:
    """Whether there are XML files in a folder Annotations, beside the images, or so in folders of splits."""
    return any(_first_xml(folder) for folder in (*_annotations(root), root, *_split_folders(root)))


def load(root: Path, complain: Complaints) -> Dataset:
    """A folder with Annotations, JPEGImages and, if wanted, ImageSets/Main; or XML files beside the images, if wanted
    in folders train, val and test. Images without an annotation file are left out. Raises InputError."""
    rows, found = ObjectRows(complain), list(_entries(root, complain))
    read = [(entry, tree) for entry in found if (tree := _parse(entry.file, complain)) is not None]
    names = sorted({name for _, tree in read for name in _names(tree)}, key=natural)
    place = {name: number for number, name in enumerate(names)}
    shown: dict[str, Path] = {}
    stems: dict[Path, dict[str, str]] = {}
    for entry, tree in read:
        image = _image(entry, tree, stems)
        if image is None:
            looked = " or ".join(str(folder) for folder in entry.folders)
            complain.fault("missing images", f"{entry.file}: its image is not in {looked}")
            continue
        path = os.path.relpath(image, root)
        if path in shown:
            complain.fault("images with two annotations", f"{entry.file}: {image} has one already, {shown[path]}")
            continue
        shown[path] = entry.file
        rows.image(root, path, entry.split, (_side(tree, "height"), _side(tree, "width")))
        for number, item in enumerate(tree.findall("object"), 1):
            where = f"{entry.file}, object {number}"
            name, box = _text(item, "name"), item.find("bndbox")
            if not name or box is None:
                complain.fault("objects without name or box", f"{where}: it has no {'bndbox' if name else 'name'}")
                continue
            x1, y1, x2, y2 = (_number(_text(box, side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            rows.add(
                where,
                (x1 - 1, y1 - 1, x2, y2),
                place[name],
                ignored=_text(item, "difficult") == "1",
                otherwise=(x1 - 1, y1 - 1, x1 - 1 + x2, y1 - 1 + y2),
            )
    return rows.dataset(str(root), root, names)


def _entries(root: Path, complain: Complaints) -> Iterator[_Entry]:
    for annotations in _annotations(root):
        if _first_xml(annotations):
            folders = [root / name for name in IMAGES if (root / name).is_dir()] or [annotations, root]
            splits = _image_sets(root, complain)
            files = {file.stem: file for file in files_in(annotations, ".xml")}
            for stem, split in (splits or dict.fromkeys(files, UNSPLIT)).items():
                if stem in files:
                    yield _Entry(files[stem], folders, split)
                else:
                    complain.fault("missing annotations", f"{annotations / stem}.xml is in ImageSets, but missing")
            return
    parts = [folder for folder in _split_folders(root) if _first_xml(folder)]
    for folder in parts or [root]:
        split = SPLITS.index(SPLIT_NAMES[folder.name.lower()]) if parts else UNSPLIT
        beside = [folder, *(folder / name for name in IMAGES if (folder / name).is_dir())]
        yield from (_Entry(file, beside, split) for file in files_in(folder, ".xml"))


def _image_sets(root: Path, complain: Complaints) -> dict[str, int]:
    """name -> code of the split, by the lists train.txt, val.txt and test.txt; trainval.txt where the first two are not
    there. Nothing where there are no lists."""
    folder, found = root / "ImageSets" / "Main", dict[str, int]()
    if not folder.is_dir():
        return found
    lists = {file.stem: file for file in files_in(folder, ".txt")}
    if "train" not in lists and "val" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    for split in SPLITS:
        if split not in lists:
            continue
        try:
            lines = lists[split].read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {lists[split]}: {error}") from None
        for number, line in enumerate(lines, 1):
            name = line.split()[0] if line.split() else None
            if name and found.setdefault(name, SPLITS.index(split)) != SPLITS.index(split):
                before = SPLITS[found[name]]
                complain.fault("names in two lists", f"{lists[split]}, line {number}: {name} is in {before}.txt too")
    return found


def _image(entry: _Entry, tree: ElementTree.Element, stems: dict[Path, dict[str, str]]) -> Path | None:
    """The image with the name of the annotation file, else the one that the annotation names.

    The former goes first: what is written within is often what the image was called on another machine.
    """
    for folder in entry.folders:
        if folder not in stems:
            stems[folder] = {path.stem: path.name for path in files_in(folder, *IMAGE_SUFFIXES)}
        if entry.file.stem in stems[folder]:
            return folder / stems[folder][entry.file.stem]
    name = os.path.basename(_text(tree, "filename").replace("\\", "/"))
    for folder in entry.folders:
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and os.path.isfile(folder / name):
            return folder / name
    return None


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what could define entities, which grow when they are read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("it has a DTD, which no annotation needs")


def _parse(file: Path, complain: Complaints) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(file, ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except OSError as error:
        reason = error.strerror
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # InputError is a ValueError
        reason = str(error)
    complain.fault("unreadable annotations", f"cannot read {file}: {reason}")
    return None


def _names(tree: ElementTree.Element) -> Iterator[str]:
    return (name for item in tree.findall("object") if (name := _text(item, "name")))


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _side(tree: ElementTree.Element, name: str) -> int:
    """Pixels of a side; 0 where the file does not say."""
    value = _number(_text(tree, f"size/{name}"))
    return int(value) if math.isfinite(value) else 0


def _annotations(root: Path) -> list[Path]:
    # Compared by name, since not every file system tells a capital from a small letter.
    return [folder for folder in subfolders(root) if folder.name in ANNOTATIONS]


def _split_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if folder.name.lower() in SPLIT_NAMES]


def _first_xml(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(".xml") and entry.name[0] != "." for entry in entries)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from None
