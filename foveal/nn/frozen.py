"""A trained network inside another."""

import copy
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
# What torch keeps of a module under the names of its attributes.
KEPT = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


class Frozen(nn.Module, Generic[M]):
    """A copy of a trained module that stays as it is: no parameter takes a gradient, it is always in evaluation mode, a
    new initialisation leaves it out, and so does a run's average of the weights, so that a checkpoint holds it once.

    module: the copy; its methods are called on it. Its tensors have the names that they would have without this layer
            around them, "codes.encoder.weight" where `codes` is the Frozen.
    """

    module: M

    def __init__(self, module: M) -> None:
        super().__init__()
        own = copy.deepcopy(module).eval().requires_grad_(False)
        self.__dict__.update({name: vars(own)[name] for name in KEPT}, module=own, training=False)

    def train(self, mode: bool = True) -> Self:
        return self

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)


def frozen_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The Frozen modules inside, with their names."""
    for name, module in network.named_modules():
        if isinstance(module, Frozen):
            yield name, module
