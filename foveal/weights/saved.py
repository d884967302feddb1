"""foveal's own checkpoints, read: tensors in safetensors, everything else as JSON in the header. Never pickle.

What writes them, and what they hold, is in train/checkpoint.py.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import foveal
from foveal.errors import InputError, few, printable
from foveal.filesystem import open_file, read_text
from foveal.nn.fitted import before_fit, check_fitted, fitted_names
from foveal.schema import Between, check, parse
from foveal.system import System, evaluating
from foveal.weights.outline import read_outline

FORMAT = 1
LIMIT = 2**28  # bytes of run.json, which lists unreadable images, or of metrics.jsonl
TRAIN = "train/"  # begins the names of what is kept for going on with the training


class Written(TypedDict):
    """The part of every header."""

    format: Annotated[int, Between(0)]
    foveal: str


@dataclass(frozen=True)
class Head:
    """The header of a checkpoint. header: the JSON part; tensors: all in the file, on "meta"."""

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(TRAIN)}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file. header: the JSON part; weights: the system's state; state: that of training, if wanted."""

    path: Path
    header: dict[str, Any]
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


def read_head(run_or_file: str | PathLike[str], prefer: str = "best") -> Head:
    """The header of the checkpoint at a path, or of the `prefer`red one ("best", "last") of a run directory; no tensor
    is read.

    Raises InputError for anything that is not a foveal checkpoint. A pickle is refused without being opened.
    """
    path = find(run_or_file, prefer)
    with open_file(path) as file:
        start = file.read(9)
    # safetensors begin with eight bytes of length and a brace; a pickle, alone or in a zip, with its own marks.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise InputError(
            f"{path} is a pickle, which can run code when opened, and was not opened; "
            "foveal's checkpoints are safetensors. Published weights go to create(NAME, weights=FILE)"
        )
    metadata, tensors = read_outline(path)
    if "foveal" not in metadata:
        raise InputError(f"{path} is not a checkpoint of foveal; published weights go to create(NAME, weights=FILE)")
    try:
        header = parse(metadata["foveal"])
        check(header, Written)
    except InputError as error:
        raise InputError(f"the header of {path} is damaged: {printable(str(error), 200)}") from None
    if header["format"] > FORMAT:
        writer = printable(header["foveal"])
        raise InputError(f"{path} was written by a newer foveal ({writer}); this is {foveal.__version__}")
    return Head(path, header, tensors)


def read(run_or_file: str | PathLike[str], *, state: bool = False, prefer: str = "best") -> Checkpoint:
    """The checkpoint at a path, or the `prefer`red one ("best", "last") of a run directory.

    Raises InputError for anything that is not a whole foveal checkpoint. A pickle is refused without being opened.
    """
    return read_tensors(read_head(run_or_file, prefer), state=state)


def read_tensors(head: Head, *, state: bool = False) -> Checkpoint:
    """The checkpoint of a header. Raises InputError where the file is damaged."""
    names = head.tensors if state else head.weights
    try:
        with safe_open(head.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        text = printable(str(error), 200)
        raise InputError(f"{head.path} is not a whole safetensors file, it may be truncated: {text}") from None
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAIN)}
    training = {name[len(TRAIN) :]: tensor for name, tensor in tensors.items() if name.startswith(TRAIN)}
    return Checkpoint(head.path, head.header, weights, training)


def find(run_or_file: str | PathLike[str], prefer: str = "best") -> Path:
    """The checkpoint file that a run directory or a path means."""
    path = Path(run_or_file)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"there is no run or checkpoint at {path}")
        return path
    choices = [path / f"{prefer}.safetensors", path / "best.safetensors", path / "last.safetensors"]
    for choice in choices:
        if choice.is_file():
            return choice
    raise InputError(f"{path} has no best.safetensors or last.safetensors: it is not a run, or nothing was saved yet")


def trained_on(checkpoint: Head | Checkpoint) -> dict[str, str]:
    """What the checkpoint records of its training data; of an older one the source that run.json beside it names; empty
    where neither says."""
    try:
        known = checkpoint.header.get("trained_on")
        if known is None:
            record = json.loads(read_text(checkpoint.path.parent / "run.json", LIMIT))
            known = {"source": record["data"]["source"]}
        return {name: value for name, value in known.items() if isinstance(value, str)}
    except (InputError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def restore(system: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Weights under the system's own names into the system; InputError where they are not all there or do not fit."""
    check_fit(system, weights, path)
    try:
        system.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = printable(" ".join(str(error).split()), 300)
        raise InputError(f"{path} does not fit {type(system).__name__}: {reason}") from None
    check_parts(system, path)


def check_parts(system: torch.nn.Module, path: Path) -> None:
    """InputError where the sizes or values that data decides, of the system or of those in it, do not fit together."""
    for part in reversed(list(system.modules())):  # those within first, since limits of others come from their outputs
        if isinstance(part, System) and not before_fit(part):
            with evaluating(part):
                try:
                    check_fitted(part, part.fitted_limits())
                except InputError as error:
                    raise InputError(f"{path} does not fit {type(part).__name__}: {error}") from None


def check_fit(system: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """InputError where names, shapes or kinds of numbers are not those of the system; either may lie on "meta"."""
    own = system.state_dict()
    fitted = fitted_names(system)
    common = [name for name in own if name in weights]
    complaints = {
        "missing": [name for name in own if name not in weights],
        "left over": [printable(name) for name in weights if name not in own],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
            for name in common
            if name not in fitted and weights[name].shape != own[name].shape
        ],
        "of another type": [
            f"{name} {_type(weights[name])} for {_type(own[name])}"
            for name in common
            if weights[name].is_floating_point() != own[name].is_floating_point()
        ],
    }
    if text := "; ".join(f"{what}: {few(names)}" for what, names in complaints.items() if names):
        raise InputError(f"{path} does not fit {type(system).__name__}: {text}")


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """InputError for numbers that are not finite."""
    # The sum alone takes no memory, but may overflow where all is well.
    if spoilt := [
        name for name, tensor in weights.items() if not tensor.sum().isfinite() and not tensor.isfinite().all()
    ]:
        names = few([printable(name) for name in spoilt])
        raise InputError(f"{path} holds numbers that are not finite, in {names}: its training has run away")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
