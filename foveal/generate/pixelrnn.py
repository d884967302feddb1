"""PixelRNN: van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel recurrent neural networks", arXiv:1601.06759.

A PixelCNN (pixelcnn.py) whose blocks are LSTMs, which carry what they know as far as the image goes:

    o, f, i, g = K * h' + L * x                      * a convolution, h' and c' the states before            equation 3
    c = sigmoid(f) c' + sigmoid(i) tanh(g)
    h = sigmoid(o) tanh(c)
    block: y = x + 1 x 1 from h to 2h features                                                               figure 5

Row LSTM: the states before are those of the row above, from which K takes 3 at a time, and L sees a pixel and the one
at its left. So a pixel knows a triangle above it, and is blind for what lies beside that.

Diagonal BiLSTM: the states before are those at the left and above, so that a pixel knows all of the rectangle that ends
in it. With each row moved one place to the right of the row above, these are two neighbours in the column before, and
the map is scanned column by column. A second scan goes from the right. It is added one row further down, for what is
at the right of a pixel in its own row comes after it. L is 1 x 1. Together they know all that comes before, but for one
number: the last one of the row above, which the first layer only tells of to the row below, as far as it reaches.

Conditional, what is known of the class is added to what goes into the gates of each layer, as in gated_pixelcnn.py.

Departs from the paper: residual connections are the only ones, without those from each layer to the output. K has no
bias, as L has one, so that states outside the image stay zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.generate.autoregressive import Autoregressive
from foveal.generate.generator import LEVELS, GeneratorSpec
from foveal.generate.pixelcnn import (
    COLOUR,
    NANO_RECIPE,
    RECIPE,
    ResidualNetwork,
    check_network,
    features_of,
    grey,
    with_class,
)
from foveal.nn.masked import CausalConv2d, Memory

KERNEL = 3  # of the Row LSTM


@dataclass(frozen=True)
class PixelRNNSpec(GeneratorSpec):
    """
    diagonal: Diagonal BiLSTM, not Row LSTM.
    width:    features of a state, h; there are 2h between blocks.
    layers:   how many LSTMs.
    first:    side of the convolution before them.
    head:     features of the last layer but one.
    """

    diagonal: bool = False
    width: int = 128
    layers: int = 12
    first: int = 7
    head: int = 1024

    def __post_init__(self) -> None:
        check_network(self.width, self.layers, KERNEL, self.first, self.head)


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the gates o, f, i, g, (B, 4h, ...), and c before (B, h, ...) -> h and c."""
    o, f, i, g = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def scan(gates: Tensor, state: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, 4h, T, N), what T lines after each other see, and what each is told by the states (B, h, N) of the line
    before, -> (B, h, T, N)."""
    h = c = gates.new_zeros(len(gates), gates.shape[1] // 4, gates.shape[3])
    lines = []
    for line in gates.unbind(2):
        h, c = cell(line + state(h), c)
        lines.append(h)
    return torch.stack(lines, 2)


def skew(x: Tensor) -> Tensor:
    """(B, F, H, W) -> (B, F, H, W + H - 1), each row one place further to the right than the row above, zero beside."""
    height, width = x.shape[2:]
    return pad(x, (0, height)).flatten(2)[..., :-height].unflatten(2, (height, width + height - 1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`."""
    height, width = x.shape[2], x.shape[3] - x.shape[2] + 1
    return pad(x.flatten(2), (0, height)).unflatten(2, (height, width + height))[..., :width]


class States:
    """What is kept of the states of the row above and of a row so far, (n, width + 2, h) each of h and c, zero outside
    the grid, where an LSTM is asked for pixel by pixel."""

    def __init__(self, gates: Tensor, memory: Memory) -> None:
        self.memory, self.row = memory, memory.row
        shape = (2, len(gates), memory.width + 2, gates.shape[1] // 4)
        self.above, self.own = gates.new_zeros(shape), gates.new_zeros(shape)

    def place(self) -> int:
        """Of the pixel that is asked for."""
        if self.row != self.memory.row:
            self.row = self.memory.row
            self.above.copy_(self.own)
        return self.memory.column + 1

    def keep(self, h: Tensor, c: Tensor) -> Tensor:
        """(n, h) each; h."""
        self.own[:, :, self.memory.column + 1] = torch.stack([h, c])
        return h


class PixelLSTM(nn.Module):
    """(B, F, H, W) -> (B, h, H, W); with a memory (n, F) -> (n, h), of one pixel.

    outer, inner: (F,), (h,) the channel of each feature.
    seen, states: how many pixels L and K see.
    classes:      how many there are; 0 for none.
    """

    def __init__(self, outer: Tensor, inner: Tensor, classes: int, *, seen: int, states: int) -> None:
        super().__init__()
        self.seen = CausalConv2d(outer, inner.repeat(4), seen, above=False)
        self.bias = nn.Embedding(classes, 4 * len(inner)) if classes else None
        self.state = nn.Conv1d(len(inner), 4 * len(inner), states, bias=False)

    def forward(self, x: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        gates = with_class(self.seen(x, memory), self.bias, classes)
        return self.run(gates) if memory is None else memory.ask(self, gates, self._asked_by_pixel)

    def run(self, gates: Tensor) -> Tensor:
        """(B, 4h, H, W), what each pixel sees, -> (B, h, H, W)."""
        raise NotImplementedError

    def before(self, states: States, place: int) -> tuple[Tensor, Tensor]:
        """(n, pixels, h), h of the pixels that K sees from a place, and (n, h), c before it."""
        raise NotImplementedError

    def _asked_by_pixel(self, gates: Tensor, memory: Memory) -> Callable[[Tensor], Tensor]:
        states = States(gates, memory)
        weight = self.state.weight.transpose(1, 2).flatten(1)  # (4h, pixels h)

        def answer(gates: Tensor) -> Tensor:
            h, c = self.before(states, states.place())
            return states.keep(*cell(gates + linear(h.flatten(1), weight), c))

        return answer


class RowLSTM(PixelLSTM):
    """Row by row."""

    def __init__(self, outer: Tensor, inner: Tensor, classes: int) -> None:
        super().__init__(outer, inner, classes, seen=KERNEL, states=KERNEL)

    def run(self, gates: Tensor) -> Tensor:
        return scan(gates, lambda h: self.state(pad(h, (KERNEL // 2, KERNEL // 2))))

    def before(self, states: States, place: int) -> tuple[Tensor, Tensor]:
        h, c = states.above
        return h[:, place - 1 : place + 2], c[:, place]


class DiagonalLSTM(PixelLSTM):
    """Diagonal by diagonal, from the left and above."""

    def __init__(self, outer: Tensor, inner: Tensor, classes: int) -> None:
        super().__init__(outer, inner, classes, seen=1, states=2)

    def run(self, gates: Tensor) -> Tensor:
        columns = skew(gates).transpose(2, 3)
        return unskew(scan(columns, lambda h: self.state(pad(h, (1, 0)))).transpose(2, 3))

    def before(self, states: States, place: int) -> tuple[Tensor, Tensor]:
        above, (left, c) = states.above[0], states.own[:, :, place - 1]
        return torch.stack([above[:, place], left], 1), c


class DiagonalBiLSTM(nn.Module):
    """Two Diagonal LSTMs, of which one sees the image mirrored. Shapes and arguments are those of a PixelLSTM."""

    def __init__(self, outer: Tensor, inner: Tensor, classes: int) -> None:
        super().__init__()
        self.left = DiagonalLSTM(outer, inner, classes)
        self.right = DiagonalLSTM(outer, inner, classes)

    def forward(self, x: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        if memory is None:
            right = pad(self.right(x.flip(3), classes).flip(3), (0, 0, 1, -1))  # one row down
        else:
            right = memory.ask(self, x, lambda x, memory: self._right_by_pixel(x, classes, memory))
        return self.left(x, classes, memory) + right

    def _right_by_pixel(self, x: Tensor, classes: Tensor | None, memory: Memory) -> Callable[[Tensor], Tensor]:
        """Each row is scanned from the right when it is whole, for the row below."""
        seen = x.new_zeros(*x.shape, memory.width)
        told = x.new_zeros(len(x), self.right.state.in_channels, memory.width)
        mirrored = Memory(memory.width)

        def answer(x: Tensor) -> Tensor:
            nonlocal told
            if mirrored.row != memory.row:
                row = []
                for mirrored.column in range(memory.width):
                    row.append(self.right(seen[..., -1 - mirrored.column], classes, mirrored))
                told = torch.stack(row[::-1], 2)
                mirrored.row = memory.row
            seen[..., memory.column] = x
            return told[..., memory.column]

        return answer


class Block(nn.Module):
    """y = x + up(layer(x)). (B, 2h, H, W) -> the same."""

    def __init__(self, layer: nn.Module, inner: Tensor, outer: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.up = CausalConv2d(inner, outer)

    def forward(self, x: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        return x + self.up(self.layer(x, classes, memory), memory)


class PixelRNNNetwork(ResidualNetwork):
    """Over grids of any size; diagonal, width, layers, first and head as PixelRNNSpec has them.

    classes: how many the grids can be of; 0 for a network that knows of none.
    channels, levels, embedding: as of every GridNetwork.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        *,
        diagonal: bool,
        width: int,
        layers: int,
        first: int,
        head: int,
        classes: int = 0,
        embedding: int | None = None,
    ) -> None:
        kind = DiagonalBiLSTM if diagonal else RowLSTM
        inner, outer = features_of(width, channels)
        super().__init__(
            channels,
            levels,
            (Block(kind(outer, inner, classes), inner, outer) for _ in range(layers)),
            width=width,
            first=first,
            head=head,
            embedding=embedding,
        )


class PixelRNN(Autoregressive):
    """Images are (B, 3, H, W) of the size in `preprocess`, or any other."""

    spec: PixelRNNSpec

    def __init__(self, spec: PixelRNNSpec) -> None:
        super().__init__(spec)
        self.network = PixelRNNNetwork(
            self.shape[0],
            LEVELS,
            diagonal=spec.diagonal,
            width=spec.width,
            layers=spec.layers,
            first=spec.first,
            head=spec.head,
            classes=len(self.labels),
        )


PAPER = PixelRNNSpec(CIFAR_10, COLOUR, {**RECIPE, "epochs": 100})
NANO = PixelRNNSpec(DIGITS, grey(8), NANO_RECIPE, width=32, layers=3, head=64)

VARIANTS = {
    # For CIFAR-10.
    "pixelrnn_row": PAPER,
    "pixelrnn_row_nano": NANO,
    "pixelrnn_diagonal": replace(PAPER, diagonal=True),
    "pixelrnn_diagonal_nano": replace(NANO, diagonal=True),
}
