"""Batch normalisation folded into the convolution before it, for networks that only answer.

With running mean m, variance v, scale g and shift b, the norm of what a convolution with weight W and bias c gives,

    g (W * x + c - m) / sqrt(v + eps) + b = (s W) * x + s (c - m) + b        s = g / sqrt(v + eps), one a channel,

is itself a convolution.
"""

import copy
import dataclasses
from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from foveal.nn.norm import FrozenBatchNorm

Network = TypeVar("Network", bound=nn.Module)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, FrozenBatchNorm)


def fold_batch_norm(network: Network, example: Tensor) -> Network:
    """A copy, in evaluation mode, without the batch norms that read nothing but what one convolution gives.

    example: an input of the network, (B, ...); it shows who reads what.

    The places of the batch norms stay, as identities, so that modules keep their names. The copy's weights are no
    longer those of a checkpoint.
    """
    network = copy.deepcopy(network).eval()
    for convolution, norm in _pairs(network, example):
        _fold(network.get_submodule(convolution), network.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
    return network


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> None:
    """Give the convolution the weights that make it do the norm's work too."""
    gain = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    scale = gain / (norm.running_var + norm.eps).sqrt()
    bias = convolution.bias if convolution.bias is not None else torch.zeros_like(scale)
    convolution.bias = nn.Parameter(scale * (bias - norm.running_mean) + shift)
    convolution.weight = nn.Parameter(convolution.weight * scale.view(-1, *[1] * (convolution.weight.ndim - 1)))


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name, where each runs once and the one's output goes to the other alone."""
    made: dict[int, str] = {}
    found: list[tuple[str, str, int]] = []
    runs: Counter[str] = Counter()
    hooks = []

    def after(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            runs[name] += 1
            reads.kept.append(output)  # or its id could go to another tensor
            made[id(output)] = name

        return hook

    def before(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            runs[name] += 1
            if id(inputs[0]) in made:
                found.append((made[id(inputs[0])], name, id(inputs[0])))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS):
            hooks.append(module.register_forward_hook(after(name)))
        elif isinstance(module, NORMS) and getattr(module, "track_running_stats", True):
            hooks.append(module.register_forward_pre_hook(before(name)))
    try:
        with torch.no_grad(), _Reads() as reads:
            answers = {id(leaf) for leaf in tensors_of(network(example))}
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, norm)
        for convolution, norm, tensor in found
        if reads.count[tensor] == 1 and runs[convolution] == runs[norm] == 1 and tensor not in answers
    ]


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of an answer, in order: a tensor, or a dataclass, tuple, list or dictionary of such."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    leaves = tree_leaves(value)
    if any(dataclasses.is_dataclass(leaf) for leaf in leaves):
        return [tensor for leaf in leaves for tensor in tensors_of(leaf)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _Reads(TorchFunctionMode):
    """Counts how many functions read each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # a question about its shape reads nothing
            tensors = {id(leaf): leaf for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, Tensor)}
            self.count.update(tensors.keys())
            self.kept += tensors.values()
        return result
