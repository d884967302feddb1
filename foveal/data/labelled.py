"""Images with one class each, on their way into a data set."""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveal.data.dataset import SPLITS, Dataset, ImageFiles, LabelColumn
from foveal.data.files import Complaints, natural
from foveal.data.splits import UNSPLIT, complete_splits, draw_splits
from foveal.errors import InputError
from foveal.filesystem import open_file
from foveal.structures import Label, Picture

Row = tuple[str, str, str | None]  # path below the root, label, split


class Rows(NamedTuple):
    """Images in flat arrays, since there may be millions."""

    images: ImageFiles
    labels: list[str]  # class names, in the order in which they came
    classes: np.ndarray  # (N,) index into `labels`
    splits: np.ndarray  # (N,) code of the split, or UNSPLIT


def split_code(split: str | None) -> int:
    return UNSPLIT if split is None else SPLITS.index(split)


def collect(root: Path, rows: Iterable[Row]) -> Rows:
    index: dict[str, int] = {}
    classes, splits = array("i"), array("b")

    def paths() -> Iterator[str]:
        for path, label, split in rows:
            classes.append(index.setdefault(label, len(index)))
            splits.append(split_code(split))
            yield path

    return Rows(ImageFiles(root, paths()), list(index), np.array(classes), np.array(splits))


def unlabelled(source: str, images: ImageFiles) -> Dataset:
    """A data set to generate."""
    splits, drawn = draw_splits(images, range(len(images)), None, test=True)
    return Dataset(source, Picture.task, (), images, None, splits, drawn=drawn)


def labelled(source: str, rows: Rows) -> Dataset:
    """A data set to classify."""
    labels = sorted(rows.labels, key=natural)
    place = {label: number for number, label in enumerate(labels)}
    classes = np.array([place[label] for label in rows.labels])[rows.classes]
    splits, drawn = complete_splits(source, rows.images, rows.splits, (np.arange(len(classes)), classes))
    return Dataset(source, Label.task, tuple(labels), rows.images, LabelColumn(classes), splits, drawn=drawn)


def opens(image: Path, complain: Complaints, where: str = "") -> bool:
    """Whether a file can be opened; tested where complaints are collected, and else left to whoever reads it."""
    if complain.collected is not None:
        try:
            open_file(image).close()
        except InputError as error:
            complain(f"{where}{error}")
            return False
    return True
