"""The page of `foveal evaluate --out`: what a report says of a task, on the images that were measured."""

from collections.abc import Mapping
from pathlib import Path

import foveal
from foveal.data.dataset import Dataset
from foveal.filesystem import make_folder, write_text
from foveal.report.html import page, unreadable_files
from foveal.report.parts import number, tag
from foveal.system import System
from foveal.task import Task

NAME = "evaluation.html"  # never report.html, as the folder may be that of a run


def write_page(
    folder: Path,
    system: System,
    view: Dataset,
    figures: Mapping[str, float],
    described: str,
    unreadable: Mapping[str, str],
    batch_size: int,
    workers: int | None,
) -> Path:
    """Write evaluation.html into a folder, which is made if need be; the file. The images are read once more.

    figures: by name. described: which images were measured. Raises InputError where the file cannot be written.
    """
    of_task = Task.of(system).sections
    sections = of_task(system, view, batch_size, workers) if of_task else []
    sections = [*sections, ("Unreadable files", unreadable_files(unreadable))]
    name = system.name or type(system).__name__
    tiles = [tag("div", tag("dt", key.replace("_", " ")), tag("dd", number(value))) for key, value in figures.items()]
    heading = [
        tag("h1", name, tag("small", " on ", view.source)),
        tag("p", described),
        tag("dl", *tiles, class_="tiles"),
    ]
    make_folder(folder)
    write_text(
        folder / NAME, page(f"{name} on {view.source}: measured by foveal", heading, sections, foveal.__version__)
    )
    return folder / NAME
