"""Small data sets as other tools export them: one function a tool and layout, one module a format.

Each function writes the files exactly as the tool does (file names, key order, number formats, quirks) and returns the
path that a user would pass to `--data`, with what has to be read there. docs/data.md has a row for each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

Box = tuple[str, float, float, float, float]  # class, x1, y1, x2, y2 in pixels of the upright image

MODULES = ("coco", "folders", "voc", "yolo")


@dataclass(frozen=True)
class Truth:
    """What an export holds.

    labels:  class names in the order of the tool.
    objects: path of each image below the data folder -> its objects; of data to detect.
    classes: path of each image below the data folder -> its class; of data to classify.
    splits:  how many images each split has; empty where the export names no splits.
    notes:   words that `check` and `train` have to tell a user about it.
    """

    labels: tuple[str, ...]
    objects: dict[str, list[Box]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Export:
    """tool, layout: the row of docs/data.md. write: makes the data set in an empty folder."""

    tool: str
    layout: str
    write: Callable[[Path], tuple[Path, Truth]]


def exports() -> list[Export]:
    """All of them, in the order of the modules."""
    return [export for name in MODULES for export in import_module(f"{__name__}.{name}").EXPORTS]
