"""foveal list"""

from dataclasses import dataclass
from typing import Any

from foveal.catalog import names, sizes, task_of, told
from foveal.cli.common import answer, parse, table


@dataclass
class List:
    """List the systems by task, with image size, parameters, and whether trained weights come with a package.

    Example: foveal list --task classify
    """

    task: str | None = None
    """Only the systems of this task."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(List, "list", words)
    systems = [_described(name) for name in names(options.task)]
    headings = ("name", "task", "family", "source", "image", "parameters", "weights")
    answer({"systems": systems}, options.json, table(headings, [_row(system) for system in systems]))


def _described(name: str) -> dict[str, Any]:
    height, width, parameters, package = sizes()[name]
    return {
        **dict(zip(("name", "task", "family", "source"), (name, task_of(name), *told(name)), strict=True)),
        "image_size": [height, width],
        "parameters": parameters or None,  # of a system that is fitted, or made of others, they depend on these
        "weights": None if package == "-" else package,
    }


def _row(system: dict[str, Any]) -> list[str]:
    height, width = system["image_size"]
    parameters = f"{system['parameters']:,}" if system["parameters"] else "-"
    size = f"{height} x {width}"
    return [*(system[key] for key in ("name", "task", "family", "source")), size, parameters, system["weights"] or "-"]
