"""The image file that an annotation means, where its path is one of another machine or tool."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from foveal.data.files import DEEPEST, Complaints, image_files, split_named

# Looks for a folder at the places where it may be: so many in all, and so many more for each image that is there.
PROBES, PROBES_EACH = 2**18, 2**8
PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded


def plain(name: str) -> str:
    """A path or URL of any machine, with slashes, unquoted, without drive, host, query and leading dots."""
    name = name.replace("\\", "/")
    if query := re.search(r"[?&]d=([^&]+)", name):  # how Label Studio addresses files of its machine
        name = query[1]
    elif re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        name = name.partition("://")[2].partition("?")[0]
    return re.sub(r"^([A-Za-z]:)?(/|\.{1,2}/)*", "", unquote(name))


class Finder:
    """Finds the images that one file names, in the folders where they may be.

    places:  those folders, the likeliest first. What is in none of them is searched below the first one or, where that
             has no image under the name that it is given, below the root.
    split:   the split of the file: images in folders of other splits are left alone.
    several: the images that the last name may mean, where these are more than one.
    """

    def __init__(self, places: Sequence[Path], names: Sequence[str], root: Path, split: str | None) -> None:
        self.places, self.split = places, split
        self.listed = {self.plainly(name) for name in names if "\0" not in name}
        self.below = places[0] if any(map(os.path.isfile, self.listed)) else root
        self.several: list[str] = []
        self._index: dict[str, list[str]] | None = None
        self._folders: dict[str, list[Path]] = {}
        self._left = PROBES

    def plainly(self, name: str) -> str:
        """The path of an image whose name is meant as it stands."""
        return os.path.normpath(os.path.join(self.places[0], name))

    def __call__(self, name: str) -> str | None:
        """The path of the image; None where there is none, or several that it may be."""
        self.several = []
        if not name or "\0" in name:
            return None
        if os.path.isfile(path := self.plainly(name)):
            return path
        for text in dict.fromkeys((name.replace("\\", "/"), plain(name))):
            parts = PurePosixPath(text).parts
            for start in range(max(0, len(parts) - DEEPEST), len(parts)):
                places = self._having("/".join(parts[start:-1]))
                found = [str(place.joinpath(*parts[start:])) for place in places]
                found = list(dict.fromkeys(os.path.normpath(path) for path in found if os.path.isfile(path)))
                if found:
                    self._left += PROBES_EACH
                    return self._one(found)
                # Where the folder is there, the image is not one of another machine but missing.
                if len(parts) - start > 1 and places:
                    return None
        return self._below(PurePosixPath(plain(name)))

    def _having(self, folder: str) -> list[Path]:
        """The places that have a folder; none once too many looks were in vain."""
        if folder not in self._folders:
            if self._left <= 0:
                return []
            self._left -= len(self.places)
            self._folders[folder] = [place for place in self.places if os.path.isdir(place / folder)]
        return self._folders[folder]

    def _below(self, name: PurePosixPath) -> str | None:
        """The one image anywhere below whose name differs in case or Label Studio's prefix alone, of several the one in
        folders of the same names."""
        found, parents = self._images().get(_key(name.name), []), name.parent.parts
        for start in range(max(0, len(parents) - DEEPEST), len(parents)):
            tail = parents[start:]
            if same := [path for path in found if PurePosixPath(path).parent.parts[-len(tail) :] == tail]:
                return self._one(same)
        return self._one(found)

    def _one(self, found: list[str]) -> str | None:
        self.several = found if len(found) > 1 else []
        return found[0] if len(found) == 1 else None

    def _images(self) -> dict[str, list[str]]:
        if self._index is None:
            self._index = {}
            for path in image_files(self.below, None, Complaints([])):
                whole = os.path.normpath(self.below / path)
                other = split_named(os.path.dirname(path))
                if whole not in self.listed and (not other or not self.split or other == self.split):
                    self._index.setdefault(_key(os.path.basename(path)), []).append(Path(whole).as_posix())
        return self._index


def _key(name: str) -> str:
    return PREFIX.sub("", name).casefold()
