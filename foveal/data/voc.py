"""Pascal VOC (Everingham et al. 2010, The PASCAL Visual Object Classes Challenge): an XML file for each image.

In the files pixels are counted from 1 and a box includes its last one: (xmin, ymin, xmax, ymax) there is
(xmin - 1, ymin - 1, xmax, ymax) here. An object that is `difficult` is ignored.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import DEEPEST, SPLIT_NAMES, Complaints, files_in, natural, split_folder, split_named, subfolders
from foveal.data.frames import Frame, Frames
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.layouts import IMAGES, beside, sidecars
from foveal.data.named import plain
from foveal.data.objects import ObjectRows
from foveal.data.splits import UNSPLIT
from foveal.data.values import MAX_LIST, read_text
from foveal.data.voc_xml import Annotation, Item, read_annotation
from foveal.errors import InputError, few
from foveal.filesystem import open_file

ANNOTATIONS = ("annotations", "labels", "xmls")  # in small letters
DEPTH = 2  # folders between the one that is passed and that of a year, as in VOCdevkit/VOC2012

FROM_ZERO = "boxes that begin at pixel 0, while VOC counts from 1: this side stays, others are taken one lower"
FROM_POLYGON = "boxes that are missing and taken from the polygon"
BY_STEM = "images that their annotation calls otherwise and that are taken by the name of the XML file"
STALE = "annotations that name the image of another annotation; the one with the name of the XML file is taken"
NAMED = "annotations that name another image than the one with the name of the XML file; the one they name is taken"


class _Entry(NamedTuple):
    """An annotation file, the folders in which its image may be, and the code of its split."""

    file: Path
    folders: list[Path]
    split: int


def recognise(root: Path) -> bool:
    """Whether there are XML files in a folder of annotations, or beside images, or so in folders of splits or years."""
    return bool(_sets(root)) or any(_has_xml(folder) for folder in (root, *_split_folders(root)))


def recognise_content(root: Path) -> bool:
    """Whether another folder holds VOC's XML files of images that lie beside that folder."""
    return bool(_unnamed_sets(root))


def load(root: Path, complain: Complaints) -> Dataset:
    """A folder with Annotations, JPEGImages and, if wanted, ImageSets/Main, or with several such folders, of years or
    splits; or XML files beside the images, if wanted in folders train, val and test. Images without an annotation file
    are left out. Raises InputError."""
    rows, frames = ObjectRows(complain), Frames(root, complain)
    entries = list(_entries(root, complain))
    read = [(entry, found) for entry in entries if (found := read_annotation(entry.file, complain)) is not None]
    names = sorted({item.name for _, found in read for item in found.items if item.name}, key=natural)
    place = {name: number for number, name in enumerate(names)}
    images = _Images(rows)
    shown: dict[str, Path] = {}
    kept: list[tuple[str, int, Annotation]] = []
    for entry, found in read:
        image = images.of(entry, found)
        if image is None:
            continue
        path = os.path.relpath(image, root)
        if not complain.admits(root / path, str(entry.file)):
            continue
        if path in shown:
            complain.fault("images with two annotations", f"{entry.file}: {image} has one already, {shown[path]}")
            continue
        shown[path] = entry.file
        kept.append((path, _split(entry, image, root), found))
        frames.add(path, str(entry.file), found.size, (item.box for item in found.items if item.box is not None))
    frames.settle()
    for path, split, found in kept:
        if (frame := frames[path]) is not None:
            rows.image(root, path, split, frame.size)
            for item in found.items:
                _add(rows, item, place, frame)
    return rows.dataset(str(root), root, names)


def _add(rows: ObjectRows, item: Item, place: dict[str, int], frame: Frame) -> None:
    if not item.name or item.box is None:
        missing = "bndbox" if item.name else "name"
        rows.complain.fault("objects without name or box", f"{item.where}: it has no {missing}")
        return
    if not item.written:
        rows.choices(FROM_POLYGON, item.where)
    elif any(0 <= value < 1 for value in item.written[:2]):
        rows.choices(FROM_ZERO, item.where)
    x1, y1, x2, y2 = item.box
    rows.add(
        item.where,
        frame.box(item.box),
        place[item.name],
        ignored=item.difficult,
        otherwise=frame.box((x1, y1, x1 + x2, y1 + y2)),
        written=item.written,
    )


class _Set(NamedTuple):
    """A folder with one of annotations, and the code of its split."""

    folder: Path
    annotations: Path
    split: int


def _sets(root: Path, depth: int = DEPTH, split: int = UNSPLIT) -> list[_Set]:
    folders = subfolders(root)
    # Compared by name, since not every file system tells a capital from a small letter.
    for folder in folders:
        if folder.name.lower() in ANNOTATIONS and _has_xml(folder, nested=True):
            return [_Set(root, folder, split)]
    found: list[_Set] = []
    for folder in folders if depth else []:
        own = split_folder(folder.name)
        if own or folder.name.lower().startswith("voc"):
            found += _sets(folder, depth - 1, SPLITS.index(own) if own else split)
    return found


def _unnamed_sets(root: Path, split: int = UNSPLIT) -> list[_Set]:
    """Folders of annotations by their content, where no name and no XML file beside an image tells."""
    if found := [folder for folder in sidecars(root) if _holds_voc(folder)]:
        splits = [split_named(folder.name) if split == UNSPLIT else None for folder in found]
        codes = [SPLITS.index(own) if own else split for own in splits]
        return [_Set(root, folder, code) for folder, code in zip(found, codes, strict=True)]
    inner = [(folder, split_folder(folder.name)) for folder in subfolders(root)] if split == UNSPLIT else []
    return [one for folder, own in inner if own for one in _unnamed_sets(folder, SPLITS.index(own))]


def _split(entry: _Entry, image: Path, root: Path) -> int:
    """The code of the split that an annotation is of, else of the one that its image's folder is named after."""
    own = split_folder(image.parent.name) if entry.split == UNSPLIT and image.parent != root else None
    return SPLITS.index(own) if own else entry.split


def _holds_voc(folder: Path) -> bool:
    """Whether the first XML file below a folder is an annotation."""
    file = next(iter(_xml_below(folder)), None)
    return file is not None and _begins_as_voc(file)


def _begins_as_voc(file: Path) -> bool:
    with open_file(file) as opened:
        return b"<annotation" in opened.read(2**12).replace(b"\0", b"")  # as UTF-16 has it


def _entries(root: Path, complain: Complaints) -> Iterator[_Entry]:
    sets = _sets(root)
    if not sets and not any(_has_xml(folder) for folder in (root, *_split_folders(root))):
        sets = _unnamed_sets(root)
    for one in sets:
        yield from _of_set(one, complain)
    if sets:
        return
    parts = [folder for folder in _split_folders(root) if _has_xml(folder)]
    for folder in parts or [root]:
        split = split_folder(folder.name) if parts else None
        code = UNSPLIT if split is None else SPLITS.index(split)
        yield from (_Entry(file, [folder, *_image_folders(folder)], code) for file in files_in(folder, ".xml"))


def _of_set(one: _Set, complain: Complaints) -> Iterator[_Entry]:
    """The annotations of a set that its lists name, or all of them where it has none."""
    files = {file.relative_to(one.annotations).with_suffix("").as_posix(): file for file in _xml_below(one.annotations)}
    parents = _image_folders(one.folder) or [one.annotations, one.folder, *beside(one.annotations)]

    def entry(name: str, split: int) -> _Entry:
        inner = Path(name).parent
        folders = dict.fromkeys(folder for parent in parents for folder in (parent / inner, parent))
        return _Entry(files[name], [folder for folder in folders if folder.is_dir()], split)

    lists = _image_sets(one.folder, complain) if one.split == UNSPLIT else []
    listed: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for path in files:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    for line, split, where in lists:
        name = _listed(line, files, by_name)
        if name is None:
            complain.fault("missing annotations", f"{where}: {one.annotations / line}.xml is in ImageSets, but missing")
        elif name not in listed:
            listed[name] = split
            yield entry(name, SPLITS.index(split))
        elif listed[name] != split:
            complain.fault("names in two lists", f"{where}: {line} is in {listed[name]}.txt too")
    for name in files if not lists else ():
        # Annotations/train/a.xml
        inner = split_folder(name.partition("/")[0]) if "/" in name else None
        yield entry(name, one.split if inner is None else SPLITS.index(inner))
    if lists and (left := [name for name in files if name not in listed]):
        complain.note(f"annotations that are in no list of ImageSets are left out: {len(left)}, first {files[left[0]]}")


def _image_sets(root: Path, complain: Complaints) -> list[tuple[str, str, str]]:
    """(line, split, file and line for a person) of the lists train, val and test; of trainval where the first two are
    not there. Lists of other names, as of one class, are none of splits."""
    folder = next((one for one in (root / "ImageSets" / "Main", root / "ImageSets") if one.is_dir()), None)
    files = {} if folder is None else {file.stem.lower(): file for file in files_in(folder, ".txt")}
    lists = {SPLIT_NAMES[name]: file for name, file in files.items() if name in SPLIT_NAMES}
    if "train" not in lists and "val" not in lists and "trainval" in files:
        lists["train"] = files["trainval"]
    if files and not lists:
        complain.note(f"{folder} has no list train, val or test: class and content of each image decide its split")
    found = []
    for split in (split for split in SPLITS if split in lists):
        file = lists[split]
        lines = read_text(complain.own(file), MAX_LIST, windows=True)[0].splitlines()
        found += [(line.strip(), split, f"{file}, line {place}") for place, line in enumerate(lines, 1) if line.strip()]
    return found


def _listed(line: str, files: dict[str, Path], by_name: dict[str, list[str]]) -> str | None:
    """Which of the annotations a line of a list names: by its path or name, with or without a suffix, with or without
    the 1 or -1 that says whether it shows a class."""
    for text in (line, re.sub(r"\s+[-+]?[01]$", "", line)):
        path = Path(plain(text))
        suffixed = path.suffix.lower() in {*IMAGE_SUFFIXES, ".xml"}
        name = (path.with_suffix("") if suffixed else path).as_posix()
        if name in files:
            return name
        parts = name.split("/")
        tails = ["/".join(parts[start:]) for start in range(max(1, len(parts) - DEEPEST), len(parts))]
        if found := next((tail for tail in tails if tail in files), None):
            return found
        if len(same := by_name.get(parts[-1], [])) == 1:
            return same[0]
    return None


class _Images:
    """Finds the image of an annotation: the one that it names, filename before path; else the one of its own name."""

    def __init__(self, rows: ObjectRows) -> None:
        self.rows = rows
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def of(self, entry: _Entry, found: Annotation) -> Path | None:
        """None, and a fault, where there is none or it may be several."""
        stem, case = entry.file.stem, str(entry.file)
        named, own = self._named(entry, found), self._own(entry)
        if named is not None and (named.stem == stem or not own):
            return named
        if named is not None and not (entry.file.parent / f"{named.stem}.xml").is_file():
            self.rows.choices(NAMED, f"{case} with {named.name}")
            return named
        if len(own) == 1:
            name = plain(found.names[0]).rpartition("/")[2] if found.names else stem
            if named is not None:
                self.rows.choices(STALE, f"{case} with {named.name}")
            elif name not in (stem, own[0].name):
                self.rows.choices(BY_STEM, f"{case} with {name}")
            return own[0]
        if own:
            text = f"{entry.file}: {few([str(path) for path in own])} have its name, and it names none of them"
            self.rows.complain.fault("annotations of several images", text)
        else:
            looked = " or ".join(str(folder) for folder in entry.folders)
            self.rows.complain.fault("missing images", f"{entry.file}: its image is not in {looked}")
        return None

    def _named(self, entry: _Entry, found: Annotation) -> Path | None:
        for name in found.names:
            texts = (os.path.basename(name.replace("\\", "/")), plain(name), plain(name).rpartition("/")[2])
            for folder in entry.folders:
                for text in dict.fromkeys(texts):
                    suffix = os.path.splitext(text)[1].lower()
                    if suffix in IMAGE_SUFFIXES and os.path.isfile(folder / text):
                        return folder / text
        return None

    def _own(self, entry: _Entry) -> list[Path]:
        """The images with the name of the annotation file, in the first folder that has some."""
        for folder in entry.folders:
            if folder not in self._stems:
                self._stems[folder] = {}
                for path in files_in(folder, *IMAGE_SUFFIXES):
                    self._stems[folder].setdefault(path.stem, []).append(path.name)
            if names := self._stems[folder].get(entry.file.stem):
                return [folder / name for name in names]
        return []


def _image_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if folder.name.lower() in IMAGES]


def _split_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if split_folder(folder.name)]


def _xml_below(folder: Path) -> list[Path]:
    """The XML files anywhere below a folder, sorted."""
    return [*files_in(folder, ".xml"), *(file for inner in subfolders(folder) for file in _xml_below(inner))]


def _has_xml(folder: Path, nested: bool = False) -> bool:
    """Whether a folder, or any below it, has an XML file in it."""
    try:
        with os.scandir(folder) as entries:
            if any(entry.name.lower().endswith(".xml") and entry.name[0] != "." for entry in entries):
                return True
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from None
    return nested and any(_has_xml(inner, nested) for inner in subfolders(folder))
