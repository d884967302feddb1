"""What the readers of all layouts share: folders, the names of splits, and what is done about what is wrong."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from foveal.data.image import IMAGE_SUFFIXES
from foveal.errors import InputError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Complaints:
    """What is done about what is wrong with a part of the data: it is an error; or, with a list to collect in, it is
    noted there and the part left out.

    others: suffix, or name without one -> how many such files were passed over, as those of no image.
    faults: what cannot be understood -> how often.
    mended: what was put right without being asked -> how often.
    told:   the same -> a line for each, where complaints are collected.
    notes:  a line for each choice between two readings of the data, and for what was left out on purpose.
    boxes:  how many there were in all, those that are left out among them.
    otherwise: how many are misplaced, but would not be with width and height in place of a corner, or the reverse.
    """

    def __init__(self, collected: list[str] | None = None) -> None:
        self.collected, self.others = collected, Counter[str]()
        self.faults, self.mended, self.boxes, self.otherwise = Counter[str](), Counter[str](), 0, 0
        self.told: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self._faults: dict[str, list[str]] = {}

    def __call__(self, summary: str, each: Iterable[str] = ()) -> None:
        """summary: the error. each: what is noted in its place, where that is more than the one thing."""
        if self.collected is None:
            raise InputError(summary)
        self.collected += list(each) or [summary]

    def fault(self, kind: str, text: str) -> None:
        """Note what cannot be understood; `settle` complains of it together with the others of its kind."""
        self.faults[kind] += 1
        if self.collected is not None or self.faults[kind] == 1:
            self._faults.setdefault(kind, []).append(text)

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

    def pass_over(self, name: str) -> None:
        """Note a file that is none of an image, by its name."""
        if self.collected is not None:
            self.others[os.path.splitext(name)[1].lower() or name] += 1


STRICT = Complaints()


def split_named(text: str) -> str | None:
    """The split that a name speaks of, as that of a file or folder: instances_val2017 -> val."""
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", text.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def subfolders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {parent}: {error.strerror}") from None


def files_in(parent: Path, *suffixes: str) -> list[Path]:
    """Files in a folder whose names end so, sorted, hidden ones left out."""
    try:
        entries = sorted(parent.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {parent}: {error.strerror}") from None
    return [path for path in entries if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()]


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


def read_text(file: Path, limit: int = 2**28) -> str:
    """The text of a file in UTF-8, or in UTF-16 with the byte order mark that Windows writes. limit: bytes that it may
    have. Raises InputError."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{file} has more than {limit:,} bytes, too many for what it should hold")
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}: byte {error.start} is not text in UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise InputError(
            f"cannot read {file}: it has zero bytes, as binary files and unmarked UTF-16; save it as UTF-8"
        )
    return text


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that puts 2 before 10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]
