"""Local attention in place of convolution: Ramachandran, Parmar, Vaswani, Bello, Levskaya and Shlens 2019, "Stand-alone
self-attention in vision models", arXiv:1906.05909 (SASA); with other weights of the neighbours, Hu, Zhang, Xie and Lin
2019, "Local relation networks", arXiv:1904.11491.

A residual network whose 3x3 convolutions are attention to the k x k places N(i) about each place i, for each head:

    y_i = sum_j softmax_j(q_i . k_j + q_i . r_(j - i)) v_j,  j in N(i)       equation 3 of the paper

q = W_q x, k = W_k x and v = W_v x are 1x1 convolutions, r_(j - i) is learned: one half for the rows from i to j, the
other for the columns. So the weights of neighbours depend on what they show, and parameters do not grow with k^2: three
matrices in place of nine. Where a convolution had a stride, 2x2 averages follow the attention. The stem stays as it is
("convolution stem + attention" in the paper's Table 1).

Memory: the k x k neighbours of all places, keys and values, are 2 k^2 times the map, about 100 times it for k = 7. They
are made for one head after the other, and made again in the backward pass instead of being kept, so that in training as
in use it is one head's share of this.

Departs from the paper, which does not say: neighbours that lie outside the map are left out of the softmax, and each
head has its own r.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.classify.resnet import HALVES, IMAGENET_RECIPE, Block, ResNet, ResNetSpec, convolution
from foveal.errors import InputError
from foveal.system import Preprocess


@dataclass(frozen=True)
class LocalAttentionSpec(ResNetSpec):
    """
    extent: side k of the square of places that each place attends to, odd.
    heads:  of each attention, whose channels are a multiple of twice as many.
    """

    extent: int = 7
    heads: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extent < 1 or self.extent % 2 == 0:
            raise InputError(f"extent must be odd and at least 1, not {self.extent}")
        if self.heads < 1 or self.width * self.width_per_group // 64 % (2 * self.heads):
            raise InputError(f"the width must be a multiple of twice the number of heads, not {self.width}")
        if self.preactivation or self.groups > 1 or self.stride_in_1x1:
            raise InputError("local attention is for blocks without preactivation, groups and stride_in_1x1")


def neighbours(x: Tensor, extent: int) -> Tensor:
    """(B, H + k - 1, W + k - 1, C) -> (B, H, W, k^2, C), k = extent: for each place the square about it, by rows."""
    height, width = x.shape[1] - extent + 1, x.shape[2] - extent + 1
    shifted = [x[:, a : a + height, b : b + width] for a in range(extent) for b in range(extent)]
    return torch.stack(shifted, 3)


def attend_locally(q: Tensor, k: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """softmax_j(q_i . k_j + q_i . r_(j - i)) v_j, summed over the places j near i.

    q, k, v: (B, H, W, d).
    r:       (extent^2, d), by rows.

    Returns (B, H, W, d). Holds 2 extent^2 tensors of the size of k.
    """
    extent = round(len(r) ** 0.5)
    border = (0, 0, *[extent // 2] * 4)
    logits = neighbours(pad(k, border), extent) @ q.unsqueeze(4) + (q @ r.T).unsqueeze(4)  # (B, H, W, extent^2, 1)
    outside = pad(k.new_zeros(1, *k.shape[1:3], 1), border, value=float("-inf"))
    weights = (logits + neighbours(outside, extent)).softmax(3)
    return (weights.transpose(3, 4) @ neighbours(pad(v, border), extent)).squeeze(3)


class LocalAttention(nn.Module):
    """Attention to `extent` x `extent` places, then averages of `stride` x `stride`.

    (B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels: int, out: int, extent: int, heads: int, stride: int) -> None:
        super().__init__()
        self.query = convolution(channels, out, 1)
        self.key = convolution(channels, out, 1)
        self.value = convolution(channels, out, 1)
        half = out // heads // 2
        self.rows = nn.Parameter(torch.randn(heads, extent, half) * out**-0.5)
        self.columns = nn.Parameter(torch.randn(heads, extent, half) * out**-0.5)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        heads, extent, half = self.rows.shape
        rows = self.rows.unsqueeze(2).expand(-1, -1, extent, -1)  # (heads, extent, extent, half)
        columns = self.columns.unsqueeze(1).expand(-1, extent, -1, -1)
        r = torch.cat([rows, columns], 3).flatten(1, 2)  # (heads, extent^2, d)
        q, k, v = (
            conv(x).unflatten(1, (heads, 2 * half)).permute(1, 0, 3, 4, 2)  # (heads, B, H, W, d)
            for conv in (self.query, self.key, self.value)
        )
        outputs = [
            checkpoint(attend_locally, *head, use_reentrant=False, preserve_rng_state=False)
            if torch.is_grad_enabled()
            else attend_locally(*head)
            for head in zip(q, k, v, r, strict=True)
        ]
        return self.pool(torch.cat(outputs, 3).permute(0, 3, 1, 2))


class LocalAttentionBlock(Block):
    """A residual block with attention in place of its 3x3 convolutions: `branch.attentionN` in place of `convN`."""

    def __init__(self, spec: LocalAttentionSpec, channels: int, width: int, stride: int, drop: float) -> None:
        super().__init__(spec, channels, width, stride, drop)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for name, layer in self.branch.named_children():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                name = name.replace("conv", "attention")
                sizes = layer.in_channels, layer.out_channels, spec.extent, spec.heads, layer.stride[0]
                layer = LocalAttention(*sizes)
            layers[name] = layer
        self.branch = nn.Sequential(layers)


class LocalAttentionResNet(ResNet):
    """Images are (B, 3, H, W) of any size. Stages are `stage1` ... `stageN`; each after the first halves the maps."""

    spec: LocalAttentionSpec

    def __init__(self, spec: LocalAttentionSpec) -> None:
        super().__init__(spec, block=LocalAttentionBlock)
        for module in self.modules():
            if isinstance(module, LocalAttention):
                # No relu follows; queries are fainter, since products of d channels have no root of d to tame them.
                d = 2 * module.rows.shape[2]
                for conv, gain in ((module.query, d**-0.5), (module.key, 1.0), (module.value, 1.0)):
                    nn.init.normal_(conv.weight, std=gain * conv.in_channels**-0.5)


SASA50 = LocalAttentionSpec(IMAGENET_1K, Preprocess(), IMAGENET_RECIPE, block="bottleneck", depths=(3, 4, 6, 3))

VARIANTS = {
    "sasa_resnet26": replace(SASA50, depths=(1, 2, 4, 1)),
    "sasa_resnet38": replace(SASA50, depths=(2, 3, 5, 2)),
    "sasa_resnet50": SASA50,
    "sasa_nano": LocalAttentionSpec(
        DIGITS,
        Preprocess((8, 8), "squash", 1.0, HALVES, HALVES),
        {"epochs": 20, "lr": 0.01, "shift": 0.125},
        depths=(1, 1),
        width=16,
        stem="3x3",
        extent=3,
        heads=2,
    ),
}
