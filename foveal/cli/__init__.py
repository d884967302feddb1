"""The command `foveal`: one file a verb. This one finds the verb and turns errors into one line and an exit code."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from foveal.errors import InputError, nearest

VERBS = {
    "list": "the systems there are",
    "cost": "parameters, multiply-accumulates, memory and receptive field of a system, layer by layer",
    "train": "train a system on your images",
    "evaluate": "measure a trained system on a labelled set",
    "predict": "name what images show",
}
EXAMPLES = """\
  foveal train resnet_nano --data digits --out runs/digits
  foveal evaluate runs/digits --data digits
  foveal predict runs/digits photo.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help"):
            verbs = "\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items())
            print(f"usage: foveal VERB ...\n\n{verbs}\n\nexamples:\n{EXAMPLES}\nfoveal VERB --help tells more.")
        elif words[0] == "--version":
            print(import_module("foveal").__version__)
        elif words[0] in VERBS:
            return import_module(f"foveal.cli.{words[0]}").run(words[1:]) or 0
        else:
            raise InputError(f"unknown verb {words[0]!r}{nearest(words[0], VERBS)}")
    except InputError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt as stop:
        return _fail(130, str(stop) or "stopped")
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it, not even when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(code: int, text: str) -> int:
    print("foveal:", " ".join(text.split()), file=sys.stderr)
    return code
