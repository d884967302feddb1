"""Tensors that a system's `fit` finds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.ops.checks import check


class Fitted(nn.Module):
    """Buffers whose sizes come from data; they are empty before `fit`, and loading gives them the sizes of the file.

    layouts: buffer -> its shape and type as ops/checks.py writes them, "N D" or "N integers". Floats are the default.
    """

    def __init__(self, **layouts: str) -> None:
        super().__init__()
        self.layouts = layouts
        for name, layout in layouts.items():
            self.register_buffer(name, torch.empty(0, dtype=torch.int64 if layout.endswith("integers") else None))

    def keep(self, **tensors: Tensor) -> None:
        """Replace the buffers of these names."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    @property
    def empty(self) -> bool:
        """Whether all buffers are empty."""
        return all(not buffer.numel() for buffer in self.buffers())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if (given := state_dict.get(prefix + name)) is not None:
                setattr(self, name, buffer.new_empty(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def fitted_names(system: nn.Module) -> set[str]:
    """Names of the tensors whose sizes come from data."""
    holders = [(name, module) for name, module in system.named_modules() if isinstance(module, Fitted)]
    return {f"{holder}.{name}" for holder, module in holders for name, _ in module.named_buffers(recurse=False)}


def before_fit(system: nn.Module) -> bool:
    """Whether a system's own Fitted parts are as they were before `fit`; also where it has none."""
    return all(buffer.shape == (0,) for part in _own(system).values() for buffer in part.buffers())


def check_fitted(system: nn.Module, limits: Mapping[str, int | range]) -> None:
    """InputError where a system's own Fitted parts do not have their layouts.

    limits: size of an axis, or the range that it lies in, by its letter in the layouts; and the range of the values of
            a buffer of integers, by the buffer's name.
    """
    tensors: dict[str, tuple[Tensor, str]] = {}
    for holder, part in _own(system).items():
        for name, layout in part.layouts.items():
            tensor, axes = part.get_buffer(name), layout.split()
            fixed = [str(limits[axis]) if isinstance(limits.get(axis), int) else axis for axis in axes]
            tensors[f"{holder}.{name}"] = tensor, " ".join(fixed)
            for size, axis in zip(tensor.shape, axes, strict=False):
                if isinstance(within := limits.get(axis), range) and size not in within:
                    raise InputError(f"{holder}.{name} has {axis} = {size:,}; {axis} is {_text(within)}")
    check(type(system).__name__, **tensors)
    for name, (tensor, _) in tensors.items():
        within = limits.get(name.rpartition(".")[2])
        if isinstance(within, range) and tensor.numel():
            for value in (int(tensor.min()), int(tensor.max())):
                if value not in within:
                    raise InputError(f"{name} has the value {value:,}; values are {_text(within)}")


def _own(system: nn.Module) -> dict[str, Fitted]:
    """The Fitted parts of a system itself, not of the systems in it."""
    return {name: part for name, part in system.named_children() if isinstance(part, Fitted)}


def _text(within: range) -> str:
    return f"{within.start:,} to {within.stop - 1:,}" if within.stop < UNBOUNDED else f"{within.start:,} or more"


UNBOUNDED = 2**63 - 1
