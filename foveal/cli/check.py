"""foveal check"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foveal.cli.common import DATA, answer, check_folder, one_line, parse, table
from foveal.errors import InputError
from foveal.filesystem import check_output
from foveal.progress import Bar

NAMED = 10  # implausible labels in the text


@dataclass
class Check:
    """Read every image of a data set and name what is wrong with images, targets, splits. Exit code 2 if anything is.

    Example: foveal check photos/ --out checked
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help=DATA)]
    outside: bool = False
    """Let links and annotations of the data lead to files outside its folder."""
    out: str | None = None
    """Folder for suspects.html: pictures of the implausible labels, the most probably wrong first."""
    labels: int = 20_000
    """The most labels that are judged, drawn at random; 0 judges none."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> int:
    options = parse(Check, "check", words)
    with Bar(f"reading {options.data}") as bar:
        from foveal.data.check import check_layout
        from foveal.data.findings import IMPLAUSIBLE

        if options.labels < 0:
            raise InputError(f"labels must be at least 0, not {options.labels}")
        if options.out:
            check_folder(Path(options.out))
            place = Path(options.data)
            check_output(options.out, [place if place.is_dir() else place.parent] if place.exists() else [])
        dataset, found = check_layout(options.data, bar, outside=options.outside, labels=options.labels)
        document = {"data": options.data, **asdict(found), "faults": found.faults}
        page = None
        if options.out and dataset is not None:
            from foveal.report.suspects import write_suspects

            if not dataset.in_memory:
                check_output(options.out, {Path(dataset.name(index)).parent for index in range(len(dataset))})
            page = write_suspects(Path(options.out), dataset, found)
            document["report"] = str(page)
    lines = [table(*found.table())] if found.counts else []
    for title, items in found.groups():
        shown = items[:NAMED] if title == IMPLAUSIBLE else items
        lines += [f"{title} ({len(items)}):", *(f"  {one_line(item)}" for item in shown)] if items else []
        if len(shown) < len(items):
            where = page or "--out FOLDER writes a page with pictures of them"
            lines.append(f"  and {len(items) - len(shown):,} more: {where}")
    lines += [f"note: {one_line(note)}" for note in found.notes]
    lines += [f"written: {page}"] if page else []
    lines.append(f"{found.faults} to look at" if found.faults else "nothing wrong was found")
    answer(document, options.json, "\n".join(lines))
    return 2 if found.faults else 0
