"""Which data a system was trained on, and which images of a data set measure it.

The images that a system was trained on say nothing about new ones. Where the data names its splits, they decide. Where
foveal drew them, they hold for the data of the run alone; any other data is measured whole.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from foveal.data.builtin import BUILT_IN
from foveal.data.dataset import ALL, Dataset
from foveal.system import System


def origin(dataset: Dataset) -> dict[str, str]:
    """What a checkpoint records of its data, from which `measured_view` recognises it: a hash of the folder's path, the
    digest of its images where foveal drew the splits, and by which rule."""
    drawn = dataset.drawn
    return {
        "place": _place(dataset.source) or "",
        "digest": drawn.digest if drawn else "",
        "split_by": drawn.rule if drawn else "data",
    }


OTHER = {"place": "", "digest": "", "split_by": "data"}  # the origin of a system that no run here has trained


class View(NamedTuple):
    """The images to measure, and in words which they are."""

    dataset: Dataset
    reason: str


def measured_view(system: System, dataset: Dataset, split: str | None = None) -> View:
    """The view of a data set that a system is measured on.

    split: train, val, test or all; default, of data with named splits and of the system's own training data, test, else
           val, else all; of other data all. Where nothing is recorded of the training, as of a system trained outside
           foveal, the drawn splits hold.
    Raises InputError for a split that the data does not have.
    """
    if dataset.split is not None:
        chosen = dataset if split is None else dataset.select(split)
        return View(chosen, f"{_words(chosen)}, as chosen")
    known, source = system.trained_on or {}, dataset.source
    own = _is_own(known, dataset)
    if own or system.trained_on == {}:  # a checkpoint from before there were strata
        dataset = dataset.drawn_by(known.get("split_by"))
    if split is not None:
        chosen = dataset.select(split)
        learned = own and split in ("train", ALL)
        return View(chosen, f"{_words(chosen)}, as chosen" + "; the system was trained on images of these" * learned)
    drawn = () if own or not known or dataset.drawn is None else dataset.drawn.splits
    named = [name for name in ("test", "val") if name in dataset.split_counts() and name not in drawn]
    view = dataset.select(named[0] if named else ALL)
    if own:
        reason = f"{_words(view)} of the data that the system was trained on"
        if named and dataset.drawn and known.get("digest") not in (None, dataset.drawn.digest):
            reason += "; images were added or removed since, so that a few may have been trained on"
    elif named and not known:
        reason = f"{_words(view)} of {source}; it is not recorded what the system was trained on"
    elif named:
        reason = f"{_words(view)} that {source} names"
    elif known and _lies_within(known, source):
        reason = f"all images: {source} lies in the data that the system was trained on, and may be a part of it"
    elif known:
        reason = f"all images: {source} is not the data that the system was trained on"
    else:
        reason = f"all images: {source} has no test or val split"
    return View(view, reason)


def _words(view: Dataset) -> str:
    return "all images" if view.split == ALL else f"the {view.split} split"


def _is_own(known: dict[str, str], dataset: Dataset) -> bool:
    """Whether this is the data of the run: the same folder or file, or the same images elsewhere."""
    if dataset.drawn and known.get("digest") == dataset.drawn.digest:
        return True
    place = _place(dataset.source)
    return place is not None and place == _old(known)


def _lies_within(known: dict[str, str], source: str) -> bool:
    """Whether a path lies in the folder of the run's data."""
    return any(_place(str(folder)) == _old(known) for folder in Path(os.path.realpath(source)).parents)


def _old(known: dict[str, str]) -> str | None:
    """The place of the run's data; older runs record its path alone."""
    return known.get("place") or _place(known.get("source", ""))


def _place(source: str) -> str | None:
    """The name of a built-in set; else a hash of the real path, as a checkpoint that is passed on should not tell the
    names of its folders; None for what is no file or folder."""
    if source in BUILT_IN:
        return source
    if not os.path.exists(source):
        return None
    return hashlib.blake2b(os.fsencode(os.path.realpath(source)), digest_size=16).hexdigest()
