"""foveal check"""

from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from foveal.cli.common import DATA, answer, one_line, parse, table
from foveal.progress import Bar


@dataclass
class Check:
    """Read every image of a data set and name what is wrong with images, targets, splits. Exit code 2 if anything is.

    Example: foveal check photos/
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help=DATA)]
    outside: bool = False
    """Let links and annotations of the data lead to files outside its folder."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> int:
    options = parse(Check, "check", words)
    with Bar(f"reading {options.data}") as bar:
        from foveal.data.check import check_source

        found = check_source(options.data, bar, outside=options.outside)
    lines = [table(*found.table())] if found.counts else []
    for title, items in found.groups():
        lines += [f"{title} ({len(items)}):", *(f"  {one_line(item)}" for item in items)] if items else []
    lines += [f"note: {one_line(note)}" for note in found.notes]
    lines.append(f"{found.faults} to look at" if found.faults else "nothing wrong was found")
    answer({"data": options.data, **asdict(found), "faults": found.faults}, options.json, "\n".join(lines))
    return 2 if found.faults else 0
