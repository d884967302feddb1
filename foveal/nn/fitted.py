"""What a rule learned."""

from typing import Any

import torch
from torch import Tensor, nn


class Fitted(nn.Module):
    """Tensors that a system's `fit` finds, as buffers of these names; empty before.

    Only the data tells their sizes and types, so loading gives them those of what is loaded.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0))

    def keep(self, **tensors: Tensor) -> None:
        """Take these as what was found."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    @property
    def empty(self) -> bool:
        """Whether nothing was found yet."""
        return all(not buffer.numel() for buffer in self.buffers())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if (given := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(given, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def fitted_names(system: nn.Module) -> set[str]:
    """Names of the tensors whose sizes and types the data decides."""
    holders = [(name, module) for name, module in system.named_modules() if isinstance(module, Fitted)]
    return {f"{holder}.{name}" for holder, module in holders for name, _ in module.named_buffers(recurse=False)}
