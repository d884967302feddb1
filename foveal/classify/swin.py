"""The Swin Transformer: Liu, Lin, Cao, Hu, Wei, Zhang, Lin and Guo 2021, "Swin Transformer: hierarchical vision
transformer using shifted windows", arXiv:2103.14030.

Attention within windows of M x M tokens, whose cost grows with the image's area and not with its square. In every other
block the windows are shifted by half their side, so that what was apart comes together; between stages 2 x 2 tokens
become one, so that maps shrink as those of a convolutional network:

    z_l = block_l(z_{l-1})                              equation 3: foveal/nn/attention.py, within windows
    attention = softmax(q k^T / sqrt(d) + B) v          equation 4; B is learned for each head and offset
    merge(z) = norm([z(2i, 2j); z(2i+1, 2j); z(2i, 2j+1); z(2i+1, 2j+1)]) W

Windows are shifted by rolling the map: what leaves at the top comes back at the bottom, and a mask keeps tokens apart
that only rolling has brought together. A map that windows do not tile is padded with zeros below and at the right,
after the norm; they are attended to, as in the published code. Where one window covers the map, nothing is shifted.

Departs from the paper as ViT does in foveal/classify/vit.py: stochastic depth grows from the first block, not from the
second; the mask is -inf, not -100. Pixels beyond the last whole patch are not seen, as in torchvision.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_unshuffle

from foveal.classify.classifier import Classifier, ClassifierSpec, last
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.attention import EncoderBlock, SelfAttention
from foveal.nn.stochastic_depth import linear_rule
from foveal.system import Preprocess

EPS = 1e-5  # in every norm


@dataclass(frozen=True)
class SwinSpec(ClassifierSpec):
    """
    patch:            side of a patch in pixels.
    width:            channels of a token in the first stage, doubled by each next one.
    depths:           blocks in each stage; every second one has shifted windows.
    heads:            of the attention in each stage, by which its width is divided.
    window:           side of a window in tokens.
    mlp_ratio:        width in the middle of each block's mlp, as a multiple of the block's.
    dropout:          probability, of the embedded patches and after each matrix but those of q, k and v.
    stochastic_depth: drop probability of the last block's branches, growing linearly from the first.
    """

    patch: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.heads):
            raise InputError(
                f"depths and heads must have a number for each stage, not {len(self.depths)} and {len(self.heads)}"
            )
        if min(self.patch, self.width, *self.depths, *self.heads, self.window, self.mlp_ratio * self.width) < 1:
            raise InputError("patch, width, depths, heads, window and the width of the mlp must be at least 1")
        check_drop("dropout", self.dropout)


def cut(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> windows (B, H / M, W / M, M M, C), each row by row."""
    return x.unflatten(1, (-1, window)).unflatten(3, (-1, window)).transpose(2, 3).flatten(3, 4)


def join(windows: Tensor, window: int) -> Tensor:
    """(B, H / M, W / M, M M, C) -> (B, H, W, C)."""
    return windows.unflatten(3, (window, window)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class WindowAttention(nn.Module):
    """Attention within windows, on a map of any size: (B, H, W, C) -> (B, H, W, C).

    table: ((2 M - 1)^2, heads), the bias for each offset between two tokens of a window, row by row.
    """

    index: Tensor

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.inside = SelfAttention(width, heads)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        row, column = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
        down, right = (place[:, None] - place + window - 1 for place in (row, column))  # (M M, M M) from 0 to 2 M - 2
        self.register_buffer("index", (2 * window - 1) * down + right, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        shifts = [self.shift if side > self.window else 0 for side in x.shape[1:3]]
        windows = cut(x.roll([-shift for shift in shifts], (1, 2)), self.window)
        windows = self.inside(windows, self.bias(x.shape[1:3], shifts))
        return join(windows, self.window).roll(shifts, (1, 2))[:, :height, :width]

    def bias(self, size: Sequence[int], shifts: Sequence[int]) -> Tensor:
        """What is added to the products of queries and keys, for a padded map: (heads, M M, M M), or with a shift
        (H / M, W / M, heads, M M, M M)."""
        bias = self.table[self.index].permute(2, 0, 1)
        if not any(shifts):
            return bias
        # Rolling has brought the last rows, and columns, from the other side.
        rolled = [torch.arange(n, device=bias.device) >= n - shift for n, shift in zip(size, shifts, strict=True)]
        part = 2 * rolled[0].long()[:, None] + rolled[1]  # (H, W): tokens of one number were neighbours
        parts = cut(part[None, :, :, None], self.window)[0, ..., 0]  # (H / M, W / M, M M)
        apart = parts[..., :, None] != parts[..., None, :]
        return bias + torch.zeros_like(apart, dtype=bias.dtype).masked_fill(apart, -inf)[:, :, None]


class Stem(nn.Module):
    """Patches of p x p pixels, each through one linear map and a norm: (B, C, H, W) -> (B, H / p, W / p, width)."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(channels * patch**2, width)
        for numbers in (self.linear.weight, self.linear.bias):  # without a bias the norm makes all shades of grey alike
            nn.init.normal_(numbers, std=self.linear.in_features**-0.5)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (side // self.patch * self.patch for side in x.shape[2:])
        x = pixel_unshuffle(x[:, :, :rows, :columns], self.patch)  # (B, C p p, H / p, W / p)
        return self.norm(self.linear(x.permute(0, 2, 3, 1)))


class Merge(nn.Module):
    """2 x 2 tokens into one: (B, H, W, C) -> (B, H / 2, W / 2, 2 C), rounded up with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, EPS)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], 3)  # (B, H / 2, W / 2, 4 C)
        return self.reduction(self.norm(x))


def stage(spec: SwinSpec, number: int, drops: Sequence[float]) -> nn.Sequential:
    """(B, H, W, C) -> (B, H, W, C), one block for each drop probability."""
    width = spec.width * 2**number
    blocks = []
    for place, drop in enumerate(drops):
        shift = spec.window // 2 if place % 2 else 0
        blocks.append(
            EncoderBlock(
                width,
                spec.heads[number],
                int(spec.mlp_ratio * width),
                dropout=spec.dropout,
                stochastic_depth=drop,
                eps=EPS,
                attention=partial(WindowAttention, window=spec.window, shift=shift),
            )
        )
    return nn.Sequential(*blocks)


class Swin(Classifier):
    """Images are (B, 3, H, W) of at least one patch; maps between stages are (B, h, w, C)."""

    spec: SwinSpec

    def __init__(self, spec: SwinSpec) -> None:
        super().__init__(spec)
        self.check_smallest(spec.preprocess.size, spec.patch)
        drops = linear_rule(spec.stochastic_depth, sum(spec.depths))
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, depth in enumerate(spec.depths):
            if number:
                parts[f"merge{number}"] = Merge(spec.width * 2 ** (number - 1))
            parts[f"stage{number + 1}"] = stage(spec, number, drops[:depth])
            drops = drops[depth:]
        width = spec.width * 2 ** (len(spec.depths) - 1)
        self.stem = Stem(spec.preprocess.channels, spec.patch, spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts = tuple(parts)
        self.norm = nn.LayerNorm(width, EPS)
        self.classifier = nn.Linear(width, len(spec.labels))
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        self.check_smallest(images.shape[2:], self.spec.patch)
        x = last(self._stages(self.normalize(images)))
        return self.classifier(self.norm(x).mean((1, 2)))

    def _stages(self, x: Tensor) -> Iterator[Tensor]:
        x = self.dropout(self.stem(x))  # (B, H / 4, W / 4, 96) for swin_t
        for name in self.parts:
            x = self.get_submodule(name)(x)  # stage4: (B, H / 32, W / 32, 768), rounded up
            if name.startswith("stage"):
                yield x

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        return map(self.as_map, self._stages(x))

    @property
    def explained_layer(self) -> str:
        return "norm"

    def as_map(self, activation: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, C, h, w)."""
        return super().as_map(activation).permute(0, 3, 1, 2)


# Appendix A2.1 of the paper, with the rate of its batches of 1024 brought down to ours by the square root.
RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 0.05, "clip": 5.0, "warmup": 0.5}
RECIPE |= {"crop_scale": (0.08, 1.0), "flip": True, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
SWIN_T = SwinSpec(IMAGENET_1K, Preprocess(crop=224 / 232, interpolation="bicubic"), RECIPE, stochastic_depth=0.2)

VARIANTS = {
    "swin_t": SWIN_T,
    "swin_s": replace(
        SWIN_T,
        preprocess=replace(SWIN_T.preprocess, crop=224 / 246),
        depths=(2, 2, 18, 2),
        stochastic_depth=0.3,
    ),
    "swin_b": replace(
        SWIN_T,
        preprocess=replace(SWIN_T.preprocess, crop=224 / 238),
        width=128,
        depths=(2, 2, 18, 2),
        heads=(4, 8, 16, 32),
        stochastic_depth=0.5,
    ),
    "swin_nano": SwinSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, (0.5,) * 3, (0.5,) * 3),
        {"epochs": 40, "lr": 0.002, "weight_decay": 0.05, "warmup": 0.5, "shift": 0.125, "label_smoothing": 0.1},
        patch=2,
        width=32,
        depths=(2, 2),
        heads=(2, 4),
        window=4,
        mlp_ratio=2.0,
    ),
}
