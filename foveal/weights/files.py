"""Files of weights, read without running what is in them: tensors by name, taken out of what a training run put around
them."""

import io
import json
import os
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from foveal.errors import InputError, few
from foveal.weights.saved import TRAIN

# A running mean of the weights goes first: where one was kept, its accuracy was measured and published.
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema")
WRAPPINGS = (*AVERAGES, "model", "state_dict", "model_state_dict", "net", "network", "params", "weights")


class Content(NamedTuple):
    """state: tensors under the file's names; wrapping: the key that they were under, if any; ordered: whether they are
    in the order of layers, as torch.save keeps them, where safetensors sorts names."""

    state: dict[str, Tensor]
    wrapping: str | None
    ordered: bool


def read(path: Path) -> Content:
    """The named tensors in a file, without the training state beside them.

    Raises InputError for a file that is missing, truncated, not of weights, or whose opening would have to run code.
    """
    _check_kind(path)
    ordered = not _is_safetensors(path)
    content, wrapping = _read_torch(path) if ordered else _read_safetensors(path), None
    for _ in WRAPPINGS:  # each may stand around another
        if inner := _wrapped(content):
            content, wrapping = content[inner], inner
    if wrapping in AVERAGES and "n_averaged" in content:  # the counter of torch's AveragedModel
        content = {name: value for name, value in content.items() if name != "n_averaged"}
    if not _is_map(content) or not all(isinstance(value, Tensor) for value in content.values()):
        found = few([printable(str(key)) for key in content], 5) if _is_map(content) else type(content).__name__
        raise InputError(f"{path} holds no weights by name, at its top or under {', '.join(WRAPPINGS)}, but {found}")
    state = {name: tensor for name, tensor in content.items() if not name.startswith(TRAIN)}
    return Content(state, wrapping, ordered)


def _wrapped(content: Any) -> str | None:
    """The key of the weights among other entries: the first of WRAPPINGS, else the only entry that holds tensors by
    name."""
    if not _is_map(content):
        return None
    maps = [key for key in content if _is_map(content[key])]
    known = [key for key in WRAPPINGS if key in maps]
    tensors = [key for key in maps if all(isinstance(value, Tensor) for value in content[key].values())]
    return known[0] if known else tensors[0] if len(tensors) == 1 else None


def printable(text: str, most: int = 60) -> str:
    """A name from a file as one short piece of a line: escapes for signs that a line cannot show, and its end cut."""
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def class_names(path: str | PathLike[str], task: str | None = None) -> tuple[str, ...] | None:
    """The class names of a checkpoint of foveal, if it is of this task; None for other files."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["foveal"])
            return tuple(map(str, header["labels"])) if task in (None, header["task"]) else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _check_kind(path: Path) -> None:
    """InputError for what stands where weights should, and is known by its first bytes."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of weights in it; that of a run is best.safetensors")
    if not path.is_file():
        raise InputError(f"there is no file of weights at {path}")
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise InputError(f"{path} is empty, so it is no file of weights")
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise InputError(
            f"{path} is a web page, not weights: what was downloaded is an answer of the server; try again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} only points to weights that git-lfs keeps: git lfs pull brings them")


def _is_safetensors(path: Path) -> bool:
    """By its suffix or, whatever it is called, by how it begins: eight bytes of a length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file, it may be truncated: {printable(str(error), 200)}"
        ) from None


def _read_torch(path: Path) -> Any:
    try:
        # A record of command-line arguments is often kept beside the weights, and only holds values.
        with ExitStack() as stack:
            stack.enter_context(torch.serialization.safe_globals([Namespace]))
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            file: Any = path if is_zipfile(path) else stack.enter_context(_Whole(path))
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load meets a foreign file with whatever its bytes lead to
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} would run code when opened ({printable(match[1])}) and was not opened; "
                "if you trust who made it, save its state_dict alone, as .safetensors"
            ) from None
        raise InputError(
            f"{path} is no whole file of weights by torch.save: it is truncated, or of another kind"
        ) from None


class _Whole(io.FileIO):
    """A file that is never asked for more than it has: a pickle's word for a length is no reason for gigabytes."""

    def read(self, size: int | None = -1) -> Any:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _is_map(value: Any) -> bool:
    """Whether a value has entries by name."""
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(key, str) for key in value)
