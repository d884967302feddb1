"""A folder for each class, with or without folders of splits above them."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from foveal.data import table
from foveal.data.dataset import Dataset
from foveal.data.files import (
    SPLIT_NAMES,
    Complaints,
    files_in,
    has_images,
    image_files,
    split_folder,
    subfolders,
)
from foveal.data.image import FORMATS
from foveal.data.labelled import collect, labelled, opens, split_code
from foveal.errors import InputError, few

Parents = dict[str | None, Path]  # split, None where nothing names one -> the folder that has the folders of classes

NO_CLASS = {"_unlabeled", "no_label"}  # where FiftyOne and Datumaro put the images without a class
UNLABELLED = NO_CLASS | {"pred", "seg_pred", "predict", "unlabeled", "unlabelled"}  # beside folders of splits
PICTURES = {"images", "image", "imgs", "img", "jpegimages", "rgb", "photos"}
MASKS = {"masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentationclass", "gt"}
MASKS |= {"segmentations", "segmentationobject", "ground_truth", "groundtruth"}


def from_folder(root: Path, complain: Complaints | None = None) -> Dataset:
    """A folder for each class, or folders named after splits that have these. Raises InputError."""
    complain = Complaints() if complain is None else complain
    folders = subfolders(root, complain)
    if found := table.metadata(root, folders):
        return table.from_csv(*found, complain)
    if not folders:
        raise InputError(f"{root} has no folders in it; images belong in one folder for each class{_tables(root)}")
    refuse_several_labels(root, folders)
    parents = _parents(root, folders, complain)
    classes = {split: _classes(parent, complain) for split, parent in parents.items()}
    _note_loose(root, parents, complain)
    rows = collect(
        root,
        (
            (f"{folder.relative_to(root)}/{image}", folder.name, split)
            for split, inside in classes.items()
            for folder in inside
            for image in image_files(folder, root, complain)
            if opens(folder / image, complain)
        ),
    )
    if not rows.labels:
        raise InputError(
            f"{root} has no images in the folders of its classes ({', '.join(sorted(FORMATS))} ...); "
            f"images belong in one folder for each class{_tables(root)}{_unread(complain)}"
        )
    if unused := [parent for split, parent in parents.items() if split_code(split) not in rows.splits]:
        each = [f"{parent} has no images in folders of classes; add some or remove it" for parent in unused]
        complain(each[0], each)
    names = {folder.name for inside in classes.values() for folder in inside}
    if empty := sorted(names - set(rows.labels)):
        start, end = f"{root}: no images in the folder of class ", "; add some or remove it"
        complain(start + ", ".join(empty[:5]) + end + _unread(complain), [start + name + end for name in empty])
    return labelled(str(root), rows)


def only_folder(root: Path) -> Path | None:
    """The only folder in one without images of its own, as archives are unpacked."""
    inner = subfolders(root)
    alone = len(inner) == 1 and not split_folder(inner[0].name) and not image_files(root, deep=False)
    return inner[0] if alone else None


def has_classes(folder: Path) -> bool:
    """Whether folders in a folder have images, and it has none itself."""
    return not image_files(folder, deep=False) and any(has_images(inner) for inner in subfolders(folder))


def refuse_masks(root: Path) -> None:
    """Raise InputError where the folders hold images and masks of their pixels, which are no two classes."""
    folders = subfolders(root)
    inside = [folder for folder in folders if split_folder(folder.name) and folder.name.lower() not in PICTURES]
    inner = [folder for parent in inside for folder in subfolders(parent)]
    for group in (folders, inner):
        pictures = [folder for folder in group if _without_split(folder.name) in PICTURES]
        masks = [folder for folder in group if _without_split(folder.name) in MASKS]
        if not pictures or not masks or len(pictures) + len(masks) < len(group):
            continue
        if all(has_images(folder) and not _has_text(folder) for folder in masks):
            raise InputError(
                f"{root} looks like data to segment: images in {pictures[0].name}, masks in {masks[0].name}; these are "
                "no classes, and foveal reads masks from COCO's JSON or YOLO's polygons"
            )


def _without_split(name: str) -> str:
    return "_".join(word for word in name.lower().split("_") if word not in SPLIT_NAMES)


def _has_text(folder: Path) -> bool:
    suffixes = (".txt", ".xml", ".json")
    return any(files_in(place, *suffixes) for place in (folder, *subfolders(folder)))


def refuse_several_labels(root: Path, folders: Iterable[Path]) -> None:
    """Raise InputError for Roboflow's table of images with several classes each."""
    for folder in (root, *folders):
        if (file := folder / "_classes.csv").is_file():
            raise InputError(
                f"{file} gives an image any number of classes (multi-label); to classify takes one for each"
            )


def _tables(root: Path) -> str:
    """The end of an error, where a folder has tables that may name the classes."""
    files = [file.name for file in files_in(root, ".csv", ".tsv")]
    return f"; if {few(files)} names them, pass that file" if files else ""


def _unread(complain: Complaints) -> str:
    """The end of an error about missing images, where there are some that are not read."""
    unread = complain.unread()
    return f"; not read: {unread}" if unread else ""


def _parents(root: Path, folders: list[Path], complain: Complaints) -> Parents:
    """The folders of splits, where there are some; else the folder itself."""
    parents: Parents = {}
    for folder in folders:
        split = split_folder(folder.name)
        if split in parents:
            raise InputError(f"{root}: {parents[split].name} and {folder.name} are two folders of one split, {split}")
        if split is not None:
            parents[split] = folder
    others = [folder for folder in folders if folder not in parents.values()]
    if parents and others:
        flat = all(_is_flat(folder) for folder in parents.values())
        with_images = [folder for folder in others if has_images(folder)]
        if flat and with_images:
            names = few([folder.name for folder in parents.values()])
            complain.note(f"read as classes, not as splits, since images lie directly in them: {names}")
            return {None: root}
        for folder in others:
            if folder not in with_images:
                complain.note(f"left out, as it has no images: {folder}")
            elif folder.name.lower() in UNLABELLED:
                complain.note(f"left out, as its images have no class: {folder}")
        others = [folder for folder in with_images if folder.name.lower() not in UNLABELLED]
    if parents and others:
        complain(
            f"{root} has folders of splits ({few([folder.name for folder in parents.values()])}) beside others "
            f"({few([folder.name for folder in others], 5)}); a class with the name of a split needs a CSV file"
        )
    return _unwrapped(parents, complain) if parents else {None: root}


def _unwrapped(parents: Parents, complain: Complaints) -> Parents:
    """Without a folder that each split has between it and its classes, as in training_set/training_set/cats."""
    found: Parents = {}
    for split, parent in parents.items():
        inner = list(islice(filter(has_images, subfolders(parent)), 2))
        if len(inner) == 1 and not _is_flat(inner[0]) and not image_files(parent, deep=False):
            found[split] = inner[0]
    alone = {split for split, inner in found.items() if split_folder(inner.name) == split}
    if len({inner.name for inner in found.values()}) == 1 and len(found) == len(parents) > 1:
        alone = set(found)
    for split in alone:
        complain.note(f"read as the folder of the split {split}: {found[split]}")
    return parents | {split: found[split] for split in alone}


def _is_flat(folder: Path) -> bool:
    """Whether images lie directly in a folder, and none in folders in it."""
    return bool(image_files(folder, deep=False)) and not any(has_images(inner) for inner in subfolders(folder))


def _classes(parent: Path, complain: Complaints) -> list[Path]:
    """The folders of classes."""
    folders = subfolders(parent, complain)
    for folder in folders:
        if folder.name in NO_CLASS:
            complain.note(f"left out, as its images have no class: {folder}")
    return [folder for folder in folders if folder.name not in NO_CLASS]


def _note_loose(root: Path, parents: Parents, complain: Complaints) -> None:
    """Note the images that no folder of a class holds."""
    for folder in dict.fromkeys((root, *parents.values())):
        if loose := image_files(folder, None, complain, deep=False):
            what = "images lie" if len(loose) > 1 else "image lies"
            complain.note(f"left out: {len(loose)} {what} beside the folders of classes, as {folder / loose[0]}")
