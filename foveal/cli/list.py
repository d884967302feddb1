"""foveal list"""

from dataclasses import dataclass

from foveal.catalog import names, task_of, told
from foveal.cli.common import answer, parse, table


@dataclass
class List:
    """The systems there are, by task.

    Example: foveal list --task classify
    """

    task: str | None = None
    """Only the systems of this task."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(List, "list", words)
    columns = ("name", "task", "family", "source")
    systems = [dict(zip(columns, (name, task_of(name), *told(name)), strict=True)) for name in names(options.task)]
    answer({"systems": systems}, options.json, table(columns, [[*system.values()] for system in systems]))
