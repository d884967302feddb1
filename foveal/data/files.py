"""What the readers of all layouts share: folders, the names of splits, and what is done about what is wrong."""

import contextlib
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from foveal.data.image import HEIF, IMAGE_SUFFIXES, OTHERS
from foveal.data.inside import Inside
from foveal.errors import InputError, few
from foveal.filesystem import first_bytes
from foveal.wording import counted

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that the name of a folder may have beside that of its split: training_set, seg_train, val_images.
BESIDE_SPLITS = frozenset(
    ["set", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "split", "seg", "obj"]
)
DIGITS = 100  # of a number within a name; Python converts no more than a few thousand
MOST = 10_000  # faults of one kind, after which no more are collected: each costs a search
DEEPEST = 24  # folders of a path, by whose tails a file is searched for
ALPHABET = 12  # single letters among the classes, from which they are an alphabet's
BLANKS = string.whitespace + "\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u202f\u205f\u3000."  # and those at U+2000
BLANKS += "".join(map(chr, (0x1680, *range(0x2000, 0x200B))))
# Folders of operating systems, network drives and editors, in lower case; their images are previews and copies.
_CLUTTER = """@eadir __macosx .ipynb_checkpoints .thumbnails .thumbs .appledouble .trash .trashes .spotlight-v100
    .fseventsd $recycle.bin #recycle @recycle lost+found __pycache__"""
CLUTTER = frozenset({*_CLUTTER.split(), "system volume information"})
# Suffixes of pictures that are not read: those whose decoder is missing here, and those that foveal has none for.
_UNREAD = """.jxl .jxr .svg .psd .exr .hdr .dng .cr2 .cr3 .crw .nef .arw .orf .rw2 .raf .pef .srw .raw .dcm .dicom .nii
    .xcf .pcx .sgi .eps .qoi .fits .pdf"""
PICTURES = HEIF.union(_UNREAD.split(), *(suffixes for suffixes, _ in OTHERS.values())) - IMAGE_SUFFIXES


ALLOW = "if these files are yours, add --outside (in Python load_dataset(..., outside=True))"


@dataclass
class Tally:
    """How many files, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, path: str) -> None:
        self.first = self.first or path
        self.count += 1

    def __str__(self) -> str:
        return f"{counted(self.count, 'file')}, as {self.first}"


class Complaints:
    """What is done about what is wrong with a part of the data: it is an error; or, with a list to collect in, it is
    noted there and the part left out.

    others: suffix, or name without one -> such files that were passed over, as those of no image.
    clutter: paths of folders and hidden images that were left out, as made by the system.
    unnamed: images whose content, not their suffix, shows that they are.
    faults: what cannot be understood -> how often.
    mended: what was put right without being asked -> how often.
    told:   the same -> a line for each, where complaints are collected.
    notes:  a line for each choice between two readings of the data, and for what was left out on purpose.
    boxes:  how many there were in all, those that are left out among them.
    otherwise: how many are misplaced, but would not be with width and height in place of a corner, or the reverse.
    inside: the data folder, where files outside of it are refused.
    strays: files outside of it that belong to the data by a link or an annotation -> where that is.
    """

    def __init__(self, collected: list[str] | None = None, inside: Inside | None = None) -> None:
        self.collected, self.inside, self.strays = collected, inside, dict[str, str]()
        self.others, self.unnamed, self.clutter = dict[str, Tally](), Tally(), dict[str, None]()
        self.faults, self.mended, self.boxes, self.otherwise = Counter[str](), Counter[str](), 0, 0
        self.told: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self._faults: dict[str, list[str]] = {}

    def __call__(self, summary: str, each: Iterable[str] = ()) -> None:
        """summary: the error. each: what is noted in its place, where that is more than the one thing."""
        if self.collected is None:
            raise InputError(summary)
        self.collected += list(each) or [summary]
        if len(self.collected) > 2 * MOST:
            raise InputError(f"more than {2 * MOST:,} faults; what follows was not read")

    def fault(self, kind: str, text: str) -> None:
        """Note what cannot be understood; `settle` complains of it together with the others of its kind. Raises
        InputError where there are MOST."""
        self.faults[kind] += 1
        if self.collected is not None or self.faults[kind] == 1:
            self._faults.setdefault(kind, []).append(text)
        if self.faults[kind] == MOST:
            self.settle()
            raise InputError(f"{MOST:,} {kind}; what follows was not read")

    def admits(self, path: str | PathLike[str], where: str = "") -> bool:
        """Whether a file may be read: it is in the data folder. One that is not is a stray. where: the annotation that
        names it."""
        if self.inside is None or path in self.inside:
            return True
        self.strays.setdefault(os.fspath(path), where)
        return False

    def own(self, file: Path) -> Path:
        """A file of the data, to be read as text. Raises InputError for a stray, before an error can quote it."""
        if not self.admits(file):
            raise InputError(f"{file} leads out of the data folder {self.inside}; {ALLOW}")
        return file

    def refuse_strays(self) -> None:
        """Complain of the files outside the data folder, if there are any."""
        texts = [
            f"{where}: {path} leads out of the data folder" if where else f"{path} leads out of the data folder"
            for path, where in self.strays.items()
        ]
        if texts:
            more = f", and {len(texts) - 1:,} more do" if len(texts) > 1 else ""
            self(f"{texts[0]} {self.inside}{more}; {ALLOW}", [f"{text} {self.inside}; {ALLOW}" for text in texts])

    def settle(self, hints: dict[str, str] | None = None) -> None:
        """Complain of the faults. hints: kind -> what may be behind all of that kind."""
        for kind, texts in self._faults.items():
            more = self.faults[kind] - 1
            hint = f"; {hints[kind]}" if hints and kind in hints else ""
            self(texts[0] + (f"; and {more} more {kind}" if more else "") + hint, texts)
            if hint and self.collected is not None:
                self.collected.append(hint[2:])
        self._faults = {}

    def mend(self, kind: str, text: str) -> None:
        """Note what was put right."""
        self.mended[kind] += 1
        if self.collected is not None:
            self.told.setdefault(kind, []).append(text)

    def note(self, text: str) -> None:
        """Record a choice between two readings; `load_dataset` prints it on stderr, `check` lists it."""
        if text not in self.notes:
            self.notes.append(text)

    def pass_over(self, path: str) -> None:
        """Record a file that is none of an image."""
        name = os.path.basename(path)
        self.others.setdefault(os.path.splitext(name)[1].lower() or name, Tally()).add(path)

    def unread(self) -> str:
        """The pictures in formats that are not read; empty where there are none."""
        pictures = {suffix: tally for suffix, tally in self.others.items() if suffix in PICTURES}
        shown = few([f"{tally.count} {suffix}, as {tally.first}" for suffix, tally in pictures.items()])
        return shown + ("; the package pillow-heif reads HEIF" if HEIF & pictures.keys() else "")

    def files(self) -> list[str]:
        """Notes on the files that were left out, and on those that were read in spite of their names."""
        notes = []
        if self.clutter:
            counts = Counter(map(os.path.basename, self.clutter)).most_common()
            shown = few([f"{name} ({count})" if count > 1 else name for name, count in counts])
            notes.append(f"left out, as files of the system or hidden: {shown}")
        if self.unnamed.count:
            notes.append(f"read, as images by content though not by suffix: {self.unnamed}")
        if unread := self.unread():
            notes.append(f"left out, as pictures of formats that are not read: {unread}")
        return notes


def split_named(text: str) -> str | None:
    """The split that a name speaks of, as that of a file or folder: instances_val2017 -> val."""
    found = {SPLIT_NAMES[word] for word in _words(text) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def split_folder(name: str) -> str | None:
    """The split that a folder is named after, and after nothing else: seg_train -> train, "a train" -> None."""
    return split_named(name) if all(word in SPLIT_NAMES or word in BESIDE_SPLITS for word in _words(name)) else None


def _words(text: str) -> list[str]:
    """Words of letters in lower case, trainset as train and set, and COCO's test-dev as test."""
    joined = re.compile(f"({'|'.join(SPLIT_NAMES)})({'|'.join(BESIDE_SPLITS)})")
    return re.findall("[a-z]+", joined.sub(r"\1 \2", re.sub("test[-_]?dev", "test", text.lower())))


def report_alike(source: str, names: Sequence[str], complain: Complaints) -> None:
    """Report classes whose names differ only in letter case, Unicode form, blanks or trailing dots: they are one class
    that was written in two ways, or nobody can tell them apart. The letters of an alphabet differ: A and a."""
    letters = {name for name in names if len(name) == 1 and name.isalpha()}
    groups: dict[str, list[str]] = {}
    for name in names:
        form = unicodedata.normalize("NFC", name)
        if name in letters and len(letters) > ALPHABET:
            key = name
        else:  # blanks between two digits keep 1 1 and 11 apart
            key = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", form.casefold().rstrip(BLANKS)) or name
        groups.setdefault(key, []).append(name)
    for group in groups.values():
        if len(group) > 1:
            same = len({unicodedata.normalize("NFC", name) for name in group}) < len(group)
            shown = " and ".join(ascii(name) if same else repr(name) for name in group)
            text = f"the classes {shown} differ only in how the name is written; merge them under one name"
            if complain.collected is None:
                complain.note(text)
            else:
                complain.collected.append(f"{source}: {text}")


def subfolders(parent: Path, complain: Complaints | None = None) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those of the system."""
    try:
        folders = sorted(entry for entry in parent.iterdir() if entry.is_dir())
    except OSError as error:
        raise InputError(f"cannot read the folder {parent}: {error.strerror}") from None
    if complain is not None:
        complain.clutter |= {str(folder): None for folder in folders if folder.name.lower() in CLUTTER}
    return [folder for folder in folders if folder.name[0] != "." and folder.name.lower() not in CLUTTER]


def files_in(parent: Path, *suffixes: str) -> list[Path]:
    """Files in a folder whose names end so, sorted, hidden ones left out."""
    try:
        entries = sorted(parent.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {parent}: {error.strerror}") from None
    return [path for path in entries if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()]


def image_files(
    folder: Path, root: Path | None = None, complain: Complaints | None = None, *, deep: bool = True
) -> list[str]:
    """Paths below `folder` of the images anywhere in it or, not deep, directly in it; sorted, without hidden ones and
    those of the system.

    Links are followed, but not back to a folder that is being read or to `root`, which that one is a part of.
    """
    complain = Complaints() if complain is None else complain
    if not complain.admits(folder):
        return []
    above = frozenset() if root is None else frozenset({_identity(root)})
    return sorted(_images(folder, "", above, complain, deep))


def has_images(folder: Path) -> bool:
    """Whether `image_files` has any; fast where the name of one in the folder itself shows it."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES and entry.name[0] != "." and not entry.is_dir():
                return True
    return next(_images(folder, "", frozenset(), Complaints([]), deep=True), None) is not None


def _images(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], complain: Complaints, deep: bool
) -> Iterator[str]:
    try:
        identity = _identity(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        complain(f"cannot read the folder {folder}: {error.strerror}")
        return
    if identity in above:
        return
    unlike: set[str] = set()  # suffixes of which one file in this folder was no image
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.name.lower() in CLUTTER:
            if suffix in IMAGE_SUFFIXES or entry.name.lower() in CLUTTER:
                complain.clutter[entry.path] = None
        elif entry.is_symlink() and not complain.admits(entry.path):
            continue
        # A link that leads nowhere is no folder; its name may still be that of an image, which is then missed.
        elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            if deep:
                yield from _images(folder / entry.name, f"{prefix}{entry.name}/", above | {identity}, complain, deep)
        elif suffix in IMAGE_SUFFIXES:
            yield prefix + entry.name
        elif (suffix in PICTURES or suffix not in unlike) and _begins_as_image(entry.path, suffix):
            complain.unnamed.add(entry.path)
            yield prefix + entry.name
        else:
            unlike |= {suffix} - {""}
            complain.pass_over(entry.path)


def _begins_as_image(path: str, suffix: str) -> bool:
    """Whether a file without the suffix of an image has the first bytes of JPEG, PNG, GIF or WebP; without any suffix
    those of TIFF too, which raw photographs and slides of microscopes begin with."""
    start = first_bytes(path, 12)
    tiff = not suffix and start[:4] in (b"II*\0", b"MM\0*")
    webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    return tiff or webp or start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))


def _identity(folder: Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that puts 2 before 10."""
    parts = [(part, part.isdecimal() and len(part) < DIGITS) for part in re.split(r"(\d+)", text)]
    return [(not whole, int(part) if whole else 0, part) for part, whole in parts]
