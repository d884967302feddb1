"""Data sets by name or path: the built-in ones, a folder for each class, a CSV file."""

import csv
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveal.data.builtin import BUILT_IN
from foveal.data.dataset import SPLITS, Dataset, ImageFiles, LabelColumn
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.splits import UNSPLIT, split_by_content
from foveal.errors import InputError, nearest

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
CSV_COLUMNS = ("path", "label", "split")


def load_dataset(source: str | PathLike[str], task: str | None = None, split: str | None = None) -> Dataset:
    """The data set at `source`, all of it or one split.

    source: the name of a built-in set; a folder with one folder a class, or with train, val and test folders that have
            one; a CSV file with columns path, label and, if wanted, split.
    task:   the task that the data has to serve; default the one that it does serve.
    Where nothing names the splits, the content of each image decides (data/splits.py).

    Raises InputError, which says what is wrong and where.
    """
    name = os.fspath(source)
    path = Path(name)
    if name in BUILT_IN:
        dataset = BUILT_IN[name]()
    elif name and path.is_dir():
        dataset = from_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        dataset = from_csv(path)
    elif name and path.exists():
        raise InputError(f"{name} is neither a folder with one folder a class nor a CSV file")
    else:
        close = "" if path.suffix or len(path.parts) > 1 else nearest(name, BUILT_IN).replace("known", "built in")
        raise InputError(f"there is no data at {name or repr(name)}{close}")
    if task is not None and task != dataset.task:
        raise InputError(f"{name} is data to {dataset.task}, not to {task}")
    return dataset if split is None else dataset.select(split)


def from_folder(root: Path) -> Dataset:
    """A folder for each class, or folders named train, val and test that have these."""
    folders = _folders(root)
    if not folders:
        raise InputError(f"{root} has no folders in it; images belong in one folder for each class")
    parents: dict[str | None, Path] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in parents:
            raise InputError(f"{root}: {parents[split].name} and {folder.name} are two folders of one split, {split}")
        if split is not None:
            parents[split] = folder
    others = [folder.name for folder in folders if folder not in parents.values()]
    if parents and others:
        raise InputError(
            f"{root} has folders of splits ({', '.join(map(str, parents))}) beside others ({', '.join(others[:5])}); "
            "a class with the name of a split needs a CSV file"
        )
    rows = _collect(
        root,
        (
            (f"{folder.relative_to(root)}/{image}", folder.name, split)
            for split, parent in (parents or {None: root}).items()
            for folder in _folders(parent)
            for image in image_files(folder, root)
        ),
    )
    if not rows.labels:
        raise InputError(
            f"{root} has no images in the folders of its classes ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "images belong in one folder for each class"
        )
    if unused := [parent for split, parent in parents.items() if _code(split) not in rows.splits]:
        raise InputError(f"{unused[0]} has no images in folders of classes; add some or remove it")
    classes = {folder.name for parent in (parents or {None: root}).values() for folder in _folders(parent)}
    if empty := sorted(classes - set(rows.labels)):
        raise InputError(f"{root}: no images in the folder of class {', '.join(empty[:5])}; add some or remove it")
    return _labelled(str(root), rows)


def from_csv(path: Path) -> Dataset:
    """Rows of path (relative to the CSV's folder), label and, if wanted, split."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = _collect(path.parent, _csv_rows(path, file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not rows.labels:
        raise InputError(f"{path} has no rows")
    if UNSPLIT in rows.splits and rows.splits.max() != UNSPLIT:
        raise InputError(f"{path}: the column split is filled in some rows and empty in others")
    for first, again in rows.images.twice():
        for kind, names, codes in (("labels", rows.labels, rows.classes), ("splits", SPLITS, rows.splits)):
            if codes[first] != codes[again]:
                one, two = (names[codes[index]] for index in (first, again))
                raise InputError(f"{path}: {rows.images.name(again)} has two {kind}, {one!r} and {two!r}")
    lost = [index for index in range(len(rows.images)) if not os.path.isfile(rows.images.name(index))]
    if lost:
        first_lost = rows.images.name(lost[0])
        raise InputError(f"{path}: {len(lost)} of {len(rows.images)} images do not exist, first {first_lost}")
    return _labelled(str(path), rows)


def _csv_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """(path, label, split) of each row."""
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    columns = list(reader.fieldnames or ())
    complaints = [f"unknown column {column!r}" for column in columns if column not in CSV_COLUMNS]
    complaints += [f"no column {column!r}" for column in CSV_COLUMNS[:2] if column not in columns]
    complaints += [f"two columns {column!r}" for column in CSV_COLUMNS if columns.count(column) > 1]
    if complaints:
        raise InputError(f"{path}: {', '.join(complaints)}; the columns are path, label and, if wanted, split")
    for row in reader:
        if None in row or None in row.values() or not row["path"] or not row["label"]:
            raise InputError(f"{path}, line {reader.line_num}: a row has one value for each of {', '.join(columns)}")
        split = row.get("split") or None
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise InputError(f"{path}, line {reader.line_num}: unknown split {split!r}{nearest(split, SPLITS)}")
        yield row["path"], row["label"], split and SPLIT_NAMES[split.lower()]


class _Rows(NamedTuple):
    """Images in flat arrays, since there may be millions."""

    images: ImageFiles
    labels: list[str]  # class names, in the order in which they came
    classes: np.ndarray  # (N,) index into `labels`
    splits: np.ndarray  # (N,) code of the split, or UNSPLIT


def _code(split: str | None) -> int:
    return UNSPLIT if split is None else SPLITS.index(split)


def _collect(root: Path, rows: Iterable[tuple[str, str, str | None]]) -> _Rows:
    """From (path below root, label, split) of each image."""
    index: dict[str, int] = {}
    classes, splits = array("i"), array("b")

    def paths() -> Iterator[str]:
        for path, label, split in rows:
            classes.append(index.setdefault(label, len(index)))
            splits.append(_code(split))
            yield path

    return _Rows(ImageFiles(root, paths()), list(index), np.array(classes), np.array(splits))


def _labelled(source: str, rows: _Rows) -> Dataset:
    """A data set to classify."""
    labels = sorted(rows.labels, key=_natural)
    if len(labels) < 2:
        raise InputError(f"{source} has one class only, {labels[0]!r}; to classify takes two or more")
    place = {label: number for number, label in enumerate(labels)}
    classes = np.array([place[label] for label in rows.labels])[rows.classes]
    splits = rows.splits
    if UNSPLIT in splits:
        splits = _split(source, rows.images, range(len(rows.images)), test=True)
    elif SPLITS.index("train") in splits and SPLITS.index("val") not in splits:
        # The images that are for training have to give some for validation.
        train = np.flatnonzero(splits == SPLITS.index("train"))
        splits[train] = _split(source, rows.images, train, test=False)
    return Dataset(source, "classify", tuple(labels), rows.images, LabelColumn(classes), splits)


def _split(source: str, images: ImageFiles, which: range | np.ndarray, *, test: bool) -> np.ndarray:
    try:
        return split_by_content(images, which, test=test)
    except OSError as error:
        raise InputError(f"{source}: cannot read {error.filename}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {parent}: {error.strerror}") from None


def image_files(folder: Path, root: Path | None = None) -> list[str]:
    """Paths below `folder` of the images anywhere in it, sorted, hidden ones left out.

    Links are followed, but not back to a folder that is being read or to `root`, which that one is a part of.
    """
    return sorted(_images(folder, "", frozenset() if root is None else frozenset({_identity(root)})))


def _images(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        identity = _identity(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from None
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        # A link that leads nowhere is no folder; its name may still be that of an image, which is then missed.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            yield from _images(folder / entry.name, f"{prefix}{entry.name}/", above | {identity})
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield prefix + entry.name


def _identity(folder: Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that puts 2 before 10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]
