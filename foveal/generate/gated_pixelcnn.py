"""Gated PixelCNN: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu 2016, "Conditional image
generation with PixelCNN decoders", arXiv:1606.05328.

A PixelCNN (pixelcnn.py) of two stacks, so that a pixel sees all that comes before it. The vertical stack sees all rows
above, which no mask need cut; the horizontal one its own row at the left, and what the vertical one says:

    v' = gate(a),                        a = n x n over v, rows above                   figure 2 of the paper
    h' = h + 1 x 1 of gate(1 x n over h, masked + 1 x 1 of a)
    gate(f, g) = tanh(f) * sigmoid(g)                                                     equation 2

A class y adds to what goes into each gate a row of numbers of its own: tanh(f + V_f y) sigmoid(g + V_g y), equation 4.

The first layer has no h to add to, and sees of its own row only what is before; later layers see their own place, which
knows no more.

A gate lets less through than comes in, and nothing is added to the vertical stack that would keep a signal alive. So
weights begin larger than torch's, as those of layers with relus do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.generate.autoregressive import Autoregressive, GridNetwork, Step
from foveal.generate.generator import LEVELS, GeneratorSpec
from foveal.generate.pixelcnn import COLOUR, NANO_RECIPE, RECIPE, check_network, grey, with_class
from foveal.nn.init import init_for_relu
from foveal.nn.masked import AboveConv2d, CausalConv2d, Memory, channel_of


@dataclass(frozen=True)
class GatedPixelCNNSpec(GeneratorSpec):
    """
    width:  features of each stack.
    layers: how many, the first one among them.
    kernel: side of the convolutions, n; that of the first layer is `first`.
    head:   features of the last layer but one.
    """

    width: int = 384
    layers: int = 20
    kernel: int = 5
    first: int = 7
    head: int = 1024

    def __post_init__(self) -> None:
        check_network(self.width, self.layers, self.kernel, self.first, self.head)


def gate(x: Tensor) -> Tensor:
    """(B, 2p, ...) -> (B, p, ...)."""
    f, g = x.chunk(2, 1)
    return f.tanh() * g.sigmoid()


class Vertical(nn.Module):
    """A layer of the vertical stack: v -> (v', what the horizontal one is told), (B, F, H, W) -> (B, p, H, W) and
    (B, 2p, H, W).

    features: F of what comes in.
    width:    p.
    first:    whether what comes in is the grid itself.
    classes:  how many there are; 0 for none.
    """

    def __init__(self, features: int, width: int, kernel: int, classes: int, *, first: bool = False) -> None:
        super().__init__()
        self.above = AboveConv2d(features, 2 * width, kernel, own=not first)
        self.bias = nn.Embedding(classes, 2 * width) if classes else None
        self.link = nn.Conv2d(2 * width, 2 * width, 1)

    def forward(self, v: Tensor, classes: Tensor | None, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        a = with_class(self.above(v, memory), self.bias, classes)
        return gate(a), self.link(a)


class Horizontal(nn.Module):
    """A layer of the horizontal stack: h -> what is added to it, (B, F, H, W) -> (B, p, H, W); with a memory (n, F) ->
    (n, p), of one pixel.

    ins, outs: (F,), (p,) the channel of each feature.
    first, classes: as of Vertical.
    """

    def __init__(self, ins: Tensor, outs: Tensor, kernel: int, classes: int, *, first: bool = False) -> None:
        super().__init__()
        self.left = CausalConv2d(ins, outs.repeat(2), kernel, own=not first, above=False)
        self.bias = nn.Embedding(classes, 2 * len(outs)) if classes else None
        self.out = CausalConv2d(outs, outs)

    def forward(self, h: Tensor, told: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        return self.out(gate(with_class(self.left(h, memory) + told, self.bias, classes)), memory)


class GatedNetwork(GridNetwork):
    """Over grids of any size; width, layers, kernel, first and head as GatedPixelCNNSpec has them.

    classes: how many the grids can be of; 0 for a network that knows of none.
    channels, levels, embedding: as of every GridNetwork.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        *,
        width: int,
        layers: int,
        kernel: int = 3,
        first: int = 7,
        head: int,
        classes: int = 0,
        embedding: int | None = None,
    ) -> None:
        super().__init__(channels, levels, embedding)
        inner, last = channel_of(width, channels), channel_of(head, channels)
        later = range(layers - 1)
        self.above = nn.ModuleList([Vertical(len(self.inputs), width, first, classes, first=True)])
        self.above.extend(Vertical(width, width, kernel, classes) for _ in later)
        self.first = Horizontal(self.inputs, inner, first, classes, first=True)
        self.layers = nn.ModuleList(Horizontal(inner, inner, kernel, classes) for _ in later)
        self.head = CausalConv2d(inner, last)
        self.output = CausalConv2d(last, channel_of(channels * levels, channels))

    def run(self, features: Tensor, classes: Tensor | None) -> Tensor:
        told = self._told(features, classes)
        return self._after(self.first(features, told[0], classes), told[1:], classes)

    def _told(self, v: Tensor, classes: Tensor | None, memory: Memory | None = None) -> list[Tensor]:
        """What the vertical stack tells the horizontal one, by layer."""
        told = []
        for layer in self.above:
            v, a = layer(v, classes, memory)
            told.append(a)
        return told

    def _after(self, h: Tensor, told: list[Tensor], classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        """Logits, by what the first layer gives."""
        for layer, a in zip(self.layers, told, strict=True):
            h = h + layer(h, a, classes, memory)
        return self.output(self.head(h.relu(), memory).relu(), memory)

    def begin(self, width: int, classes: Tensor | None) -> Step:
        memory = Memory(width)
        rows: list[Tensor] = []

        def step(x: Tensor, row: int, column: int) -> Tensor:
            if not rows or row != memory.row:  # the vertical stack can answer for a whole row
                last = self.features(x[:, :, max(0, row - 1)][:, :, None])
                rows[:] = self._told(last if row else torch.zeros_like(last), classes, memory)
            memory.row, memory.column = row, column
            told = [a[..., 0, column] for a in rows]
            h = self.first(self.around(self.first.left, x, row, column), told[0], classes, memory)
            logits = self._after(h, told[1:], classes, memory)
            return self.by_level(logits)

        return step


class GatedPixelCNN(Autoregressive):
    """Images are (B, 3, H, W) of the size in `preprocess`, or any other."""

    spec: GatedPixelCNNSpec

    def __init__(self, spec: GatedPixelCNNSpec) -> None:
        super().__init__(spec)
        self.network = GatedNetwork(
            self.shape[0],
            LEVELS,
            width=spec.width,
            layers=spec.layers,
            kernel=spec.kernel,
            first=spec.first,
            head=spec.head,
            classes=len(self.labels),
        )
        init_for_relu(self.network)


VARIANTS = {
    # Section 3.3 of the paper, for ImageNet.
    "gated_pixelcnn": GatedPixelCNNSpec(IMAGENET_1K, COLOUR, {**RECIPE, "epochs": 20, "batch_size": 128}),
    "gated_pixelcnn_nano": GatedPixelCNNSpec(DIGITS, grey(8), NANO_RECIPE, width=32, layers=4, kernel=3, head=64),
}
