"""COCO's JSON of instances (Lin et al. 2014, arXiv:1405.0312; format of https://cocodataset.org/#format-data).

A bbox is x, y, width, height in continuous pixels. Category ids may have gaps; classes go by the order of the ids, and
those of several files are one class where their names are one. Key points count whole pixels, so their centres lie half
a pixel further here.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from foveal.data.coco_json import identity, is_coco, read_categories, read_document, root_category
from foveal.data.coco_shapes import bbox, keypoints, segmentation
from foveal.data.dataset import SPLITS, Dataset
from foveal.data.files import SPLIT_NAMES, Complaints, files_in, split_folder, split_named, subfolders
from foveal.data.frames import Frame, Frames
from foveal.data.layouts import beside, has_all_keys, json_files, sidecars
from foveal.data.named import Finder
from foveal.data.objects import ObjectRows
from foveal.data.splits import UNSPLIT
from foveal.data.values import number, side
from foveal.errors import InputError, few

SAMPLE = 2000  # images of a file, one of which has to be there
ROBOFLOW = "_annotations.coco"
OTHERS = ("captions", "image_info", "panoptic", "stuff")  # kinds of COCO's files without boxes to learn
ELSEWHERE = "images at another path than their file gives"


class _Annotation(NamedTuple):
    """An annotation. where: for a person. box: x, y, width, height. choice: how that was read."""

    where: str
    entry: dict[str, Any]
    label: int
    box: list[float] | None
    choice: str

    @property
    def corners(self) -> tuple[float, float, float, float]:
        assert self.box is not None
        x, y, width, height = self.box
        return x, y, x + width, y + height


class _Image(NamedTuple):
    """An image of a file: its path below the root, its id, height and width as the file gives them, and its
    annotations."""

    path: str
    identity: int | str
    size: tuple[int, int]
    annotations: list[_Annotation]


def recognise(root: Path) -> bool:
    """Whether there are JSON files of instances in a folder, in its folder annotations, or so in folders of splits."""
    return bool(_files(root))


def recognise_content(root: Path) -> bool:
    """Whether another folder holds such JSON files of images that lie beside that folder."""
    return bool(_unnamed_files(root))


def load(path: Path, complain: Complaints) -> Dataset:
    """A JSON file; or a folder with JSON files in it or in `annotations`, one a split, or one in each folder of a
    split. A file whose name or folder names no split is split by content. Raises InputError."""
    parts = {path: split_named(path.stem) or _folder_split(path)} if path.is_file() else _files(path)
    parts = parts or _unnamed_files(path)
    if unclear := [file for file, split in parts.items() if split is None and len(parts) > 1]:
        raise InputError(f"{path}: the name of {unclear[0].name} does not say of which split it is: train, val or test")
    for file, split in parts.items():
        if same := [other for other in parts if other != file and parts[other] == split]:
            raise InputError(f"{path}: {file.name} and {same[0].name} are both of split {split}; name one of them")
    # The training data's ids decide the order of the classes, where files differ.
    parts = dict(sorted(parts.items(), key=lambda part: SPLITS.index(part[1] or SPLITS[0])))
    root = path if path.is_dir() else path.parent
    rows, frames, hints = ObjectRows(complain), Frames(root, complain), dict[str, str]()
    order: dict[str, int] = {}
    ids: dict[str | None, dict[str, int]] = {}
    images: list[tuple[int, list[_Image]]] = []
    for file, split in parts.items():
        notes: list[str] = []
        document = read_document(complain.own(file), notes)
        categories = read_categories(file, document)
        if above := root_category(document):
            notes.append(f"{file}: category 0, {above['name']!r}, groups the others and has no annotation; left out")
        for note in notes:
            complain.note(note)
        for _, name in sorted(categories.items()):
            order.setdefault(name, len(order))
        ids[split] = {name: number for number, name in categories.items()}
        classes = {number: order[name] for number, name in categories.items()}
        found = _images(file, document, classes, root, split, rows, hints)
        for image in found:
            boxes = (annotation.corners for annotation in image.annotations if annotation.box is not None)
            frames.add(image.path, str(file), image.size, boxes)
        images.append((UNSPLIT if split is None else SPLITS.index(split), found))
    frames.settle()
    for code, found in images:
        for image in found:
            if (frame := frames[image.path]) is not None:
                rows.image(root, image.path, code, frame.size, image.identity)
                for annotation in image.annotations:
                    _add(rows, annotation, frame, root / image.path)
    return replace(rows.dataset(str(path), root, list(order), hints), class_ids=ids)


def _folder_split(file: Path) -> str | None:
    return split_folder(file.parent.name) if file.stem == ROBOFLOW else None


def _files(root: Path) -> dict[Path, str | None]:
    """The JSON files of a folder's data, each with the split that its name or folder names."""
    folders = subfolders(root)
    splits = {folder: split for folder in folders if (split := split_folder(folder.name))}
    found = {folder / f"{ROBOFLOW}.json": split for folder, split in splits.items()}
    if found := {file: split for file, split in found.items() if file.is_file()}:
        return dict[Path, str | None](found)
    for folder in (*(folder for folder in folders if folder.name.lower() == "annotations"), root):
        if files := _instances(folder):
            return {file: split_named(file.stem) for file in files}
    inside = {folder: _instances(folder) for folder in splits}
    return {files[0]: splits[folder] for folder, files in inside.items() if len(files) == 1}


def _unnamed_files(root: Path) -> dict[Path, str | None]:
    """The JSON files in a folder of annotations by content, each with the split that its name or folder names."""
    files = [file for folder in sidecars(root) for file in json_files(folder) if not file.stem.startswith(OTHERS)]
    return {
        file: split_named(file.stem) or split_named(str(file.parent.relative_to(root)))
        for file in files
        if has_all_keys(file)
    }


def _instances(folder: Path) -> list[Path]:
    """The files of instances in a folder; those of key points where there are no others, since these have boxes too."""
    files = [file for file in files_in(folder, ".json") if not file.stem.startswith(OTHERS) and is_coco(file)]
    points = [file for file in files if file.stem.startswith("person_keypoints")]
    # Where there are COCO's own, what else lies there is something else.
    named = [file for file in files if file.stem.startswith("instances")]
    return named or [file for file in files if file not in points] or points


def _images(
    file: Path,
    document: dict[str, Any],
    classes: dict[int, int],
    root: Path,
    split: str | None,
    rows: ObjectRows,
    hints: dict[str, str],
) -> list[_Image]:
    """The images of one file that are there, with their annotations."""
    complain = rows.complain
    entries: dict[int | str, tuple[str, dict[str, Any]]] = {}
    for place, entry in enumerate(document["images"], 1):
        name, key = (entry.get("file_name"), identity(entry.get("id"))) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or key is None:
            complain.fault("images without id or name", f"{file}, image {place}: it has no id, or no file_name")
        elif key in entries:
            text = f"{file}, image {place}: {name} has the id of {entries[key][0]}, {key}"
            complain.fault("images with one id", text)
        else:
            entries[key] = name, entry
    of_image = _annotations(file, document, entries, classes, complain, hints)
    names = [name for name, _ in entries.values()]
    find, found = _finder(file, names, root, split), dict[str, _Image]()
    if not any(find(name) or find.several for name in names[:SAMPLE]):
        looked = few([str(place) for place in find.places], 8)
        raise InputError(f"{file}: no image that it names is there, as {few(names, 1) or 'none'}; looked in {looked}")
    for key, (name, entry) in entries.items():
        where = f"{file}, image with the id {key!r}"
        if (there := find(name)) is None:
            several = f", but {few(find.several)}, of which each may be it" if find.several else ""
            complain.fault("missing images", f"{where}: there is no {find.plainly(name)}{several}")
            continue
        path = os.path.relpath(there, root)
        if not complain.admits(root / path, where):
            continue
        if path in found:
            complain.fault("files of two images", f"{where}: {name} is there twice")
            continue
        if there != find.plainly(name):
            rows.choices(ELSEWHERE, f"{name} of {file.name} at {there}")
        size = side(entry.get("height")), side(entry.get("width"))
        written = entry["id"] if isinstance(entry["id"], str) else key
        found[path] = _Image(path, written, size, of_image[key])
    return list(found.values())


def _annotations(
    file: Path,
    document: dict[str, Any],
    images: dict[int | str, tuple[str, dict[str, Any]]],
    classes: dict[int, int],
    complain: Complaints,
    hints: dict[str, str],
) -> dict[int | str, list[_Annotation]]:
    """The annotations of each image."""
    found: dict[int | str, list[_Annotation]] = {key: [] for key in images}
    before: dict[int | str, int] = {}
    unknown: set[int | None] = set()
    for place, entry in enumerate(document["annotations"], 1):
        key = identity(entry.get("id")) if isinstance(entry, dict) else None
        where = f"{file}, annotation {place}" + ("" if key is None else f" (id {key})")
        if not isinstance(entry, dict):
            complain.fault("annotations that are none", f"{where}: it is no object")
            continue
        if key is not None and before.setdefault(key, place) != place:
            complain.fault("annotations with one id", f"{where}: annotation {before[key]} has its id")
            continue
        image, category = identity(entry.get("image_id")), identity(entry.get("category_id"))
        if image is None or image not in found:
            text = f"{where}: there is no image with the id {entry.get('image_id')!r}"
            complain.fault("annotations of no image", text)
        elif not isinstance(category, int) or category not in classes:
            unknown.add(category if isinstance(category, int) else None)
            text = f"{where}: no category has the id {entry.get('category_id')!r}"
            complain.fault("annotations of no category", text)
        else:
            where = f"{where}, {images[image][0]}"
            found[image].append(_Annotation(where, entry, classes[category], *bbox(entry)))
    if classes and unknown == {min(classes) - 1}:
        hints["annotations of no category"] = "all ids may be one too low, as if counted from another number"
    elif classes and unknown == {max(classes) + 1}:
        hints["annotations of no category"] = "all ids may be one too high, as if counted from another number"
    return found


def _add(rows: ObjectRows, annotation: _Annotation, frame: Frame, image: Path) -> None:
    where, entry, label, box, choice = annotation
    if box is None:
        rows.complain.fault("annotations without a bbox", f"{where}: its bbox is not four numbers")
        return
    if choice:
        rows.choices(choice, where)
    corners, (x, y, width, height) = annotation.corners, box
    points = mask = None
    try:
        points = keypoints(entry.get("keypoints"), frame, corners)
    except InputError as error:
        rows.choices("key points that are left out, while their boxes stay", f"{where}: {error}")
    try:
        mask = segmentation(entry.get("segmentation"), frame, corners, image)
    except InputError as error:
        rows.choices("masks that are left out, while their boxes stay", f"{where}: {error}")
    area = number(entry.get("area"))
    rows.add(
        where,
        frame.box(corners),
        label,
        area=None if area is None else area * frame.growth,
        crowd=entry.get("iscrowd") in (1, True),
        ignored=entry.get("ignore") in (1, True),
        keypoints=points,
        segmentation=mask,
        otherwise=frame.box((x, y, width, height)),
        written=box,
    )


def _finder(file: Path, names: list[str], root: Path, split: str | None) -> Finder:
    """A finder of a file's images, which begins with the folder that has most of them."""
    few_names = [name for name in names[:: max(1, len(names) // 50)] if "\0" not in name]
    places = list(dict.fromkeys(_places(file, root)))
    hits = [sum(os.path.isfile(os.path.join(place, name)) for name in few_names) for place in places]
    if not any(hits):
        more = [name for name in names[:: max(1, len(names) // SAMPLE)] if "\0" not in name]
        hits = [sum(os.path.isfile(os.path.join(place, name)) for name in more) for place in places]
    return Finder(sorted(places, key=lambda place: -hits[places.index(place)]), names, root, split)


def _places(file: Path, root: Path) -> Iterator[Path]:
    """The folders in which a file's images usually are."""
    kind, _, rest = file.stem.partition("_")
    named = [file.stem, rest] if rest and kind else [file.stem]  # instances_val2017 -> val2017
    split = split_named(file.stem)
    words = [word for word, meant in SPLIT_NAMES.items() if split is not None and meant == split]
    for base in dict.fromkeys((file.parent, file.parent.parent, root)):
        yield base
        yield from (base / parent / name for parent in ("", "images") for name in (*named, *words))
        yield from (base / "images", base / "data")
    inside = file.relative_to(root).parts
    if len(inside) > 1 and inside[0].lower() != "annotations" and not split_folder(inside[0]):
        yield from beside(root / inside[0])
