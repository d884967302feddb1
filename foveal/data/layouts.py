"""Annotations by content, where their folder does not have the name that a tool gives it.

Folders of classes may hold text, XML and JSON files too. So a folder counts only where it has no images and lies beside
images that are not in folders of classes: in the folder itself, in one other folder, in `images`, in folders of splits.
"""

import os
from itertools import islice
from pathlib import Path

from foveal.data.files import files_in, has_images, image_files, split_folder, subfolders
from foveal.filesystem import open_file

IMAGES = ("jpegimages", "images", "data", "imgs")  # usual names of a folder of images, in small letters
KEYS = (b'"images"', b'"annotations"', b'"categories"')
BLOCK = 2**20  # bytes


def sidecars(root: Path) -> list[Path]:
    """The folders in a folder that may hold annotations of the images beside them."""
    with_images = {folder: has_images(folder) for folder in subfolders(root)}
    pictures = [folder for folder, has in with_images.items() if has]
    splits = [folder for folder in pictures if split_folder(folder.name)]
    others = [folder for folder in pictures if folder not in splits and folder.name.lower() not in IMAGES]
    if len(others) > 1 or not all(image_files(folder, deep=False) for folder in splits):
        return []
    return [folder for folder, has in with_images.items() if not has]


def beside(folder: Path) -> list[Path]:
    """The folders of images beside a folder, each followed by those of splits in it."""
    found = [other for other in subfolders(folder.parent) if other.name != folder.name and has_images(other)]
    return [
        one for other in found for one in (other, *filter(lambda inner: split_folder(inner.name), subfolders(other)))
    ]


def only_pictures(root: Path) -> Path | None:
    """The one folder with images in a folder that has none itself; the others have none."""
    found = list(islice(filter(has_images, subfolders(root)), 2))
    alone = len(found) == 1 and not split_folder(found[0].name) and not image_files(root, deep=False)
    return found[0] if alone else None


def json_files(folder: Path, depth: int = 2) -> list[Path]:
    """JSON files in a folder, else in those in it."""
    inner = subfolders(folder) if depth else []
    return files_in(folder, ".json") or [file for one in inner for file in json_files(one, depth - 1)]


def has_all_keys(file: Path) -> bool:
    """Whether all three lists of COCO's JSON are named in a file, wherever they stand."""
    missing, end = set(KEYS), b""
    with open_file(file) as opened:
        while missing and (block := opened.read(BLOCK)):
            text = end + block.replace(b"\0", b"")  # as UTF-16 has them
            missing -= {key for key in missing if key in text}
            end = text[-32:]
    return not missing


def suffixes_below(folder: Path) -> set[str]:
    """The suffixes of all files below a folder, in lower case."""
    return {os.path.splitext(name)[1].lower() for _, _, names in os.walk(folder) for name in names}
