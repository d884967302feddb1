"""The names in a run directory: what may lie at each, what a killed run leaves, and what `--overwrite` may remove."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foveal.errors import InputError
from foveal.filesystem import PARTIAL, open_file

LOCK = ".lock"
# In the order of removal: while run.json is there, the directory is known to be a run.
FILES = (
    *("metrics.jsonl", "report.html", "nonfinite.safetensors", "start.safetensors"),
    *("best.safetensors", "last.safetensors", "run.json"),
)
EPOCH = re.compile(r"epoch-[1-9][0-9]*\.safetensors")
FOLDERS = ("pictures", "samples", "tensorboard")
SAMPLE = re.compile(r"epoch-([0-9]{4,})\.png")
_EVENTS = re.compile(r"events\.out\.tfevents\.[0-9]+\..+")
_SAFETENSORS_PARTIAL = re.compile(r"\.tmp[0-9A-Za-z]{6}")  # safetensors writes to such a file, then renames it


def has_other_things(directory: Path) -> bool:
    """Whether a path is no folder, or one with more in it than a run that was killed as it began."""
    return not directory.is_dir() or any(path.name != LOCK and not _partial(path) for path in directory.iterdir())


def check_places(directory: Path, *, overwrite: bool) -> None:
    """InputError where something in the directory keeps a run from writing its files; before the work, not after it.

    overwrite: links in the place of folders will be removed.
    """
    for name in FILES:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            raise InputError(f"{path} is a folder, where a run has a file: remove it, or choose another --out")
    for name in FOLDERS:
        path = directory / name
        if path.is_symlink() and not overwrite:
            raise InputError(f"{path} is a link, and a run writes through no link: remove it, or choose another --out")
        if os.path.lexists(path) and not path.is_symlink() and not path.is_dir():
            raise InputError(f"{path} is not a folder, where a run has one: remove it, or choose another --out")


def clear(directory: Path, record: Mapping[str, Any]) -> None:
    """Remove the files of a run that foveal wrote, and its folders where nothing else is in them.

    record: its run.json. Links are removed, never followed. Raises InputError where something cannot be removed.
    """
    for name in FOLDERS:
        folder = directory / name
        if folder.is_symlink():
            _remove(folder)
        elif folder.is_dir():
            for path in _own(folder, record):
                _remove(path)
            with suppress(OSError):  # something else is in it
                folder.rmdir()
    for path in _entries(directory):
        if EPOCH.fullmatch(path.name):
            _remove(path)
    for name in FILES:
        _remove(directory / name)


def prune(directory: Path, kept: Iterable[int]) -> None:
    """Remove the weights of all epochs but these. Raises InputError where they cannot be removed."""
    names = {f"epoch-{epoch}.safetensors" for epoch in kept}
    for path in _entries(directory):
        if EPOCH.fullmatch(path.name) and path.name not in names:
            _remove(path)


def clean(directory: Path) -> None:
    """Remove what a killed run was writing. Files that cannot be removed stay; they do no harm."""
    for folder in (directory, *(directory / name for name in FOLDERS)):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in _entries(folder):
            within = folder != directory and PARTIAL.fullmatch(path.name)
            if within or _partial(path) or (_SAFETENSORS_PARTIAL.fullmatch(path.name) and _is_checkpoint(path)):
                with suppress(OSError):
                    path.unlink()


def _partial(path: Path) -> bool:
    """Whether this is one of the run's own files, half written."""
    if not PARTIAL.fullmatch(path.name):
        return False
    name = path.name[1:].rsplit(".", 2)[0]
    return name in FILES or EPOCH.fullmatch(name) is not None


def _own(folder: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """What foveal wrote in one of FOLDERS."""
    pictures = record.get("pictures")
    written = set(pictures) if isinstance(pictures, list) and all(isinstance(name, str) for name in pictures) else ()
    for path in _entries(folder):
        match folder.name:
            case "pictures":
                own = path.name in written
            case "samples":
                own = SAMPLE.fullmatch(path.name) is not None
            case _:
                own = _EVENTS.fullmatch(path.name) is not None
        if own:
            yield path


def _entries(folder: Path) -> list[Path]:
    """The files and links in a folder, in order of name."""
    return sorted(path for path in folder.iterdir() if path.is_symlink() or not path.is_dir())


def _is_checkpoint(path: Path) -> bool:
    """Whether a file that may be cut off begins as foveal's checkpoints do."""
    with suppress(InputError, OSError), open_file(path) as file:
        return file.read(64)[8:].startswith(b'{"__metadata__":{"foveal"')
    return False


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path} of the run before: {error.strerror}") from None
