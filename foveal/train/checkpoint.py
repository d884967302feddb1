"""The one file format: tensors in safetensors, everything else as JSON in its header. Never pickle.

A checkpoint holds the weights under the system's own parameter names, and in its header what rebuilds the system: name,
variant, class names, preprocessing, configuration, metrics, licence. `last.safetensors` also holds the training state,
under names that begin with "train/". What reads them is in weights/saved.py, for systems may be made of saved ones.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import foveal
from foveal.catalog import describe
from foveal.errors import InputError
from foveal.weights.saved import FORMAT, TRAIN, Checkpoint, find, read, restore

__all__ = ["TRAIN", "Checkpoint", "describe", "find", "flatten", "read", "restore", "save", "unflatten"]


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
