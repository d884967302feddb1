"""foveal check"""

from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from foveal.cli.common import answer, one_line, parse, table


@dataclass
class Check:
    """Read every image of a data set and name what is wrong with images, labels and splits. Exit code 2 if anything is.

    Example: foveal check photos/
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A built-in set, a folder of class folders, or a CSV file."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> int:
    options = parse(Check, "check", words)
    from foveal.data.check import check_source

    found = check_source(options.data)
    labels = next(iter(found.counts.values()), {})
    rows = [(label, *(str(counts[label]) for counts in found.counts.values())) for label in labels]
    sums = [str(sum(counts.values())) for counts in found.counts.values()]
    lines = [table(("class", *found.counts), [*rows, ("all", *sums)])] if found.counts else []
    groups = {
        "folders, files and rows": found.layout,
        "cannot be read": list(found.unreadable.values()),
        "one image, several classes": [", ".join(group) for group in found.two_labels],
        "one image, several splits": [", ".join(group) for group in found.leaks],
        "almost one image, several splits": [", ".join(group) for group in found.near_copies],
        "odd size": [f"{name}: {what}" for name, what in found.odd_sizes.items()],
        "implausible label": [f"{name}: {what}" for name, what in found.implausible.items()],
    }
    for title, items in groups.items():
        lines += [f"{title} ({len(items)}):", *(f"  {one_line(item)}" for item in items)] if items else []
    lines += [f"note: {one_line(note)}" for note in found.notes]
    lines.append(f"{found.faults} to look at" if found.faults else "nothing wrong was found")
    answer({"data": options.data, **asdict(found), "faults": found.faults}, options.json, "\n".join(lines))
    return 2 if found.faults else 0
