"""The one file format: tensors in safetensors, everything else as JSON in its header. Never pickle.

A checkpoint holds the weights under the system's own parameter names, and in its header what rebuilds the system: name,
variant, class names, preprocessing, configuration, metrics, licence. `last.safetensors` also holds the training state,
under names that begin with "train/".
"""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import foveal
from foveal.catalog import create
from foveal.errors import InputError
from foveal.system import Preprocess, System

FORMAT = 1
TRAIN = "train/"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. header: the JSON part; weights: the system's state; state: that of training, if asked for."""

    path: Path
    header: dict[str, Any]
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


def describe(system: System) -> dict[str, Any]:
    """The part of a header that rebuilds the system."""
    return {
        "task": system.task,
        "name": system.name,
        "variant": {name: value for name, value in system.variant.items() if name not in ("preprocess", "image_size")},
        "labels": list(system.labels),
        "preprocess": asdict(system.preprocess),
        "licence": system.licence,
    }


def save(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint so that at any moment the path holds either the old file or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    # A copy of each tensor that shares memory with another: safetensors stores each on its own.
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in whole.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            whole[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    try:
        record = {"format": FORMAT, "foveal": foveal.__version__, **header}
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(whole, temporary, {"foveal": json.dumps(record)})
        temporary.chmod(mode)  # that of other files here; safetensors lets nobody but the owner read its own
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "no space left on the device" if full else str(error)
        advice = "free some space and go on with --resume" if full else "go on with --resume"
        kept = f"; {path} still holds the state before" if path.exists() else ""
        raise InputError(f"cannot write {path}: {reason}{kept}; {advice}") from None


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


def load(run_or_checkpoint: str | PathLike[str], *, system: System | None = None) -> System:
    """The trained system of a run (its best weights) or of a checkpoint file, in evaluation mode.

    system: an object of your own class to load into; needed where the system is not in the catalog.

    Raises InputError for a file that is missing, truncated, of another system, or a pickle, which is never executed.
    """
    checkpoint = read(run_or_checkpoint)
    header = checkpoint.header
    if missing := {"name", "variant", "labels", "preprocess", "licence"} - header.keys():
        raise InputError(f"{checkpoint.path} holds no system: its header lacks {', '.join(sorted(missing))}")
    if system is None:
        if header["name"] is None:
            raise InputError(
                f"{checkpoint.path} holds a system that is not in the catalog: build it and use load(..., system=yours)"
            )
        system = _rebuild(checkpoint)
    load_weights(system, checkpoint.weights, checkpoint.path)
    system.licence = header["licence"]
    return system.eval()


def _rebuild(checkpoint: Checkpoint) -> System:
    """The system that the header describes, its weights not yet loaded."""
    header = checkpoint.header
    try:
        return create(
            header["name"],
            labels=header["labels"],
            preprocess=Preprocess(**{name: _tuple(value) for name, value in header["preprocess"].items()}),
            **{name: _tuple(value) for name, value in header["variant"].items()},
        )
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None
    except Exception as error:  # a damaged header can say anything
        raise InputError(f"the header of {checkpoint.path} describes no system: {error!r}") from None


def load_weights(system: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Weights under the system's own names into the system; InputError where they are not all there or do not fit."""
    try:
        system.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} does not fit {type(system).__name__}: {reason}") from None


def _tuple(value: Any) -> Any:
    """JSON has no tuples; the records of a system have no lists."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def flatten(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """A nest of dicts, lists, numbers and tensors as JSON, with its tensors moved to `tensors` under prefixed names."""
    if isinstance(tree, Tensor):
        tensors[prefix] = tree
        return {"tensor": prefix}
    if isinstance(tree, dict):
        return {"dict": [[key, flatten(value, f"{prefix}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [flatten(value, f"{prefix}/{number}", tensors) for number, value in enumerate(tree)]}
    return tree


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest that `flatten` took apart; tuples come back as lists."""
    match tree:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": items}:
            return {key: unflatten(value, tensors) for key, value in items}
        case {"list": items}:
            return [unflatten(value, tensors) for value in items]
    return tree
