"""The U-Net of diffusion models: Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models",
arXiv:2006.11239, appendix B; the shape is that of Ronneberger et al. 2015, arXiv:1505.04597.

Levels of residual blocks go down to smaller maps and up again, and on the way up each block also sees what the block
opposite to it made on the way down. At some levels, and at the bottom, each place of the map also looks at all others.
Every block gets a code of the time, sines and cosines that a small mlp transforms, to which a condition (condition.py)
adds its embedding.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from foveal.errors import InputError, check_drop
from foveal.generate.condition import Condition
from foveal.nn.attention import Attention
from foveal.ops.positions import time_code

Convention = Literal["paper", "diffusers"]


class ResidualBlock(nn.Module):
    """y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W silu(code)))). (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, channels: int, out: int, code: int, groups: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.silu1 = nn.SiLU()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_silu = nn.SiLU()
        self.time = nn.Linear(code, out)
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.silu2 = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        y = self.conv1(self.silu1(self.norm1(x)))
        y = y + self.time(self.time_silu(code))[:, :, None, None]
        return self.shortcut(x) + self.conv2(self.dropout(self.silu2(self.norm2(y))))


class MapAttention(nn.Module):
    """y = x + attention(norm(x)) among all places of the map. (B, C, H, W) -> the same."""

    def __init__(self, channels: int, heads: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = Attention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C), row by row
        return x + self.attention(tokens, tokens, tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """A residual block and, at some levels, attention."""

    def __init__(self, residual: ResidualBlock, attention: nn.Module) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.attention(self.residual(x, code))


class Halve(nn.Module):
    """A 3x3 convolution at every other place. (B, C, H, W) -> (B, C, H / 2, W / 2).

    centred: it lies around its place; else begins there, with zeros after the last row and column alone.
    """

    def __init__(self, channels: int, centred: bool) -> None:
        super().__init__()
        self.margins = (1, 1, 1, 1) if centred else (0, 1, 0, 1)
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, self.margins))


class Double(nn.Module):
    """Each pixel four times, then a 3x3 convolution. (B, C, H, W) -> (B, C, 2 H, 2 W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """(B, channels, H, W) at times (B,) -> the same shape. Height and width are multiples of 2^(levels - 1).

    Levels are `down1` ... `downN`, each at half the size of the one before, and `upN` ... `up1` opposite to them.

    channels:   of the image.
    condition:  takes the width of the code of the time and gives the layer that adds the condition to it.
    width:      channels of the first level.
    multiples:  the channels of each level as multiples of `width`.
    blocks:     residual blocks in each level on the way down; there is one more on the way up.
    attention:  the levels, counted from 1, whose places look at each other; those at the bottom always do.
    head_width: channels of a head of attention; None for one head of all of them.
    groups:     of channels, of which norms take mean and variance.
    dropout:    probability, in each residual block.
    convention: "paper" as its authors' code: strided convolutions begin at their place, norms have eps 1e-6, and in the
                code of the time sines come first, at rates 10000^(-i / (width / 2 - 1)). "diffusers" as the defaults of
                the library of that name: they are centred, eps is 1e-5, cosines come first, at 10000^(-2 i / width).
                No file of weights tells which one it was trained for.

    Weights begin by Glorot and Bengio's rule, and what each branch and the whole network end with as zero, so that at
    first blocks change nothing. Raises InputError for sizes that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        *,
        condition: Callable[[int], Condition] = Condition,
        width: int = 128,
        multiples: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (2,),
        head_width: int | None = None,
        groups: int = 32,
        dropout: float = 0.0,
        convention: Convention = "paper",
    ) -> None:
        super().__init__()
        _check(width, multiples, blocks, attention, head_width, groups)
        check_drop("dropout", dropout)
        self.width, self.paper = width, convention == "paper"
        eps = 1e-6 if self.paper else 1e-5
        code = 4 * width

        def block(channels: int, out: int, attends: bool) -> Block:
            residual = ResidualBlock(channels, out, code, groups, eps, dropout)
            heads = out // (head_width or out)
            return Block(residual, MapAttention(out, heads, groups, eps) if attends else nn.Identity())

        self.time1 = nn.Linear(width, code)
        self.time_silu = nn.SiLU()
        self.time2 = nn.Linear(code, code)
        self.classes = condition(code)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        now, left = width, [width]  # channels here, and of each map that the way up will see again
        self.levels = range(1, len(multiples) + 1)
        for level in self.levels:
            rows, out = [], width * multiples[level - 1]
            for _ in range(blocks):
                rows.append(block(now, out, level in attention))
                now = out
                left.append(out)
            self.add_module(f"down{level}", nn.ModuleList(rows))
            if level < len(multiples):
                self.add_module(f"halve{level}", Halve(out, centred=not self.paper))
                left.append(out)
        self.middle = nn.ModuleList([block(now, now, True), block(now, now, False)])
        for level in reversed(self.levels):
            rows, out = [], width * multiples[level - 1]
            for _ in range(blocks + 1):
                rows.append(block(now + left.pop(), out, level in attention))
                now = out
            self.add_module(f"up{level}", nn.ModuleList(rows))
            if level > 1:
                self.add_module(f"double{level}", Double(out))
        self.norm_out = nn.GroupNorm(groups, width, eps)
        self.silu_out = nn.SiLU()
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.zero_ends()

    def zero_ends(self) -> None:
        """Let what each branch and the whole network end with be zero."""
        for module in self.modules():
            ends = {ResidualBlock: "conv2", MapAttention: "attention.out", UNet: "conv_out"}
            if (end := ends.get(type(module))) is not None:
                nn.init.zeros_(module.get_parameter(f"{end}.weight"))

    def forward(self, x: Tensor, time: Tensor, rows: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), times (B,) and the rows of the condition -> (B, C, H, W)."""
        # In float32 whatever the type of the weights, as in what published ones were trained with.
        waves = time_code(time.float(), self.width, shift=int(self.paper))
        if not self.paper:
            waves = waves.roll(self.width // 2, -1)  # cosines first
        code = self.classes(self.time2(self.time_silu(self.time1(waves.to(x)))), rows)
        x = self.conv_in(x)
        seen = [x]
        for level in self.levels:
            for block in self.get_submodule(f"down{level}").children():
                x = block(x, code)
                seen.append(x)
            if level < len(self.levels):
                x = self.get_submodule(f"halve{level}")(x)
                seen.append(x)
        for block in self.middle:
            x = block(x, code)
        for level in reversed(self.levels):
            for block in self.get_submodule(f"up{level}").children():
                x = block(torch.cat([x, seen.pop()], 1), code)
            if level > 1:
                x = self.get_submodule(f"double{level}")(x)
        return self.conv_out(self.silu_out(self.norm_out(x)))


def _check(
    width: int, multiples: Sequence[int], blocks: int, attention: Sequence[int], head_width: int | None, groups: int
) -> None:
    if min(width, blocks, groups, *multiples, head_width or 1) < 1 or not multiples:
        raise InputError("width, multiples, blocks, groups and head_width must be at least 1")
    if width % groups or width % 2 or width < 4:
        raise InputError(f"width must be even and a multiple of groups, at least 4, not {width} for {groups} groups")
    if strange := [level for level in attention if not 1 <= level <= len(multiples)]:
        raise InputError(f"attention names level {strange[0]}, and there are {len(multiples)}")
    if head_width and any(width * multiple % head_width for multiple in multiples):
        raise InputError(f"head_width {head_width} does not divide the channels of each level")
