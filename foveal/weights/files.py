"""Files of weights, read without running what is in them: tensors by name, taken out of what a training run put around
them."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveal.errors import InputError, few, printable
from foveal.filesystem import open_file
from foveal.schema import check
from foveal.weights.outline import read_outline
from foveal.weights.pickled import Opaque, RunsCode, read_pickled
from foveal.weights.saved import TRAIN, read_head

# A running mean of the weights goes first: where one was kept, its accuracy was measured and published.
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema")
WRAPPINGS = (*AVERAGES, "model", "state_dict", "model_state_dict", "net", "network", "params", "weights")


class Names(TypedDict):
    """What the header of a checkpoint has on classes."""

    task: str
    labels: list[str]


class Content(NamedTuple):
    """state: tensors under the file's names; wrapping: the key that they were under, if any; ordered: whether they are
    in the order of layers, as torch.save keeps them, where safetensors sorts names."""

    state: dict[str, Tensor]
    wrapping: str | None
    ordered: bool


def read(path: Path, most: int | None = None) -> Content:
    """The named tensors in a file, without the training state beside them. most: bytes that it may have.

    Raises InputError for a file that is missing, truncated, not of weights, or whose opening would have to run code.
    """
    _check_kind(path, most)
    ordered = not _is_safetensors(path)
    content, wrapping = _read_torch(path) if ordered else _read_safetensors(path), None
    for _ in WRAPPINGS:  # each may stand around another
        if inner := _wrapped(content):
            content, wrapping = content[inner], inner
    if wrapping in AVERAGES and "n_averaged" in content:  # the counter of torch's AveragedModel
        content = {name: value for name, value in content.items() if name != "n_averaged"}
    if _is_map(content) and (opaque := [(k, v.kind) for k, v in content.items() if isinstance(v, Opaque)]):
        raise InputError(f"{path} holds no weights in {printable(opaque[0][0])}, but a {printable(opaque[0][1])}")
    if not _is_map(content) or not all(isinstance(value, Tensor) for value in content.values()):
        found = few([printable(str(key)) for key in content], 5) if _is_map(content) else type(content).__name__
        raise InputError(f"{path} holds no weights by name, at its top or under {', '.join(WRAPPINGS)}, but {found}")
    state = {name: tensor for name, tensor in content.items() if not name.startswith(TRAIN)}
    if odd := [name for name, tensor in state.items() if tensor.is_complex()]:
        raise InputError(f"{path} holds no weights in {printable(odd[0])}, but complex numbers")
    return Content(state, wrapping, ordered)


def _wrapped(content: Any) -> str | None:
    """The key of the weights among other entries: the first of WRAPPINGS, else the only entry that holds tensors by
    name."""
    if not _is_map(content):
        return None
    inside = {id(value): value for value in content.values()}  # each once, for a file may name one map many times
    maps = {place for place, value in inside.items() if _is_map(value)}
    known = [key for key in WRAPPINGS if key in content and id(content[key]) in maps]
    whole = {place for place in maps if all(isinstance(value, Tensor) for value in inside[place].values())}
    tensors = [key for key, value in content.items() if id(value) in whole]
    return known[0] if known else tensors[0] if len(tensors) == 1 else None


def class_names(path: str | PathLike[str], task: str | None = None) -> tuple[str, ...] | None:
    """The class names of a checkpoint of foveal, if it is of this task; None for other files."""
    try:
        header = read_head(path).header
        check(header, Names)
    except InputError:
        return None
    return tuple(header["labels"]) if task in (None, header["task"]) else None


def _check_kind(path: Path, most: int | None) -> None:
    """InputError for what stands where weights should, and is known by its first bytes."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of weights in it; that of a run is best.safetensors")
    if not path.exists():
        raise InputError(f"there is no file of weights at {path}")
    with open_file(path, most) as file:
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
    with open_file(path) as file:
        start = file.read(9)
        return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.seek(0, 2)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    read_outline(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        text = printable(str(error), 200)
        raise InputError(f"{path} is not a whole safetensors file, it may be truncated: {text}") from None


def _read_torch(path: Path) -> Any:
    try:
        with open_file(path) as file:
            return read_pickled(file)
    except RunsCode as error:
        raise InputError(
            f"{path} would run code when opened ({error}) and was not opened; "
            "if you trust who made it, save its state_dict alone, as .safetensors"
        ) from None
    except Exception as error:  # whatever the bytes of a foreign file lead to
        reason = f": {error}" if isinstance(error, InputError) else ""
        raise InputError(
            f"{path} is no whole file of weights by torch.save: it is truncated, or of another kind{reason}"
        ) from None


def _is_map(value: Any) -> bool:
    """Whether a value has entries by name."""
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(key, str) for key in value)
