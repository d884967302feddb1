"""Convolutions over a grid in the order in which it is read: row by row, each from left to right, and within a pixel
channel by channel. van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv:1601.06759, section 3.4.

A kernel has n x n taps, n odd, of which those after the middle are masked. Rows that are masked as a whole are left
out, so that kernels are ceil(n / 2) x n (van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu 2016,
arXiv:1606.05328, section 2.2).

Each feature belongs to a channel of the pixel, and may know as much as that channel. So the middle tap goes from
features of channel a to those of channel b only if a < b (mask A, which a first layer has, for it sees the channels
themselves) or a <= b (mask B).

A grid can be made pixel by pixel: with a `Memory` these layers are given one pixel, or one row, after the other, and
keep what later ones see of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad


def channel_of(features: int, channels: int) -> Tensor:
    """(features,) int64: which of a pixel's channels each feature belongs to, in parts that are as equal as can be."""
    return torch.arange(features) * channels // features


class Memory:
    """Where in a grid one is, and what layers keep of what they saw before; to be given to layers as they are called.

    width:       of the grid, in pixels.
    row, column: of the pixel that layers are asked for. Pixels come in the order of reading; one may be asked for
                 several times before the next.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.row = self.column = 0
        self.kept: dict[nn.Module, Callable[[Tensor], Tensor]] = {}

    def ask(
        self, layer: nn.Module, x: Tensor, begin: Callable[[Tensor, "Memory"], Callable[[Tensor], Tensor]]
    ) -> Tensor:
        """What the layer answers to x; `begin` makes of the first x what answers from then on."""
        if layer not in self.kept:
            self.kept[layer] = begin(x, self)
        return self.kept[layer](x)


class CausalConv2d(nn.Conv2d):
    """A pixel sees the rows above, what lies at the left, and of itself what its masks allow.

    (B, inputs, H, W) -> (B, outputs, H, W); with a memory (n, inputs) -> (n, outputs), of one pixel. Mask A with a
    memory is given all that its kernel covers, (n, inputs, *kernel_size): what the pixel is shows only later.

    ins, outs: (inputs,), (outputs,) int64, the channel of each feature.
    own:       mask B, and not A.
    above:     without it, only its own row: the kernel is 1 x ceil(n / 2).
    """

    mask: Tensor

    def __init__(self, ins: Tensor, outs: Tensor, kernel: int = 1, *, own: bool = True, above: bool = True) -> None:
        self.own, self.side = own, kernel // 2
        self.above = self.side if above else 0
        columns = 2 * self.side + 1 if self.above else self.side + 1
        super().__init__(len(ins), len(outs), (self.above + 1, columns))
        mask = torch.ones(self.weight.shape)
        mask[:, :, -1, self.side] = (outs[:, None] >= ins if own else outs[:, None] > ins).float()
        mask[:, :, -1, self.side + 1 :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        if memory is not None:
            return memory.ask(self, x, self._asked_by_pixel)
        right = self.kernel_size[1] - 1 - self.side
        return conv2d(pad(x, (self.side, right, self.above, 0)), self.weight * self.mask, self.bias)

    def _asked_by_pixel(self, x: Tensor, memory: Memory) -> Callable[[Tensor], Tensor]:
        taps, bias = self.weight * self.mask, self.bias
        if not (self.own and self.side):  # there is nothing to keep
            weight = taps.flatten(1)
            return lambda x: linear(x.flatten(1), weight, bias)
        # What is kept of the last rows lies column by column, (n, columns, rows, inputs), so that what the kernel
        # covers is one piece of it, which is multiplied where it lies.
        weight = taps.permute(0, 3, 2, 1).flatten(1)
        rows, side, inputs = self.above + 1, self.side, x.shape[1]
        seen = x.new_zeros(len(x), memory.width + 2 * side, rows, inputs)
        flat, row = seen.flatten(1), memory.row

        def answer(x: Tensor) -> Tensor:
            nonlocal row
            if memory.row != row:
                row = memory.row
                seen.copy_(seen.roll(-1, 2))
                seen[:, :, -1] = 0
            start = memory.column * rows * inputs
            own = start + ((side + 1) * rows - 1) * inputs
            flat[:, own : own + inputs] = x
            return linear(flat[:, start : start + weight.shape[1]], weight, bias)

        return answer


class AboveConv2d(nn.Conv2d):
    """A pixel sees the rows above, as far to both sides as the kernel reaches, and its own row or not.

    (B, inputs, H, W) -> (B, outputs, H, W); with a memory (n, inputs, 1, W) -> (n, outputs, 1, W), of one row: the
    lowest that is seen.

    own: its own row is seen too.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, own: bool) -> None:
        self.own, self.above = own, kernel // 2
        super().__init__(inputs, outputs, (self.above + own, kernel), padding=(0, self.above))

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        if memory is not None:
            return memory.ask(self, x, self._asked_by_row)
        return super().forward(pad(x, (0, 0, self.above, 0 if self.own else -1)))

    def _asked_by_row(self, x: Tensor, memory: Memory) -> Callable[[Tensor], Tensor]:
        seen = x.new_zeros(*x.shape[:2], self.kernel_size[0], memory.width)  # the last rows

        def answer(x: Tensor) -> Tensor:
            seen.copy_(seen.roll(-1, 2))
            seen[:, :, -1:] = x
            return super(AboveConv2d, self).forward(seen)

        return answer
