"""Data sets by name or path: the built-in ones, a folder for each class, a CSV file."""

import csv
import os
import re
from array import array
from collections import Counter
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


class Complaints:
    """What is done about what is wrong with a part of the data: it is an error; or, with a list to collect in, it is
    noted there and the part left out.

    others: suffix, or name without one -> how many such files were passed over, as those of no image.
    """

    def __init__(self, collected: list[str] | None = None) -> None:
        self.collected, self.others = collected, Counter[str]()

    def __call__(self, summary: str, each: Iterable[str] = ()) -> None:
        """summary: the error. each: what is noted in its place, where that is more than the one thing."""
        if self.collected is None:
            raise InputError(summary)
        self.collected += list(each) or [summary]

    def pass_over(self, name: str) -> None:
        """Note a file that is none of an image, by its name."""
        if self.collected is not None:
            self.others[os.path.splitext(name)[1].lower() or name] += 1


STRICT = Complaints()


def load_dataset(source: str | PathLike[str], task: str | None = None, split: str | None = None) -> Dataset:
    """The data set at `source`, all of it or one split.

    source: the name of a built-in set; a folder with one folder a class, or with train, val and test folders that have
            one; a CSV file with columns path, label and, if wanted, split.
    task:   the task that the data has to serve; default the one that it does serve.
    Where nothing names the splits, the content of each image decides (data/splits.py).

    Raises InputError, which says what is wrong and where.
    """
    dataset = _load(os.fspath(source), task, STRICT)
    return dataset if split is None else dataset.select(split)


def survey(source: str | PathLike[str], task: str | None = None) -> tuple[Dataset | None, list[str], dict[str, int]]:
    """What can be used of the data set at `source`, if anything; all that is wrong with how it is laid out, of which
    `load_dataset` raises the first; and, by suffix, how many files were passed over as those of no image.

    Raises InputError where one thing is wrong, and it concerns the whole.
    """
    found: list[str] = []
    complaints = Complaints(found)
    try:
        dataset = _load(os.fspath(source), task, complaints)
    except InputError as error:
        if not found:
            raise
        return None, [*found, str(error)], dict(complaints.others)
    return dataset, found, dict(complaints.others)


def _load(name: str, task: str | None, complain: Complaints) -> Dataset:
    path = Path(name)
    if name in BUILT_IN:
        dataset = BUILT_IN[name](task)
    elif name and path.is_dir():
        dataset = from_folder(path, complain)
    elif path.is_file() and path.suffix.lower() == ".csv":
        dataset = from_csv(path, complain)
    elif name and path.exists():
        raise InputError(f"{name} is neither a folder with one folder a class nor a CSV file")
    else:
        close = "" if path.suffix or len(path.parts) > 1 else nearest(name, BUILT_IN).replace("known", "built in")
        raise InputError(f"there is no data at {name or repr(name)}{close}")
    if task is not None and task != dataset.task:
        raise InputError(f"{name} is data to {dataset.task}, not to {task}")
    return dataset


def from_folder(root: Path, complain: Complaints = STRICT) -> Dataset:
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
        complain(
            f"{root} has folders of splits ({', '.join(map(str, parents))}) beside others ({', '.join(others[:5])}); "
            "a class with the name of a split needs a CSV file"
        )
    rows = _collect(
        root,
        (
            (f"{folder.relative_to(root)}/{image}", folder.name, split)
            for split, parent in (parents or {None: root}).items()
            for folder in _folders(parent)
            for image in image_files(folder, root, complain)
            if _has_content(folder / image, complain)
        ),
    )
    if not rows.labels:
        raise InputError(
            f"{root} has no images in the folders of its classes ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "images belong in one folder for each class"
        )
    if unused := [parent for split, parent in parents.items() if _code(split) not in rows.splits]:
        each = [f"{parent} has no images in folders of classes; add some or remove it" for parent in unused]
        complain(each[0], each)
    classes = {folder.name for parent in (parents or {None: root}).values() for folder in _folders(parent)}
    if empty := sorted(classes - set(rows.labels)):
        told = f"{root}: no images in the folder of class {{}}; add some or remove it"
        complain(told.format(", ".join(empty[:5])), map(told.format, empty))
    return _labelled(str(root), rows)


def from_csv(path: Path, complain: Complaints = STRICT) -> Dataset:
    """Rows of path (relative to the CSV's folder), label and, if wanted, split."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = _collect(path.parent, _csv_rows(path, file, complain))
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


def _csv_rows(path: Path, file: Iterable[str], complain: Complaints) -> Iterator[tuple[str, str, str | None]]:
    """(path, label, split) of each row that nothing is wrong with."""
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    columns = list(reader.fieldnames or ())
    complaints = [f"unknown column {column!r}" for column in columns if column not in CSV_COLUMNS]
    complaints += [f"no column {column!r}" for column in CSV_COLUMNS[:2] if column not in columns]
    complaints += [f"two columns {column!r}" for column in CSV_COLUMNS if columns.count(column) > 1]
    if complaints:
        raise InputError(f"{path}: {', '.join(complaints)}; the columns are path, label and, if wanted, split")
    before: dict[str, tuple[int, str, str | None]] = {}
    for row in reader:
        here = f"{path}, line {reader.line_num}"
        if None in row or None in row.values() or not row["path"] or not row["label"]:
            complain(f"{here}: a row has one value for each of {', '.join(columns)}")
            continue
        split = row.get("split") or None
        if split is not None and split.lower() not in SPLIT_NAMES:
            complain(f"{here}: unknown split {split!r}{nearest(split, SPLITS)}")
            continue
        image, label, split = row["path"], row["label"], split and SPLIT_NAMES[split.lower()]
        # An error is told of all rows together, once they are there (from_csv); complaints are of each.
        if complain.collected is not None:
            line, *first = before.setdefault(os.path.normpath(image), (reader.line_num, label, split))
            if first != [label, split]:
                kind, one, two = ("labels", first[0], label) if first[0] != label else ("splits", first[1], split)
                complain(f"{here}: {path.parent / image} has two {kind}, {one!r} in line {line} and here {two!r}")
                continue
        if _has_content(path.parent / image, complain, f"{here}: "):
            yield image, label, split


def _has_content(image: Path, complain: Complaints, where: str = "") -> bool:
    """Whether a file can be opened. Told where complaints are collected, and else taken to be so: whoever reads it
    will see."""
    if complain.collected is not None:
        try:
            open(image, "rb").close()
        except OSError as error:
            complain(f"{where}cannot read {image}: {error.strerror}")
            return False
    return True


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


def image_files(folder: Path, root: Path | None = None, complain: Complaints = STRICT) -> list[str]:
    """Paths below `folder` of the images anywhere in it, sorted, hidden ones left out.

    Links are followed, but not back to a folder that is being read or to `root`, which that one is a part of.
    """
    return sorted(_images(folder, "", frozenset() if root is None else frozenset({_identity(root)}), complain))


def _images(folder: Path, prefix: str, above: frozenset[tuple[int, int]], complain: Complaints) -> Iterator[str]:
    try:
        identity = _identity(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        complain(f"cannot read the folder {folder}: {error.strerror}")
        return
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        # A link that leads nowhere is no folder; its name may still be that of an image, which is then missed.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            yield from _images(folder / entry.name, f"{prefix}{entry.name}/", above | {identity}, complain)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield prefix + entry.name
        else:
            complain.pass_over(entry.name)


def _identity(folder: Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that puts 2 before 10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]
