"""How signals fare by depth: activations on the way to the loss, gradients on the way back.

What fades from layer to layer does not teach the early ones, what grows overflows, and what is the same in all units
stays the same: why a deep network does or does not learn often shows here before the first step.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.nn.record import record
from foveal.structures import Batch
from foveal.system import System


@dataclass(frozen=True)
class Signal:
    """The output of one layer for a batch, and the gradient of the loss with respect to it, over all their numbers.

    layer, kind:  name and type of the module.
    mean, std:    of the activations.
    zeros:        the share of the activations that are zero.
    gradient_mean, gradient_std: of the gradient. The loss is a mean over the batch, so both shrink with its size.
    """

    layer: str
    kind: str
    mean: float
    std: float
    zeros: float
    gradient_mean: float
    gradient_std: float


def signals(system: System, batch: Batch, layers: Sequence[str] | None = None, *, seed: int = 0) -> list[Signal]:
    """One Signal a layer, in the order in which a forward pass meets them.

    layers: names of modules; default all that have weights: convolutions, linear layers and the like.

    Measured as in training, by the statistics of this batch and with units dropped by `seed`, on a copy, so that the
    system stays as it is. Raises InputError for less than two images, of which batch norm has no statistics, and for a
    system without a loss or without such layers.
    """
    if len(batch) < 2:
        raise InputError(f"signals are measured as in training, on two images or more, not {len(batch)}")
    system = copy.deepcopy(system).train()
    modules = dict(system.named_modules())
    names = [name for name, module in modules.items() if _has_weights(module)] if layers is None else list(layers)
    batch = batch.to(system.device).float()
    with (
        torch.enable_grad(),
        torch.random.fork_rng([system.device] if system.device.type == "cuda" else []),
        record(system, *names) as outputs,
    ):
        torch.manual_seed(seed)
        total = torch.stack([term.float() for term in system.loss(batch).values()]).sum()
    seen = {name: y for name, y in outputs.items() if isinstance(y, Tensor) and y.requires_grad}
    if not seen or not total.requires_grad:
        raise InputError(f"{system.name or type(system).__name__} has no layer with weights that its loss depends on")
    gradients = torch.autograd.grad(total, list(seen.values()), allow_unused=True)
    found = []
    for (name, y), gradient in zip(seen.items(), gradients, strict=True):
        y = y.detach().float()
        gradient = torch.zeros_like(y) if gradient is None else gradient.float()
        of_y, of_gradient = ((float(t.mean()), float(t.std(correction=0))) for t in (y, gradient))
        kind, zeros = type(modules[name]).__name__, float((y == 0).float().mean())
        found.append(Signal(name, kind, *of_y, zeros, *of_gradient))
    return found


def _has_weights(module: nn.Module) -> bool:
    """Whether it is a layer: nothing inside it but its own weights, which have two dimensions or more."""
    return not any(True for _ in module.children()) and any(p.ndim > 1 for p in module.parameters(recurse=False))
