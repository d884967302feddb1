"""Progress of an explanation: a `Watch` gets the name of the items, how many are done, and how many there are."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Watch = Callable[[str, int, int], None]


def unwatched(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def watched(what: str, parts: Sequence[Any], watch: Watch) -> Iterator[Any]:
    """The parts of a work, one after another; `watch` gets the items of those that are done, at the start none."""
    done, total = 0, sum(map(len, parts))
    watch(what, done, total)
    for part in parts:
        yield part
        done += len(part)
        watch(what, done, total)
