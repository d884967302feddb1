"""Tools of the fuzz tests: inputs drawn from seeds, bounds on time and memory, and digests of folders.

Each input is a function of a `random.Random`, so a failure is repeated from the seed that its note names. `make test`
draws the same inputs in each run; `make fuzz` draws 20 times as many, others each time. Memory is bounded by the
operating system's limit on the address space of this process, so that an allocation beyond the bound fails, and an
InputError that stands for such a failure is no pass.
"""

import copy
import hashlib
import os
import resource
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from foveal.errors import InputError

TIMES = int(os.environ.get("FOVEAL_FUZZ", "1"))  # 20 in `make fuzz`
START = "0" if TIMES == 1 else secrets.token_hex(4)
PATIENCE = 2.0  # seconds of processor time for one input
EDGES = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff")
LENGTHS = [*[None] * 4, 0, 1, 7, 20, 60, 200]  # of a file whose end is missing
NUMBERS = [-1, 0, 3, 2**70, 1.5, 1e308, float("nan")]
ODD: list[Any] = [None, True, *NUMBERS, "", "x", "0.jpg", "\ud800", "\0", [], [1], [[]], {}]

Make = Callable[[Random], Any]


def fuzz(count: int, make: Make, act: Callable[[Any], Any]) -> None:
    """Act on so many inputs. An error has a note with the seed of its input."""
    for number in range(count * TIMES):
        seed = f"{START} {number}"
        try:
            act(make(Random(seed)))
        except BaseException as error:
            error.add_note(f"the input is that of Random({seed!r})")
            raise


@contextmanager
def bounded(more: int, seconds: float = PATIENCE) -> Iterator[None]:
    """Within the block no more than so many bytes can be had, and no more than so many seconds of processor time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


class Hangs(BaseException):
    """The time is up. The code under test does not catch it."""


def hangs(number: int, frame: Any) -> None:
    raise Hangs


def survives(function: Callable[[], Any], bound: int, seconds: float = PATIENCE) -> bool:
    """True for a result; False for an InputError of one line that does not stand for a want of memory."""
    with bounded(bound, seconds):
        try:
            function()
        except InputError as error:
            caught: BaseException | None = error
        else:
            return True
    text = str(caught)
    assert text.strip()
    assert "\n" not in text
    while caught is not None:
        assert not isinstance(caught, MemoryError)
        caught = caught.__cause__ or caught.__context__
    return False


def write(path: Path, data: bytes) -> None:
    """A new file in the place of an old one. Some file systems flush to the disk a file that is overwritten."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def noise(most: int) -> Make:
    """Arbitrary bytes."""
    return lambda draw: draw.randbytes(draw.randint(0, most))


def one_of(*makes: Make) -> Make:
    """Inputs of any of several kinds, equally often."""
    return lambda draw: draw.choice(makes)(draw)


def damaged(originals: list[bytes]) -> Make:
    """One of the originals with a few bytes overwritten, half of the time near its beginning, or its end missing."""

    def make(draw: Random) -> bytes:
        data = bytearray(draw.choice(originals))
        reach = min(len(data), 64) if draw.randrange(2) else len(data)
        for _ in range(draw.randint(1, 3)):
            start, count, source = draw.randrange(reach), draw.randint(1, 2), draw.randrange(len(data))
            new = (draw.randbytes(count), draw.choice(EDGES) * count, bytes(data[source : source + count]))
            data[start : start + count] = draw.choice(new)
        return bytes(data[: draw.choice(LENGTHS)])

    return make


def replaced(original: Any) -> Make:
    """A JSON document with odd things in place of some of its values."""

    def make(draw: Random) -> Any:
        document = copy.deepcopy(original)
        for _ in range(draw.randint(1, 3)):
            place = document
            while place:
                key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
                if not isinstance(place[key], dict | list) or draw.randrange(4) == 0:
                    place[key] = copy.deepcopy(draw.choice(ODD))  # the next change may alter it
                    break
                place = place[key]
        return document

    return make


def below(folder: Path) -> dict[str, Any]:
    """Everything in a folder: a digest of each file, the target of each link, the mode of all else."""
    return {str(path): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> Any:
    if path.is_symlink():
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else path.stat().st_mode
