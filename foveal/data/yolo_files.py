"""Which images YOLO data has, of which split, and where their label files are."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from foveal.data.dataset import SPLITS
from foveal.data.files import DEEPEST, MOST, Complaints, image_files, split_folder, split_named, subfolders
from foveal.data.image import IMAGE_SUFFIXES
from foveal.data.layouts import beside, only_pictures, sidecars
from foveal.data.splits import UNSPLIT
from foveal.data.values import MAX_LIST, beginning, read_text
from foveal.data.yolo_settings import CLASS_FILES, Settings, slashes
from foveal.errors import InputError, few
from foveal.wording import counted

PEEK = 2**16  # bytes of a file in which its first line stands
SAMPLE = 200  # lines of a list by which the folder that its paths begin in is chosen


class Part(NamedTuple):
    """A folder of images, or a text file that lists them, and the code of its split."""

    images: Path
    split: int


def alike(name: str) -> str:
    """A name without its letter case, and with accents written in one of the two ways of Unicode."""
    return unicodedata.normalize("NFC", name).lower()


class Folders:
    """Listings of folders, each read once; where nothing has the very name, one that is alike will do."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> dict[str, list[str]]:
        """Name without letter case -> the names in the folder that are alike."""
        if folder not in self._names:
            found: dict[str, list[str]] = {}
            try:
                for name in sorted(os.listdir(folder)):
                    found.setdefault(alike(name), []).append(name)
            except OSError:
                pass
            self._names[folder] = found
        return self._names[folder]

    def find(self, path: Path) -> Path | None:
        """The path if it exists, or the only one that is alike."""
        if (there := os.path.exists(path)) or path.parent == path or len(path.parts) > 2 * DEEPEST:
            return path if there else None
        parent = self.find(path.parent)
        same = [] if parent is None else self.names(parent).get(alike(path.name), [])
        return parent / same[0] if parent is not None and len(same) == 1 else None


def parts_of(settings: Settings, root: Path, folders: Folders, complain: Complaints) -> list[Part]:
    """The parts that the settings name; else lists of images like train.txt; else folders of splits; else everything.

    Raises InputError where the folder of train or val is missing; that of test may be, which is noted.
    """
    found = []
    for split, places in settings.splits.items():
        for text in places:
            place = _place(settings, root, text, split, folders, complain)
            if place is not None:
                found.append(Part(place, SPLITS.index(split)))
            elif split == "test":
                complain.note(f"{settings.file}: test is at {text}, which is not there; it was left out")
            else:
                missing = f"{settings.file}: {split} is at {text}, but there is no {root / settings.path / text}"
                raise InputError(missing + ("; without that line training images are taken" if split == "val" else ""))
    for key, text in settings.others.items():
        if os.path.isfile(root / text) or os.path.isfile(root / Path(text).name):
            complain.note(f"{settings.file}: {key} is none of train, val and test; the images of {text} were left out")
    return sorted(found, key=lambda part: part.split) or _lists(root) or _folders(root, folders)


def images_of(part: Part, root: Path, folders: Folders, complain: Complaints) -> tuple[list[Path], int]:
    """The images of a part, of which those of a list may be missing; and how many lines repeat one before."""
    if part.images.is_dir():
        return [part.images / name for name in image_files(part.images, None, complain)], 0
    text, _ = read_text(complain.own(part.images), MAX_LIST)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    unique = list(dict.fromkeys(lines))
    base, dropped = _begin(part.images, unique, root)
    if dropped > 1 or (dropped and lines[0].startswith("/")):
        left = "/".join(_parts(lines[0])[:dropped]).replace("//", "/")
        complain.note(f"{part.images}: its paths are taken to begin in {base}, without {left}")
    found, lost = [], 0
    for line in unique:
        path = base.joinpath(*_parts(line)[dropped:])
        there = path if os.path.isfile(path) else folders.find(path)
        found.append(there or path)
        lost += there is None
        if lost == MOST:  # each costs a search
            raise InputError(f"there is no {path}, which {part.images} lists, as {MOST - 1:,} before it")
    return found, len(lines) - len(unique)


def _begin(file: Path, lines: list[str], root: Path) -> tuple[Path, int]:
    """The folder that the paths of a list begin in, and how many of their first parts to leave out.

    The first of these that finds all images is taken, else the one that finds most: the paths as they are, from the
    list's folder, from the root; and without the first part, the first two ..., as those of another machine.
    """
    sample = [_parts(line) for line in lines[:: max(1, len(lines) // SAMPLE)]]
    depth = min(DEEPEST, max(map(len, sample), default=1))
    best, most = (file.parent, 0), 0
    for dropped in range(depth):
        for base in dict.fromkeys((file.parent, root)):
            count = sum(len(parts) > dropped and os.path.isfile(base.joinpath(*parts[dropped:])) for parts in sample)
            if count > most:
                best, most = (base, dropped), count
            if count == len(sample):
                return best
    return best


def _parts(text: str) -> list[str]:
    """The parts of a path, with those of a Windows one."""
    return [part for part in Path(slashes(text)).parts if part != "."]


def _place(
    settings: Settings, root: Path, text: str, split: str, folders: Folders, complain: Complaints
) -> Path | None:
    """Where a split is. Exports often write the path from one folder further down, from the folder that holds all data
    sets, or as it was on another machine."""
    inner = re.sub(r"^(\.\./)+", "", text)
    tried = [root / settings.path / text, root / text, root / inner]
    if not settings.path and inner != text:
        tried = [root / inner, root / text]
    there = list({os.path.realpath(place): place for place in reversed(tried) if os.path.exists(place)}.values())[::-1]
    if there:
        # A place in the data folder goes before one that its user would have to allow.
        chosen = next((one for one in there if complain.inside is None or one in complain.inside), there[0])
        if others := [other for other in there if other != chosen]:
            complain.note(f"{settings.file}: {split} is at {text}; {chosen} was read, not {others[0]}")
        complain.admits(chosen, f"{settings.file}, {split}")
        return chosen
    parts = _parts(inner)[-DEEPEST:]
    ends = [parts[k:] for k in range(len(parts))]
    # One name alone, like images, may be that of anything.
    ends = [end for end in ends if len(end) > 1 or Path(end[0]).suffix or split_folder(end[0]) == split]
    for one in (*tried, *(root.joinpath(*end) for end in ends)):
        if (found := folders.find(one)) is not None and found != root:
            # Tools write lists with a first folder for the data set itself: data/train.txt.
            if found != root.joinpath(*parts[1:]) or text.startswith("/") or found.is_dir():
                complain.note(f"{settings.file}: {split} is at {text}; {found} was read")
            return found
    return None


def _lists(root: Path) -> list[Part]:
    """Text files in a folder that list images and are named for a split; else images.txt."""
    found = []
    for file in sorted(root.glob("*.txt")):
        split = split_named(file.stem)
        if (split or file.stem.lower() == "images") and _is_list(file):
            found.append(Part(file, UNSPLIT if split is None else SPLITS.index(split)))
    named = [part for part in found if part.split != UNSPLIT]
    return sorted(named or found, key=lambda part: part.split)


def _is_list(file: Path) -> bool:
    """Whether the first line of a text file names an image."""
    line = next((line for line in beginning(file, PEEK).splitlines() if line.strip()), "")
    return os.path.splitext(line.strip())[1].lower() in IMAGE_SUFFIXES


def _folders(root: Path, folders: Folders) -> list[Part]:
    """images/train or train/images, for each split; else images, the one folder with images, or the folder itself."""
    found = []
    inner = folders.find(root / "images") or only_pictures(root)
    for folder in (*(subfolders(inner) if inner and inner.is_dir() else []), *subfolders(root)):
        split = split_folder(folder.name)
        if split is not None:
            images = folders.find(folder / "images")
            found.append(Part(images if images and images.is_dir() else folder, SPLITS.index(split)))
    return found or [Part(inner if inner and inner.is_dir() else root, UNSPLIT)]


# --- Label files ------------------------------------------------------------------------------------------------------


def label_files(
    source: Path, root: Path, images: list[Path], folders: Folders, complain: Complaints
) -> list[Path | None]:
    """The label file of each image; None for an image without one.

    It has the name of its image, and is in the folder labels in place of the last one called images, or beside the
    image, or in a folder labels beside or in that of the image. Notes label files that serve several images, that
    differ in letter case, that are there twice, and that have no image; and images that are in no split.

    Raises InputError where none of the label files has an image.
    """
    parents, names = dict.fromkeys(image.parent for image in images), {alike(image.stem) for image in images}
    places = {one: [(at, _stems(at, folders)) for at in _label_folders(one, root, folders)] for one in parents}
    if not any(names & stems.keys() for own in places.values() for _, stems in own) and source.is_dir():
        if unnamed := unnamed_labels(root):
            complain.note(f"label files are read from {few([str(one) for one in unnamed])}, by their names")
        places = {one: [(at, _stems(at, folders)) for at in _mirrored(one, root, unnamed)] for one in parents}
    found: list[Path | None] = []
    twice, users = [], defaultdict[Path, list[Path]](list)
    for image in images:
        files = [
            folder / name
            for folder, stems in places[image.parent]
            for name in stems.get(alike(image.stem), [])
            if os.path.splitext(name)[0] == image.stem
        ]
        if len(files) > 1:
            twice.append(files[:2])
        found.append(files[0] if files else None)
        if files:
            users[files[0]].append(image)
    otherwise = []
    for number, image in enumerate(images):
        if found[number] is None:
            files = [
                folder / name for folder, stems in places[image.parent] for name in stems.get(alike(image.stem), [])
            ]
            files = [file for file in files if file not in users]
            if len(files) == 1:
                found[number] = files[0]
                otherwise.append(files[0])
    found = [file if file is None or complain.admits(file) else None for file in found]
    taken = set(filter(None, found))
    if otherwise:
        complain.note(f"label files that differ from their image in letter case: {len(otherwise)}, as {otherwise[0]}")
    if twice:
        complain.note(f"images with two label files: {len(twice)}; {twice[0][0]} was read, not {twice[0][1]}")
    if shared := [file for file, own in users.items() if len(own) > 1]:
        one, two = users[shared[0]][:2]
        complain.note(f"label files of several images: {len(shared)}, as {shared[0]} of {one} and {two}")
    visited = {folder for own in places.values() for folder, _ in own}
    beside = (folder / name for folder in visited for names in folders.names(folder).values() for name in names)
    _left_out(source, root, images, taken, beside, complain)
    return found


def _left_out(
    source: Path, root: Path, images: list[Path], taken: set[Path], beside: Iterable[Path], complain: Complaints
) -> None:
    """Note the label files without an image and, of a folder, the images in no split. beside: the files in the folders
    of label files, which may be outside of the root."""
    used = {os.path.normpath(file) for file in taken}
    named = {os.path.normpath(image) for image in images}
    walked = _walk(root) if source.is_dir() else iter(())
    alone, unsplit = dict[str, None](), []
    for path in (*walked, *beside):
        name = os.path.normpath(path)
        if name not in used and path.suffix.lower() == ".txt" and path.name.lower() not in CLASS_FILES:
            if is_label_file(path):
                alone[name] = None
        elif source.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES and name not in named:
            unsplit.append(name)
    if alone and not taken:
        raise InputError(
            f"{source}: none of its {counted(len(images), 'image')} has a label file, but there are others, as "
            f"{next(iter(alone))}; the labels of images/a.jpg belong into labels/a.txt"
        )
    if alone:
        complain.note(f"label files without an image, left out: {len(alone)}, as {next(iter(alone))}")
    if unsplit:
        complain.note(f"images in no split, left out: {len(set(unsplit))}, as {min(unsplit)}")


def unnamed_labels(root: Path) -> list[Path]:
    """Folders of label files by content: the name of such a file is that of an image at the same place in a folder
    beside theirs, or beside that folder itself."""
    return [one for one in sidecars(root) if any(mirrors(images, one) for images in (root, *beside(one)))]


def _mirrored(folder: Path, root: Path, unnamed: Iterable[Path]) -> list[Path]:
    """Where the label files of the images in a folder may be, in such folders, best first."""
    inside = os.path.relpath(folder, root).split(os.sep)
    found = [one.joinpath(*inside[start:]) for one in unnamed for start in range(len(inside) + 1)]
    return [one for one in found if one.is_dir()]


def is_label_file(file: Path) -> bool:
    """Whether the first line of a text file is a class number and four or more numbers."""
    words = next((line.split() for line in beginning(file, PEEK).splitlines() if line.strip()), [])
    try:
        return len(words) >= 5 and float(words[0]).is_integer() and all(float(word) < 1e9 for word in words[1:5])
    except (ValueError, OverflowError):
        return False


def has_labels(root: Path) -> bool:
    """Whether there is a label file in a folder labels anywhere below, or beside its image."""
    for folder, _, names in os.walk(root):
        stems = {os.path.splitext(name)[0] for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}
        inside = "labels" in (part.lower() for part in (root.name, *Path(folder).relative_to(root).parts))
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".txt" and (inside or stem in stems) and is_label_file(Path(folder, name)):
                return True
    return False


def mirrors(images: Path, labels: Path) -> bool:
    """Whether a label file below a folder has its image at the same place below another."""
    for folder, _, names in os.walk(labels):
        try:
            there = os.listdir(images / os.path.relpath(folder, labels))
        except OSError:
            continue
        stems = {os.path.splitext(name)[0] for name in there if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}
        if any(
            Path(name).stem in stems and is_label_file(Path(folder, name)) for name in names if name.endswith(".txt")
        ):
            return True
    return False


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones and links to folders left out."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _stems(folder: Path, folders: Folders) -> dict[str, list[str]]:
    """Name without suffix, in lower case -> text files of the folder."""
    found: dict[str, list[str]] = {}
    for name, written in folders.names(folder).items():
        if name.endswith(".txt"):
            found.setdefault(name.removesuffix(".txt"), []).extend(written)
    return found


def _label_folders(folder: Path, root: Path, folders: Folders) -> list[Path]:
    """Where the label files of the images in a folder may be, best first."""
    parts = folder.parts
    tried = []
    if places := [place for place, part in enumerate(parts) if part.lower() == "images"]:
        tried.append(Path(*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]))
    tried.append(folder)
    tried.append(folder / "labels")
    if os.path.abspath(folder) != os.path.abspath(root):
        tried += [folder.parent / "labels" / folder.name, folder.parent / "labels"]
    found = (folders.find(one) for one in tried)
    return list(dict.fromkeys(one for one in found if one is not None and one.is_dir()))
