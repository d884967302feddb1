"""The one file format: tensors in safetensors, everything else as JSON in its header. Never pickle.

A checkpoint holds the weights under the system's own parameter names, and in its header what rebuilds the system: name,
variant, class names, preprocessing, configuration, metrics, licence. `last.safetensors` also holds the training state,
under names that begin with "train/". What reads them is in weights/saved.py, for systems may be made of saved ones.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import foveal
from foveal.build import describe
from foveal.errors import InputError
from foveal.filesystem import replacing
from foveal.weights.saved import FORMAT, TRAIN, Checkpoint, find, read, restore

__all__ = ["TRAIN", "Checkpoint", "describe", "find", "flatten", "read", "restore", "save", "unflatten"]

_FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be that large here",
}


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """An InputError on writing a file of a run also says how the run can go on."""
    try:
        yield
    except InputError as error:
        full = [reason for number, reason in _FULL.items() if os.strerror(number) in str(error)]
        text = f"cannot write {path}: {full[0]}" if full else str(error)
        kept = f"; {path} still holds the state before" if path.suffix == ".safetensors" and path.exists() else ""
        go_on = "go on with --resume" if (path.parent / "run.json").exists() else "start again"
        raise InputError(f"{text}{kept}; {'free some space and ' if full else ''}{go_on}") from None


def save(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint so that at any moment the path holds either the old file or the new one, whole."""
    # A copy of each tensor that shares memory with another: safetensors stores each on its own.
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in whole.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            whole[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    record = {"format": FORMAT, "foveal": foveal.__version__, **header}
    with resumable(path):
        try:
            with replacing(path) as file:
                save_file(whole, Path(file.name), {"foveal": json.dumps(record)})
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {error}") from None


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
