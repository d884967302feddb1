"""Norms of feature maps, as a choice by name: y = gamma (x - E[x]) / (Var[x] + eps)^0.5 + beta, gamma and beta for each
channel. They differ in what the mean and the variance are taken of, of maps (B, C, H, W):

    batch     (B, H, W) for each channel, and in evaluation their running means    Ioffe and Szegedy 2015, 1502.03167
    layer     (C, H, W) for each image                                             Ba et al. 2016, 1607.06450
    instance  (H, W) for each image and channel                                    Ulyanov et al. 2016, 1607.08022
    group     (C / G, H, W) for each image and each of G groups of channels        Wu and He 2018, 1803.08494
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "layer", "instance", "group"]
MOST_GROUPS = 32  # as in the paper


def groups(channels: int) -> int:
    """The largest number of groups up to 32 that leaves each of them two channels or more."""
    return max(n for n in range(1, MOST_GROUPS + 1) if channels % n == 0 and (n == 1 or channels // n >= 2))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(groups(channels), channels),
}


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by statistics and affine terms that do not learn: y = weight (x - mean) / sqrt(var + eps) +
    bias. What a trained one becomes where batches are too small to take statistics of."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def freeze_norms(module: nn.Module) -> None:
    """Put a FrozenBatchNorm in the place of each batch norm inside a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            module.set_submodule(name, FrozenBatchNorm(child))
        else:
            freeze_norms(child)
