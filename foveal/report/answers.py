"""Predictions as JSON, as rows of a table, in pictures and files. Each task has its own `Answers`."""

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from foveal.build import trained
from foveal.data.foreign import as_image
from foveal.errors import InputError
from foveal.report.boxes import Style
from foveal.system import System
from foveal.task import Task, registered


class Answers(Protocol):
    """Collects the predictions of one task, one after another.

    option:   the option of `foveal predict` that this task has, and others have not; None where it has none.
    headings: of the table.
    style:    how objects are drawn; None where none are.
    """

    option: ClassVar[str | None]
    headings: ClassVar[tuple[str, ...]]
    style: Style | None

    def __init__(self, system: System, folder: Path | None, setting: Any) -> None:
        """system: whose answers. folder: where to save, if anywhere. setting: what `option` was set to, None where it
        was not. Raises InputError for a setting that cannot be."""

    def take(self, name: str, image: Tensor, prediction: Any) -> dict[str, Any]:
        """The next image's entry in a document; `name` is the path of its file."""

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        """An entry as a row of the table."""

    def save(self, document: dict[str, Any]) -> None:
        """Write what belongs into the folder. Raises InputError where that cannot be."""


def predict(
    run_or_system: Any, images: Any, *, top: int | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """What images show, in class names: one entry an image, the same as in the JSON of `foveal predict`. To classify
    {"image", "label", "score", "top": [{"label", "score"}, ...]}, to detect {"image", "objects": [{"label", "score",
    "box": [x1, y1, x2, y2] in pixels}, ...]}.

    run_or_system: a system; or a run, a checkpoint, or a name with packaged weights.
    images:        one or a list: paths, PIL images, arrays (H, W, 3), tensors (3, H, W). "image" is the path, else the
                   place in the list.
    top:           how many classes an entry has, default 3. threshold: the least score of an object, default 0.5.

    Raises InputError for a system or task without answers, an image that cannot be read, and an option without effect.
    """
    system = (
        run_or_system
        if isinstance(run_or_system, System)
        else trained(getattr(run_or_system, "directory", run_or_system))
    )
    output = answers(system, None, {"top": top, "threshold": threshold})
    several = isinstance(images, list | tuple) or (hasattr(images, "ndim") and images.ndim == 4)
    entries = []
    for place, given in enumerate(images if several else [images]):
        name = os.fspath(given) if isinstance(given, str | os.PathLike) else str(place)
        image = as_image(given)
        entries.append(output.take(name, image, system.predict(image)[0]))
    return entries


def answers(system: System, folder: Path | None, settings: dict[str, Any], style: Style | None = None) -> Answers:
    """The Answers for a system. settings: the options that only some tasks have, None where one was not set.
    style: how objects are drawn.

    Raises InputError for a task without Answers, and for an option that has no effect on this one's."""
    name = system.name or type(system).__name__
    kind = Task.of(system).answers
    if kind is None:
        able = " and ".join(task.name for task in registered() if task.answers)
        raise InputError(f"{name} is a system to {system.task}; predict takes systems to {able}")
    for option, value in settings.items():
        if value is not None and option != kind.option:
            takes = f", which takes {kind.option}" if kind.option else ""
            raise InputError(f"{option} has no effect: {name} is a system to {system.task}{takes}")
    output: Answers = kind(system, folder, settings.get(kind.option))
    if style is not None:
        if output.style is None or folder is None:
            raise InputError("line_width and labels have no effect: they are of pictures of objects, in --out")
        output.style = style
    return output
