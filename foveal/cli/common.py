"""What the verbs share: reading a command line, finding a system, writing an answer."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from foveal.catalog import ENTRIES
from foveal.cli import drop_output, nobody_reads
from foveal.errors import InputError, one_line

Arguments = TypeVar("Arguments")
DATA = (
    "Images and their labels: a built-in set (digits, scenes); a folder with one folder a class; a CSV file with "
    "columns path, label[, split]; objects in COCO JSON, Pascal VOC XML or YOLO text files: their folder, the JSON "
    "file or data.yaml. docs/data.md draws each layout."
)
Data = Annotated[str, tyro.conf.arg(help=DATA)]
RunOrName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME")]


def parse(kind: type[Arguments], verb: str, words: Sequence[str]) -> Arguments:
    """The words of a command line as the dataclass `kind`. Raises InputError with one line for what does not fit."""
    errors, help = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(help):
            return tyro.cli(
                kind,
                prog=f"foveal {verb}",
                args=list(words),
                config=(tyro.conf.SuppressFixed, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        if not end.code:
            # What may be left out is said by its default, None; the columns of the table stay where they are.
            text = re.sub(r"\{None\}\|(\S+)(?=  |$)", lambda found: found[1].ljust(len(found[0])), help.getvalue())
            text = text.replace("{None}|", "")
            print(re.sub(r" +$", "", text, flags=re.MULTILINE), end="")
            raise
        raise InputError(f"{_message(errors.getvalue())} (foveal {verb} --help)") from None


def _message(box: str) -> str:
    """What tyro complains of, in one line. Rules, drawn as the terminal can, part its title, message and help texts."""
    _, message, *helps = re.split(r"^.*[─-]{9}.*$", box.replace("│", " "), flags=re.MULTILINE)
    message = " ".join(message.partition("Got errors:")[0].replace("{None}|", "").split())
    near = re.findall(r"^ *(--[\w-]+)", "\n".join(helps), re.MULTILINE)
    hint = f"; did you mean {' or '.join(near[:2])}?" if near and message.startswith("Unrecognized") else ""
    return message + hint


def find_system(
    run_or_name: str,
    weights: str | None = None,
    *,
    device: str | None = "cpu",
    untrained: bool = False,
    flag: str = "--weights",
    **loading: Any,
) -> Any:
    """The system of a run or checkpoint, or of a catalog name with weights, on a device (None: the best there is).

    untrained: a bare name will do.
    flag:      what the weights are given by.
    loading:   further arguments of `create`, for weights.
    """
    from foveal.build import create, trained
    from foveal.train.prepare import find_device
    from foveal.weights.packages import PACKAGED

    found = find_device(device)
    if Path(run_or_name).exists():
        if weights:
            raise InputError(f"{run_or_name} is a run, which has its own weights: leave out {flag}")
    elif run_or_name in ENTRIES and (weights or untrained):
        return create(run_or_name, weights=weights, **loading).to(found)
    elif run_or_name in ENTRIES and run_or_name not in PACKAGED:
        raise InputError(f"{run_or_name} has no trained weights here: add {flag} FILE, or name a run instead")
    return trained(run_or_name).to(found)


def check_folder(folder: Path) -> None:
    """InputError where nothing can be written in a folder, or it cannot be made: before the work, not after it."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"cannot write in {folder}: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot write in {folder}: no permission to write in {above}")


def image_files(names: tuple[str, ...]) -> list[Path]:
    """The files that the arguments name; those of a folder in order of name."""
    from foveal.data import files as folders

    if not all(names):
        raise InputError("the name of an image is empty")
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            complain = folders.Complaints()
            inside = folders.image_files(path, None, complain)
            for note in complain.files():
                print(f"foveal: {path}: {one_line(note)}", file=sys.stderr)
            if not inside:
                raise InputError(f"{path} has no images in it")
            files += [path / name for name in inside]
        else:  # or nothing, which reading it will tell: the others can be answered
            files.append(path)
    if not files:
        raise InputError("no image given")
    unique: dict[str, Path] = {}
    for path in files:
        unique.setdefault(os.path.abspath(path), path)
    return [*unique.values()]


def answer(document: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a verb on stdout, as one JSON document or as text. A reader that leaves early has read enough."""
    if as_json or text:
        try:
            print(json.dumps(document, indent=1) if as_json else _safe(text), flush=True)
        except OSError as error:
            if not nobody_reads(error):
                raise
            drop_output()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows below their headings, as a table for a terminal, or separated by tabs for a pipe."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    if not (sys.stdout and sys.stdout.isatty()):
        return "\n".join("\t".join(row) for row in ([headings, *shown] if shown else []))
    grid = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in shown:
        grid.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip("\n")


def _safe(text: str) -> str:
    """Lines of text for the screen, in which the bold headings of `table` alone are control sequences."""
    parts = re.split(r"(\x1b\[[01]m)", text) if sys.stdout and sys.stdout.isatty() else [text]
    return "".join(part if number % 2 else one_line(part, "\n\t") for number, part in enumerate(parts))
