"""CSV files with a row for each image: foveal's own, and those of Kaggle, Hugging Face and Label Studio."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import DEEPEST, MOST, Complaints, image_files, split_folder
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.labelled import Row, collect, labelled, opens
from foveal.data.splits import UNSPLIT
from foveal.data.values import beginning, read_text
from foveal.errors import InputError, few, nearest

COLUMNS = ("path", "label", "split")
# Other names of the columns, letters and digits alone, the more telling ones first.
_PATHS = """filename filepath filepaths file files imagepath imagepaths imgpath imagefile imagefilename imagename
    imgname image images img picture photo imageid imgid idcode id name"""
_LABELS = """label labels labelname class classes classname category categoryname target breed species choice diagnosis
    tag"""
NAMES = {
    "path": _PATHS.split(),
    "label": _LABELS.split(),
    "split": ["split", "subset", "set", "dataset", "partition"],
}
BOXES = {"xmin", "ymin", "xmax", "ymax", "bbox", "boundingbox", "x1", "y1"}
MOST_COLUMNS = 2**14
PEEK = 2**20  # bytes in which the names of the columns stand
METADATA = "metadata.csv"  # Hugging Face's name for the table beside images


class _Columns(NamedTuple):
    """The name of each column as the file has it."""

    path: str
    label: str
    split: str | None


def metadata(root: Path, folders: Iterable[Path]) -> tuple[list[Path], Path] | None:
    """Hugging Face's tables of images in a folder, or in its folders of splits, and the folder; None where there are
    none, or they name no labels."""
    files = [root / METADATA] if (root / METADATA).is_file() else []
    files = files or [folder / METADATA for folder in folders if (folder / METADATA).is_file()]
    plain = [{_plain(column) for column in _header(file)} for file in files]
    return (files, root) if files and all(columns & set(NAMES["label"]) for columns in plain) else None


def from_csv(source: Path | list[Path], root: Path | None = None, complain: Complaints | None = None) -> Dataset:
    """Rows of path, label and, if the file has it, split; or Hugging Face's tables below `root`, each of which names
    the images beside it. Paths are relative to the file's folder. Raises InputError."""
    complain = Complaints() if complain is None else complain
    files = source if isinstance(source, list) else [source]
    name = files[0] if root is None else root
    rows = collect(root or files[0].parent, (row for file in files for row in _rows_of(file, root, complain)))
    if not rows.labels:
        raise InputError(f"{name} has no rows")
    if UNSPLIT in rows.splits and rows.splits.max() != UNSPLIT:
        raise InputError(f"{name}: the column split is filled in some rows and empty in others")
    for first, again in rows.images.twice():
        for kind, names, codes in (("labels", rows.labels, rows.classes), ("splits", SPLITS, rows.splits)):
            if codes[first] != codes[again]:
                one, two = (names[codes[index]] for index in (first, again))
                raise InputError(f"{name}: {rows.images.name(again)} has two {kind}, {one!r} and {two!r}")
    lost = [index for index in range(len(rows.images)) if not os.path.isfile(rows.images.name(index))]
    if lost:
        first_lost = rows.images.name(lost[0])
        raise InputError(f"{name}: {len(lost)} of {len(rows.images)} images do not exist, first {first_lost}")
    return labelled(str(name), rows)


def _rows_of(file: Path, root: Path | None, complain: Complaints) -> Iterator[Row]:
    """The rows of a file, their paths below `root`, which is its folder where none is given."""
    inside = "" if root is None else os.path.relpath(file.parent, root)
    for path, label, split in _rows(file, _text(file, complain), complain):
        below = os.path.normpath(os.path.join(inside, path)) if inside not in ("", ".") else path
        if root is not None and split is None:  # the folder names the split
            split = split_folder(Path(below).parts[0])
        yield below, label, split


def _text(file: Path, complain: Complaints) -> str:
    text, encoding = read_text(complain.own(file))
    if encoding not in ("utf-8", "utf-8-sig"):
        complain.note(f"read in {encoding.upper()}: {file.name}")
    return text


def _header(file: Path) -> list[str]:
    text = beginning(file, PEEK)
    try:
        return next(csv.reader(io.StringIO(text), delimiter=_separator(text), skipinitialspace=True), [])
    except csv.Error:
        return []


def _separator(text: str) -> str:
    """The character between the names of the columns."""
    first = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").splitlines()[0] if text.strip() else "")
    return next((mark for mark in (",", ";", "\t", "|") if mark in first), ",")


def _rows(file: Path, text: str, complain: Complaints) -> Iterator[Row]:
    """(path, label, split) of each row that nothing is wrong with."""
    separator = _separator(text)
    # A blank before a value is no part of it; before an empty one between tabs it must stay a separator.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t", strict=True
    )
    try:
        header = next(filter(None, reader), [])
        if len(header) > MOST_COLUMNS:
            raise InputError(f"{file} has {len(header):,} columns; a table of images may have {MOST_COLUMNS:,}")
        columns = _columns(file, header, complain)
        if separator != ",":
            complain.note(f"read with {'tabs' if separator == chr(9) else separator} between the columns: {file.name}")
        yield from _valid_rows(file, reader, header, columns, complain)
    except csv.Error as error:
        raise InputError(f"{file} is not a CSV file in UTF-8: {error}") from None


def _columns(file: Path, header: list[str], complain: Complaints) -> _Columns:
    """Which columns hold what; what is read otherwise than foveal writes it is noted."""
    unnamed = {column for column in header if not column.strip() or re.fullmatch(r"Unnamed: \d+", column)}
    columns = [column for column in header if column not in unnamed]
    if (
        header
        and re.search(r"\.[A-Za-z]{3,4}$", header[0])
        and os.path.splitext(header[0])[1].lower() in IMAGE_SUFFIXES
    ):
        raise InputError(f"{file} has no line with the names of the columns; put path,label on top")
    wrong = [f"two columns {column!r}" for column, count in Counter(columns).items() if count > 1]
    plain = {_plain(column): column for column in reversed(columns)}
    chosen = {kind: _chosen(kind, columns, plain) for kind in COLUMNS}
    others = [column for column in columns if column not in chosen.values()]
    if chosen["path"] and not chosen["label"] and len(others) == 1 and not {"path", "label"} & set(columns):
        chosen["label"] = others.pop()
    if {"path", "label"} <= set(columns) or None in (chosen["path"], chosen["label"]):
        wrong = [f"unknown column {column!r}" for column in others] + wrong
    wrong += [f"no column {kind!r}" for kind in COLUMNS[:2] if not chosen[kind]]
    if len(BOXES & plain.keys()) > 1 or "bbox" in plain:
        raise InputError(f"{file} has boxes of objects; data to detect is read from COCO's JSON, Pascal VOC or YOLO")
    if wrong:
        raise InputError(f"{file}: {few(wrong, 6)}; the columns are path, label and, if wanted, split")
    renamed = [f"{kind} from {name!r}" for kind, name in chosen.items() if name not in (None, kind)]
    if renamed or unnamed:
        left = [*others, *["one without a name"] * bool(unnamed)]
        text = ", ".join(renamed or ["path and label"]) + (f"; left out: {few(left, 6)}" if left else "")
        complain.note(f"columns of {file.name}: {text}")
    return _Columns(str(chosen["path"]), str(chosen["label"]), chosen["split"])


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _chosen(kind: str, columns: list[str], plain: dict[str, str]) -> str | None:
    return kind if kind in columns else next((plain[name] for name in NAMES[kind] if name in plain), None)


def _valid_rows(file: Path, reader: Any, header: list[str], columns: _Columns, complain: Complaints) -> Iterator[Row]:
    names, again, moved = [column for column in columns if column], 0, _Moved(file)
    places = [header.index(name) for name in names]
    before: dict[str, tuple[int, str, str | None]] = {}
    for row in filter(None, reader):
        here = f"{file}, line {reader.line_num}"
        if len(row) != len(header) or not row[places[0]] or not row[places[1]]:
            complain(f"{here}: a row has one value for each of {', '.join(names)}")
            continue
        if [row[place] for place in places] == names:
            again += 1
            continue
        image, label = moved.place(row[places[0]]), row[places[1]]
        if label.startswith(("[", "{")) and _is_json(label):
            complain(f"{here}: the label is a list of classes; to classify takes one class for each image")
            continue
        text = row[places[2]] if columns.split else ""
        split = split_folder(text) if text else None
        if text and split is None:
            complain(f"{here}: unknown split {text!r}{nearest(text, SPLITS)}")
            continue
        # An error is raised for all rows together, once they are there (from_csv); complaints are of each.
        if complain.collected is not None:
            line, *first = before.setdefault(os.path.normpath(image), (reader.line_num, label, split))
            if first != [label, split]:
                kind, one, two = ("labels", first[0], label) if first[0] != label else ("splits", first[1], split)
                complain(f"{here}: {file.parent / image} has two {kind}, {one!r} in line {line} and here {two!r}")
                continue
        if complain.admits(file.parent / image, here) and opens(file.parent / image, complain, f"{here}: "):
            yield image, label, split
    if again:
        lines = "lines" if again > 1 else "line"
        complain.note(f"left out: {again} further {lines} with the names of the columns in {file.name}")
    moved.note(complain)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False


class _Moved:
    """Finds images that are not where a table has them: without a suffix, with the separators of Windows, under the
    address of a server or the folder of another computer."""

    def __init__(self, file: Path) -> None:
        self.file, self.count, self.example = file, 0, ("", "")
        self.seen = self.lost = 0
        self._files: dict[str, list[str]] | None = None

    def place(self, path: str) -> str:
        """The path below the file's folder of the one image that is meant; the path itself where there is no such.
        Raises InputError where MOST are not there."""
        self.seen += 1
        if os.path.isfile(self.file.parent / path):
            return path
        if (found := self._elsewhere(path)) is not None:
            self.example = self.example if self.count else (path, found)
            self.count += 1
            return found
        self.lost += 1
        if self.lost == MOST:
            raise InputError(
                f"{self.file}: {MOST:,} of the first {self.seen:,} images do not exist, as {self.file.parent / path}; "
                "what follows was not read"
            )
        return path

    def _elsewhere(self, path: str) -> str | None:
        words = [word for word in re.split(r"[/\\]|\?d=", unquote(path)) if word not in ("", ".")][-DEEPEST:]
        if not words:
            return None
        if os.path.isfile(self.file.parent / (slashed := "/".join(words))):
            return slashed
        name = words[-1].casefold()
        # Label Studio puts eight digits before the name of a file that is uploaded to it.
        for wanted in (name, re.sub(r"^[0-9a-f]{8}-", "", name)):
            if candidates := self.files.get(wanted) or self.files.get(os.path.splitext(wanted)[0] + "."):
                return _best(candidates, words)
        return None

    @property
    def files(self) -> dict[str, list[str]]:
        """Paths of the images below the folder by their names, and by their names without suffix but with the dot."""
        if self._files is None:
            self._files = {}
            for path in image_files(self.file.parent):
                name = os.path.basename(path).casefold()
                for key in (name, os.path.splitext(name)[0] + "."):
                    self._files.setdefault(key, []).append(path)
        return self._files

    def note(self, complain: Complaints) -> None:
        if self.count:
            path, place = self.example
            complain.note(f"{self.count} images of {self.file.name} are elsewhere than it has them, as {path}: {place}")


def _best(candidates: list[str], words: list[str]) -> str | None:
    """The one candidate that has most folders in common with a path, counted from its end; None where several have."""

    def common(path: str) -> int:
        pairs = zip(reversed(path.casefold().split("/")[:-1]), reversed(words[:-1]), strict=False)
        equal = [one == two.casefold() for one, two in pairs]
        return [*equal, False].index(False)

    scores = [common(path) for path in candidates]
    return candidates[scores.index(max(scores))] if scores.count(max(scores)) == 1 else None
