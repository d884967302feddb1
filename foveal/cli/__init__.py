"""The command `foveal`: one file a verb. This one finds the verb and turns errors into one line and an exit code."""

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from foveal.errors import InputError, nearest, one_line

VERBS = {
    "list": "the systems there are",
    "cost": "parameters, multiply-accumulates, memory and receptive field of a system, layer by layer",
    "check": "name what is wrong with a data set, by file",
    "train": "train a system on your images",
    "evaluate": "measure a trained system on a labelled set",
    "predict": "name what images show",
    "explain": "show where in an image the evidence for a class is, and test it",
    "sample": "make new images, or complete and reconstruct given ones",
}
EXAMPLES = """\
  foveal train resnet_nano --data digits --out runs/digits
  foveal evaluate runs/digits --data digits
  foveal predict runs/digits photo.png
"""


def entry() -> int:
    """The command as a process: `main`, and an end that no further Ctrl-C disturbs."""
    _open_streams()
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # it raises too what it logs as an error
    try:
        return main()
    except KeyboardInterrupt:  # a second one, while the first was being told
        return _fail(130, "stopped")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code: 0, 2 for bad input and for what cannot go on, 130 after Ctrl-C, 143 after
    SIGTERM, 129 after the terminal has closed. Output that nobody reads, closed or cut off as by `| head`, changes
    nothing in it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name can be what no terminal can show
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        print(end="", flush=True)
        return code
    except InputError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt as stop:
        return _fail(getattr(stop, "exit_code", 130), str(stop) or "stopped")
    except OSError as error:
        drop_output()
        if nobody_reads(error):  # as of a help text
            return 0
        return _fail(2, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError by its name: to import torch here would cost every verb its start.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if not kinds & {"MemoryError", "OutOfMemoryError"} and "can't allocate memory" not in str(error):
            raise
        wanted = re.search(r"tried to allocate ([\d.]+ \w+)", str(error))
        return _fail(2, f"out of memory{f' for {wanted[1]}' if wanted else ''}: take a smaller image size or system")


def _run(words: Sequence[str]) -> int:
    verb, *rest = words or ["--help"]
    if verb in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<10}{text}" for name, text in VERBS.items())
        print(f"usage: foveal VERB ...\n\n{verbs}\n\nexamples:\n{EXAMPLES}\nfoveal VERB --help tells more.")
    elif verb == "--version":
        print(import_module("foveal").__version__)
    elif verb in VERBS:
        try:
            return import_module(f"foveal.cli.{verb}").run(rest) or 0
        except SystemExit as end:  # the verb's help has been shown
            return int(end.code or 0)
    else:
        raise InputError(f"unknown verb {verb!r}{nearest(verb, VERBS)}")
    return 0


def nobody_reads(error: OSError) -> bool:
    """Whether output could not be written because its reader has left: the end of a pipe, or a terminal."""
    return isinstance(error, BrokenPipeError) or (error.errno == errno.EIO and error.filename is None)


def drop_output() -> None:
    """Let what cannot be written go: the interpreter would try once more when it ends, and complain."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Give closed standard streams a place: else the next file to open has their number, and gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        stream = sys.stderr
        sys.stderr = _Messages(stream.buffer, stream.encoding, stream.errors, line_buffering=True)


class _Messages(io.TextIOWrapper):
    """Standard error. That its reader has left, or its disk is full, ends no work: the messages are dropped."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _fail(code: int, text: str) -> int:
    print("foveal:", one_line(" ".join(text.split())), file=sys.stderr)
    return code
