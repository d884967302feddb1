"""foveal's own checkpoints, read: tensors in safetensors, everything else as JSON in the header. Never pickle.

What writes them, and what they hold, is in train/checkpoint.py.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import foveal
from foveal.errors import InputError
from foveal.filesystem import read_text

FORMAT = 1
LIMIT = 2**28  # bytes of run.json, which lists unreadable images, or of metrics.jsonl
TRAIN = "train/"  # begins the names of what is kept for going on with the training


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. header: the JSON part; weights: the system's state; state: that of training, if asked for."""

    path: Path
    header: dict[str, Any]
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


def read(run_or_file: str | PathLike[str], *, state: bool = False, prefer: str = "best") -> Checkpoint:
    """The checkpoint at a path, or the `prefer`red one ("best", "last") of a run directory.

    Raises InputError for anything that is not a whole foveal checkpoint. A pickle is refused without being opened.
    """
    path = find(run_or_file, prefer)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    # safetensors begin with eight bytes of length and a brace; a pickle, alone or in a zip, with its own marks.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise InputError(
            f"{path} is a pickle, which can run code when opened, and was not opened; "
            "foveal's checkpoints are safetensors. Published weights go to create(NAME, weights=FILE)"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if state or not name.startswith(TRAIN)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file, it may be truncated: {error}") from None
    if "foveal" not in metadata:
        raise InputError(f"{path} is not a checkpoint of foveal; published weights go to create(NAME, weights=FILE)")
    try:
        header = json.loads(metadata["foveal"])
        newer, writer = header["format"] > FORMAT, header["foveal"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the header of {path} is damaged: {error!r}") from None
    if newer:
        raise InputError(f"{path} was written by a newer foveal ({writer}); this is {foveal.__version__}")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAIN)}
    training = {name[len(TRAIN) :]: tensor for name, tensor in tensors.items() if name.startswith(TRAIN)}
    return Checkpoint(path, header, weights, training)


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


def trained_on(checkpoint: Checkpoint) -> dict[str, str]:
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
    try:
        system.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} does not fit {type(system).__name__}: {reason}") from None
