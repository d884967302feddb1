"""Progress on stderr: in a terminal one live line, which goes when the work ends; elsewhere a plain line each half
minute, so nothing for short work. A reader that leaves and a terminal that closes end no work."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Self, TextIO, TypeVar

from rich.cells import cell_len, set_cell_size

from foveal.errors import one_line
from foveal.wording import duration

Item = TypeVar("Item")
Part = TypeVar("Part", bound=Sized)
DELAY = 0.5  # seconds before the first live line, which short work never shows
REDRAW = 0.2  # seconds between two live lines
EVERY = 30.0  # seconds between two plain lines
CELLS = 10  # of a bar
ERASE = "\r\x1b[2K"


class Silent:
    """Progress that nobody watches: what functions of the library take where the caller passes none."""

    def stage(self, title: str, total: float | None = None) -> None:
        """Begin another part of the work. total: its steps; None where their number is unknown."""

    def advance(self, steps: float = 1) -> None:
        """So many steps are done."""

    def reach(self, done: float) -> None:
        """So many steps of the stage are done in all."""

    def track(self, items: Iterable[Item], title: str, total: float | None = None) -> Iterator[Item]:
        """The items, as a stage of a step each."""
        self.stage(title, total)
        for item in items:
            yield item
            self.advance()

    def track_parts(self, parts: Sequence[Part], title: str) -> Iterator[Part]:
        """The parts, as a stage of a step for each item in them."""
        self.stage(title, sum(map(len, parts)))
        for part in parts:
            yield part
            self.advance(len(part))


SILENT = Silent()


class Bar(Silent):
    """Progress of one piece of work that may have several stages, within a `with` block.

    quiet: shows nothing.
    every: seconds between two plain lines where stderr is no terminal; None for none.

    The line is drawn by a thread, so that it moves while one long step runs.
    """

    def __init__(self, title: str, total: float | None = None, *, quiet: bool = False, every: float | None = EVERY):
        self.stream, self.quiet, self.every = sys.stderr, quiet or sys.stderr is None, every
        self.live = not self.quiet and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._outer: dict[str, Any] = {}
        self._drawn = self._open = False
        self.stage(title, total)

    def __enter__(self) -> Self:
        if self.live:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None and stream.isatty():
                    self._outer[name] = stream
                    setattr(sys, name, _Above(stream, self))
        if self.live or (self.every and not self.quiet):
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the line for good, as before the result is printed."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self.erase()
        for name, stream in self._outer.items():
            setattr(sys, name, stream)
        self._outer.clear()

    def stage(self, title: str, total: float | None = None) -> None:
        self.title, self.total, self.done, self.began = one_line(title), total, 0.0, time.monotonic()

    def advance(self, steps: float = 1) -> None:
        self.done += steps

    def reach(self, done: float) -> None:
        self.done = done

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self.quiet:
            with self._lock:
                self.erase()
                self._write(one_line(line) + "\n")

    def parts(self) -> list[str]:
        """What the line says, the most important first: the last ones are left out where a line has no room."""
        seconds, done, total = time.monotonic() - self.began, self.done, self.total
        if not total:
            return [self.title, f"{_time(seconds)} so far", *([f"{done:,.0f} done"] if done else [])]
        share = min(1.0, done / total)
        parts = [f"{self.title} {self.gauge(share)} {share:.0%}"]
        if done:
            parts.append(f"{_time(seconds * (1 - share) / share)} left")
        return [*parts, f"{done:,.0f} of {total:,.0f}"] if isinstance(total, int) else parts

    def gauge(self, share: float) -> str:
        """A bar of CELLS characters, of which a share is full."""
        full = "━" if "utf" in (getattr(self.stream, "encoding", None) or "").lower() else "="
        return f"{full * round(CELLS * share):<{CELLS}}"

    def erase(self) -> None:
        """Remove the live line; it is drawn again at its time."""
        with self._lock:
            if self._drawn:
                self._drawn = False
                self._write(ERASE)

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write to a stream of the same terminal; an open line keeps the live line away until it ends."""
        with self._lock:
            self.erase()
            self._open = not text.endswith("\n") if text else self._open
            return stream.write(text)

    def _draw(self) -> None:
        wait = DELAY if self.live else self.every
        while not self._ended.wait(wait):
            with self._lock:
                if self._open:
                    pass
                elif self.live:
                    self._write(ERASE + fitted(self.parts(), _columns(self.stream)))
                    self._drawn = True
                else:
                    self._write("  ".join(self.parts()) + "\n")
            wait = REDRAW if self.live else self.every

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # its reader has left; ValueError: the stream is closed
            self.stream.write(text)
            self.stream.flush()


class _Above:
    """A stream that shares the terminal with a bar: what is written stands above the live line."""

    def __init__(self, stream: Any, bar: Bar) -> None:
        self._stream, self._bar, self._owner = stream, bar, os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if os.getpid() != self._owner:  # a process that was forked while the lock was held would wait for ever
            return self._stream.write(text)
        return self._bar.write_above(self._stream, text)


def fitted(parts: list[str], columns: int) -> str:
    """The first part, cut where it is too long, and as many of the others as fit."""
    line = parts[0] if cell_len(parts[0]) < columns else set_cell_size(parts[0], max(0, columns - 1))
    for part in parts[1:]:
        if cell_len(line) + 2 + cell_len(part) >= columns:
            break
        line += f"  {part}"
    return line


def _columns(stream: Any) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def _time(seconds: float) -> str:
    """As `duration`, in tenths of a second where it is short: a live line in milliseconds would flicker."""
    return f"{seconds:.1f} s" if seconds < 1 else duration(seconds)
