"""The one error for bad input. The command line prints it as one line and exits with 2."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

MOST_NAMED = 12  # names that a line can hold
# Letters and marks that no terminal draws, though Python counts them as printable.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


class InputError(ValueError):
    """What the user gave cannot be used: a path, a file, a name, a setting. The text says what, where, what to do.

    run: the training run that had begun and ended with this, as `foveal.train` would have returned it.
    """

    run: Any = None


def one_line(text: str, keep: str = "") -> str:
    """Text that may hold names from strangers, safe for a terminal: controls, overrides of the writing direction and
    invisible characters become escapes. keep: characters that stay as they are."""
    return "".join(c if c in keep or (c.isprintable() and c not in _INVISIBLE) else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable(text: str, most: int = 60) -> str:
    """A name from a file as one short piece of a line: escapes for signs that a line cannot show, and its end cut."""
    shown = one_line(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def few(names: Sequence[str], count: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def check_drop(name: str, probability: float) -> None:
    """InputError where something cannot be dropped with this probability."""
    if not 0 <= probability < 1:
        raise InputError(f"{name} must be at least 0 and below 1, not {probability}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the known names that look most like it."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {few(sorted(known), MOST_NAMED)}"
