"""Data sets by name or path: the built-in ones, a folder for each class, a CSV file, the layouts of data to detect."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from foveal.data import coco, voc, yolo
from foveal.data.builtin import BUILT_IN
from foveal.data.dataset import Dataset, ImageFiles
from foveal.data.files import Complaints, has_images, image_files, report_alike, subfolders
from foveal.data.folders import from_folder, has_classes, only_folder, refuse_masks
from foveal.data.inside import Inside
from foveal.data.labelled import unlabelled
from foveal.data.layouts import only_pictures
from foveal.data.objects import CLIPPED
from foveal.data.table import from_csv
from foveal.data.traits import sampled_notes
from foveal.errors import InputError, nearest, one_line
from foveal.task import Task
from foveal.wording import counted

Reader = Callable[[Path, Complaints], Dataset]


def load_dataset(
    source: str | PathLike[str], task: str | None = None, split: str | None = None, *, outside: bool = False
) -> Dataset:
    """The data set at `source`, all of it or one split.

    source: the name of a built-in set. To classify: a folder with one folder a class, or with train, val and test
            folders that have one; a CSV file with columns path, label and, if wanted, split. To detect: a folder in the
            layout of COCO, Pascal VOC or YOLO, COCO's JSON file or YOLO's data.yaml. To generate: any of these, or a
            folder of images. docs/data.md lists the forms that other tools write.
    task:   the task that the data has to serve; default the one that it does serve.
    outside: links and annotations may lead to files outside the data folder: the folder `source`, or that of the file.
    Where nothing names the splits, class and content of each image decide (data/splits.py). Boxes that stick out of
    their image are clipped, those outside or without area left out; one line on stderr says how many. Further lines
    name the readings that were chosen, and the files that were left out.

    Raises InputError, with what is wrong and where.
    """
    complain = Complaints()
    dataset = _load(os.fspath(source), task, complain, outside)
    if complain.mended:
        told = ", ".join(f"{count} {kind}" for kind, count in complain.mended.items())
        left = "" if set(complain.mended) == {CLIPPED} else "; what lay outside or had no area was left out"
        _tell(f"foveal: {source}: of {complain.boxes} boxes {told}{left}; foveal check names them")
    for note in (*complain.notes, *complain.files(), *sampled_notes(dataset)):
        _tell(f"foveal: {source}: {note}")
    return dataset if split is None else dataset.select(split)


def _tell(line: str) -> None:
    sys.stderr.write(one_line(line) + "\n")


def survey(
    source: str | PathLike[str], task: str | None = None, *, outside: bool = False
) -> tuple[Dataset | None, Complaints]:
    """What can be used of the data set at `source`, if anything; and all that is wrong with how it is laid out, of
    which `load_dataset` raises the first.

    Raises InputError where one thing is wrong, and it concerns the whole.
    """
    found: list[str] = []
    complaints = Complaints(found)
    try:
        return _load(os.fspath(source), task, complaints, outside), complaints
    except InputError as error:
        if not found:
            raise
        found.append(str(error))
        return None, complaints


def _load(name: str, task: str | None, complain: Complaints, outside: bool) -> Dataset:
    if "\0" in name:
        raise InputError(f"there is no data at {name!r}")
    complain.inside = None if outside or not name else Inside.of(Path(name))
    try:
        dataset = _read(name, task, complain)
    except InputError:
        complain.refuse_strays()  # of which that error is a consequence
        raise
    complain.refuse_strays()
    return dataset


def _read(name: str, task: str | None, complain: Complaints) -> Dataset:
    path = Path(name)
    if name in BUILT_IN:
        if path.exists():
            complain.note(f"read as the built-in set; ./{name} stands for what is here under that name")
        dataset = BUILT_IN[name](None if task and Task.of(task).any_images else task)
    elif name and task and Task.of(task).any_images and path.is_dir() and _is_loose(path):
        dataset = _all_images(path, complain)
    elif name and path.is_dir():
        dataset = _from_layout(path, complain)
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        dataset = SUFFIXES[path.suffix.lower()](path, complain)
    elif name and path.exists():
        raise InputError(f"{name} is neither a folder nor a file of data: {', '.join(SUFFIXES)}")
    else:
        close = "" if path.suffix or len(path.parts) > 1 else nearest(name, BUILT_IN).replace("known", "built in")
        raise InputError(f"there is no data at {name or repr(name)}{close}")
    report_alike(name, dataset.labels, complain)
    return dataset if task is None else dataset.serving(task)


def _is_loose(root: Path) -> bool:
    """Whether a folder is one of images without classes: it has no others in it, or most images lie beside them."""
    if not subfolders(root):
        return True
    loose = image_files(root, deep=False)
    return bool(loose) and not _layouts(root) and 2 * len(loose) >= len(image_files(root))


def _all_images(root: Path, complain: Complaints) -> Dataset:
    if not (files := image_files(root, None, complain)):
        raise InputError(f"{root} has no images in it")
    if inner := [path for path in files if "/" in path]:
        complain.note(
            f"read without classes: {counted(len(files), 'image')}, {len(inner)} of them in folders, as {inner[0]}"
        )
    return unlabelled(str(root), ImageFiles(root, files))


def _layouts(root: Path) -> dict[str, Reader]:
    """The layouts of annotations of objects that a folder has, by the names in it, else by the content of its files."""
    return _named_layouts(root) or {name: load for name, (_, recognise, load) in LAYOUTS.items() if recognise(root)}


def _named_layouts(root: Path) -> dict[str, Reader]:
    return {name: load for name, (recognise, _, load) in LAYOUTS.items() if recognise(root)}


def _from_layout(root: Path, complain: Complaints) -> Dataset:
    """A folder by what is in it: annotations of objects in one of the layouts, or else folders of classes."""
    if (found := _layouts(root)) and not _named_layouts(root):
        complain.note(f"read as {' and '.join(found)}, by the content of the files")
    if found.keys() <= {"YOLO"}:  # of which folders called images and labels are enough
        refuse_masks(root)
    if len(found) > 1:
        raise InputError(f"{root} has annotations of {' and of '.join(found)}: name the file, or move one away")
    if not found and (inner := _inner(root)):
        which = "only folder" if inner == only_folder(root) else "only folder with images"
        complain.note(f"read in place of it, as the {which} in it: {inner}")
        return replace(_from_layout(inner, complain), source=str(root))
    if found.keys() <= {"Pascal VOC"} and not (has_classes(root) or (found and has_images(root))):
        _refuse_part(root)
    return next(iter(found.values()), from_folder)(root, complain)


def _inner(root: Path) -> Path | None:
    """The folder that holds all data of one that is passed."""
    if (inner := only_folder(root)) and (has_classes(inner) or _layouts(inner)):
        return inner
    return inner if (inner := only_pictures(root)) and (_layouts(inner) or _inner(inner)) else None


def _refuse_part(root: Path) -> None:
    """Raise InputError where a folder is one of images or annotations of the layout that the folder above has."""
    above = root.absolute().parent
    if names := [*_named_layouts(above)]:
        raise InputError(f"{root} is a part of {names[0]} data: pass {above}")


def _from_table(path: Path, complain: Complaints) -> Dataset:
    return from_csv(path, None, complain)


# By names, by content, the reader.
LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], bool], Reader]] = {
    "COCO": (coco.recognise, coco.recognise_content, coco.load),
    "Pascal VOC": (voc.recognise, voc.recognise_content, voc.load),
    "YOLO": (yolo.recognise, yolo.recognise_content, yolo.load),
}
SUFFIXES: dict[str, Reader] = {
    ".csv": _from_table,
    ".tsv": _from_table,
    ".json": coco.load,
    ".yaml": yolo.load,
    ".yml": yolo.load,
}
