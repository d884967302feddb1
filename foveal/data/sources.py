"""Data sets by name or path: the built-in ones, a folder for each class, a CSV file, the layouts of data to detect."""

import csv
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveal.data import coco, voc, yolo
from foveal.data.builtin import BUILT_IN
from foveal.data.dataset import SPLITS, Dataset, ImageFiles, LabelColumn
from foveal.data.files import SPLIT_NAMES, STRICT, Complaints, image_files, natural, subfolders
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.objects import CLIPPED
from foveal.data.splits import UNSPLIT, complete_splits, split_by_content
from foveal.errors import InputError, nearest, one_line

CSV_COLUMNS = ("path", "label", "split")
Reader = Callable[[Path, Complaints], Dataset]


def load_dataset(source: str | PathLike[str], task: str | None = None, split: str | None = None) -> Dataset:
    """The data set at `source`, all of it or one split.

    source: the name of a built-in set. To classify: a folder with one folder a class, or with train, val and test
            folders that have one; a CSV file with columns path, label and, if wanted, split. To detect: a folder in the
            layout of COCO, Pascal VOC or YOLO, COCO's JSON file or YOLO's data.yaml. To generate: any of these, or a
            folder with nothing but images in it.
    task:   the task that the data has to serve; default the one that it does serve.
    Where nothing names the splits, the content of each image decides (data/splits.py). Boxes that stick out of their
    image are clipped, those outside or without area left out; one line on stderr says how many.

    Raises InputError, which says what is wrong and where.
    """
    complain = Complaints()
    dataset = _load(os.fspath(source), task, complain)
    if complain.mended:
        told = ", ".join(f"{count} {kind}" for kind, count in complain.mended.items())
        left = "" if set(complain.mended) == {CLIPPED} else "; what lay outside or had no area was left out"
        _tell(f"foveal: {source}: of {complain.boxes} boxes {told}{left}; foveal check names them")
    for note in complain.notes:
        _tell(f"foveal: {source}: {note}")
    return dataset if split is None else dataset.select(split)


def _tell(line: str) -> None:
    sys.stderr.write(one_line(line) + "\n")


def survey(source: str | PathLike[str], task: str | None = None) -> tuple[Dataset | None, Complaints]:
    """What can be used of the data set at `source`, if anything; and all that is wrong with how it is laid out, of
    which `load_dataset` raises the first.

    Raises InputError where one thing is wrong, and it concerns the whole.
    """
    found: list[str] = []
    complaints = Complaints(found)
    try:
        return _load(os.fspath(source), task, complaints), complaints
    except InputError as error:
        if not found:
            raise
        found.append(str(error))
        return None, complaints


def _load(name: str, task: str | None, complain: Complaints) -> Dataset:
    path = Path(name)
    if name in BUILT_IN:
        dataset = BUILT_IN[name](None if task == "generate" else task)
    elif name and task == "generate" and path.is_dir() and not subfolders(path):
        if not (files := image_files(path, None, complain)):
            raise InputError(f"{name} has no images in it")
        dataset = _unlabelled(name, ImageFiles(path, files))
    elif name and path.is_dir():
        dataset = _from_layout(path, complain)
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        dataset = SUFFIXES[path.suffix.lower()](path, complain)
    elif name and path.exists():
        raise InputError(f"{name} is neither a folder nor a file of data: {', '.join(SUFFIXES)}")
    else:
        close = "" if path.suffix or len(path.parts) > 1 else nearest(name, BUILT_IN).replace("known", "built in")
        raise InputError(f"there is no data at {name or repr(name)}{close}")
    dataset = dataset if task is None else dataset.serving(task)
    if dataset.task == "classify" and len(dataset.labels) == 1:
        raise InputError(f"{name} has one class only, {dataset.labels[0]!r}; to classify takes two or more")
    return dataset


def _from_layout(root: Path, complain: Complaints) -> Dataset:
    """A folder by what is in it: annotations of objects in one of the layouts, or else folders of classes."""
    found = {name: load for name, (recognise, load) in LAYOUTS.items() if recognise(root)}
    if len(found) > 1:
        raise InputError(f"{root} has annotations of {' and of '.join(found)}: name the file, or move one away")
    return next(iter(found.values()), from_folder)(root, complain)


def from_folder(root: Path, complain: Complaints = STRICT) -> Dataset:
    """A folder for each class, or folders named train, val and test that have these."""
    folders = subfolders(root)
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
            for folder in subfolders(parent)
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
    classes = {folder.name for parent in (parents or {None: root}).values() for folder in subfolders(parent)}
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


def _unlabelled(source: str, images: ImageFiles) -> Dataset:
    """A data set to generate."""
    return Dataset(source, "generate", (), images, None, split_by_content(images, range(len(images)), test=True))


def _labelled(source: str, rows: _Rows) -> Dataset:
    """A data set to classify."""
    labels = sorted(rows.labels, key=natural)
    place = {label: number for number, label in enumerate(labels)}
    classes = np.array([place[label] for label in rows.labels])[rows.classes]
    splits = complete_splits(source, rows.images, rows.splits)
    return Dataset(source, "classify", tuple(labels), rows.images, LabelColumn(classes), splits)


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Reader]] = {
    "COCO": (coco.recognise, coco.load),
    "Pascal VOC": (voc.recognise, voc.load),
    "YOLO": (yolo.recognise, yolo.load),
}
SUFFIXES: dict[str, Reader] = {".csv": from_csv, ".json": coco.load, ".yaml": yolo.load, ".yml": yolo.load}
