"""The data folder: what a data set may read unless its user allows more.

An annotation, a list of images or a link in a data set from a stranger may name any file of this machine. Only files
are read that lie in the folder that the user named, once all links are resolved.
"""

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

# Folders of the files that users name, whose images usually lie beside them: annotations/train.json, images/a.jpg.
BESIDE_IMAGES = frozenset(
    [
        "annotation",
        "annotations",
        "label",
        "labels",
        "list",
        "lists",
        "split",
        "splits",
        "csv",
        "json",
        "meta",
        "metadata",
        "cfg",
        "config",
        "configs",
    ]
)


class Inside:
    """The files below some folders: `path in inside`. Links are resolved; what is not there is judged by its name."""

    def __init__(self, folders: Sequence[str | PathLike[str]]) -> None:
        self.folders = list(dict.fromkeys(os.path.realpath(folder) for folder in folders))
        self._below = tuple(os.path.join(folder, "") for folder in self.folders)
        self._parents: dict[str, bool] = {}

    @classmethod
    def of(cls, source: Path) -> "Inside":
        """The folder that the user names; or that of the file, and the one above where its name says that images lie
        there."""
        if source.is_dir():
            return cls([source])
        parent = source.absolute().parent
        return cls([parent.parent if parent.name.lower() in BESIDE_IMAGES else parent, source])

    def __contains__(self, path: str | PathLike[str]) -> bool:
        path = os.fspath(path)
        folder, name = os.path.split(path)
        try:
            if name in ("", ".", "..") or os.path.islink(path):
                return self._holds(path)
            # A folder is resolved once for all files in it.
            if folder not in self._parents:
                self._parents[folder] = self._holds(folder)
        except ValueError:  # no file can have such a name, with a NUL in it
            return True
        return self._parents[folder] or self._holds(path)

    def _holds(self, path: str) -> bool:
        real = os.path.realpath(path or ".")
        return real in self.folders or real.startswith(self._below)

    def __str__(self) -> str:
        return self.folders[0]
