"""PixelCNN: van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel recurrent neural networks", arXiv:1601.06759.

An image is made of one number after the other (autoregressive.py), and each is known by a softmax over 256 values. All
of them are found in one pass by convolutions that are masked (nn/masked.py), so that red sees the pixels before, green
red as well, and blue both:

    x -> 7 x 7, mask A -> residual blocks -> relu, 1 x 1, relu, 1 x 1, mask B -> 256 logits of each channel     table 1
    block: y = x + (relu, 1 x 1 from 2h to h, relu, 3 x 3, relu, 1 x 1 from h to 2h; all mask B)                figure 5

What lies above at the right is seen up to a slope of the kernel's only: a pixel is blind for a part of what comes
before it, however many blocks there are. Gated PixelCNN (gated_pixelcnn.py) is not.

Conditional, what is known of the class is added to the h features within each block (van den Oord et al. 2016,
arXiv:1606.05328, equation 4).

Departs from the paper: residual connections are the only ones, without those from each layer to the output.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.errors import InputError
from foveal.generate.autoregressive import Autoregressive, GridNetwork, Step
from foveal.generate.generator import LEVELS, GeneratorSpec
from foveal.nn.masked import CausalConv2d, Memory, channel_of
from foveal.system import Preprocess


@dataclass(frozen=True)
class PixelCNNSpec(GeneratorSpec):
    """
    width:  features within a block, h; there are 2h between blocks.
    blocks: how many.
    kernel: side of the convolution in a block; that of the first layer is `first`.
    head:   features of the last layer but one.
    """

    width: int = 128
    blocks: int = 15
    kernel: int = 3
    first: int = 7
    head: int = 1024

    def __post_init__(self) -> None:
        check_network(self.width, self.blocks, self.kernel, self.first, self.head)


def check_network(width: int, depth: int, kernel: int, first: int, head: int) -> None:
    """Raises InputError for a network over the pixels of colour images that cannot be."""
    if min(width, head) < 3 or depth < 1:
        raise InputError("width and head must be at least 3, a feature for each colour, and there must be a layer")
    for name, side in (("kernel", kernel), ("first", first)):
        if side < 3 or side % 2 == 0:
            raise InputError(f"{name} must be odd and at least 3, not {side}")


def with_class(x: Tensor, bias: nn.Embedding | None, classes: Tensor | None) -> Tensor:
    """(B, F, ...) with what is known of the classes (B,) added in all places."""
    if bias is None or classes is None:
        return x
    known = bias(classes)
    return x + known.view(*known.shape, *[1] * (x.dim() - 2))


def features_of(width: int, channels: int) -> tuple[Tensor, Tensor]:
    """The channel that each feature belongs to, within blocks (h,) and between them (2h,)."""
    return channel_of(width, channels), channel_of(2 * width, channels)


class Block(nn.Module):
    """y = x + expand(relu(conv(relu(reduce(relu(x)) + bias of the class)))). (B, 2h, H, W) -> the same; with a memory
    (n, 2h) -> the same, of one pixel."""

    def __init__(self, inner: Tensor, outer: Tensor, kernel: int, classes: int) -> None:
        super().__init__()
        self.reduce = CausalConv2d(outer, inner)
        self.bias = nn.Embedding(classes, len(inner)) if classes else None
        self.conv = CausalConv2d(inner, inner, kernel)
        self.expand = CausalConv2d(inner, outer)

    def forward(self, x: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        y = with_class(self.reduce(x.relu(), memory), self.bias, classes)
        return x + self.expand(self.conv(y.relu(), memory).relu(), memory)


class ResidualNetwork(GridNetwork):
    """Over grids of any size; width, first and head as PixelCNNSpec has them.

    blocks: what stands between the first layer and the head; each, called with x (B, 2h, H, W), the classes and the
            memory, gives the same shape, of features of the channels that `features_of` tells.
    channels, levels, embedding: as of every GridNetwork.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        blocks: Iterable[nn.Module],
        *,
        width: int,
        first: int,
        head: int,
        embedding: int | None = None,
    ) -> None:
        super().__init__(channels, levels, embedding)
        _, outer = features_of(width, channels)
        last = channel_of(head, channels)
        self.first = CausalConv2d(self.inputs, outer, first, own=False)
        self.blocks = nn.ModuleList(blocks)
        self.head = CausalConv2d(outer, last)
        self.output = CausalConv2d(last, channel_of(channels * levels, channels))

    def run(self, features: Tensor, classes: Tensor | None) -> Tensor:
        return self._after(self.first(features), classes)

    def _after(self, x: Tensor, classes: Tensor | None, memory: Memory | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, classes, memory)
        return self.output(self.head(x.relu(), memory).relu(), memory)

    def begin(self, width: int, classes: Tensor | None) -> Step:
        memory = Memory(width)

        def step(x: Tensor, row: int, column: int) -> Tensor:
            memory.row, memory.column = row, column
            logits = self._after(self.first(self.around(self.first, x, row, column), memory), classes, memory)
            return self.by_level(logits)

        return step


class PixelCNNNetwork(ResidualNetwork):
    """Over grids of any size; width, blocks, kernel, first and head as PixelCNNSpec has them.

    classes: how many the grids can be of; 0 for a network that knows of none.
    channels, levels, embedding: as of every GridNetwork.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        *,
        width: int,
        blocks: int,
        kernel: int,
        first: int,
        head: int,
        classes: int = 0,
        embedding: int | None = None,
    ) -> None:
        super().__init__(
            channels,
            levels,
            (Block(*features_of(width, channels), kernel, classes) for _ in range(blocks)),
            width=width,
            first=first,
            head=head,
            embedding=embedding,
        )


class PixelCNN(Autoregressive):
    """Images are (B, 3, H, W) of the size in `preprocess`, or any other."""

    spec: PixelCNNSpec

    def __init__(self, spec: PixelCNNSpec) -> None:
        super().__init__(spec)
        self.network = PixelCNNNetwork(
            self.shape[0],
            LEVELS,
            width=spec.width,
            blocks=spec.blocks,
            kernel=spec.kernel,
            first=spec.first,
            head=spec.head,
            classes=len(self.labels),
        )


def grey(size: int) -> Preprocess:
    """Grey images of so many pixels."""
    return Preprocess((size, size), "squash", 1.0, (0.5,), (0.5,), grey=True)


HALVES = (0.5, 0.5, 0.5)
COLOUR = Preprocess((32, 32), "squash", 1.0, HALVES, HALVES)
RECIPE: dict[str, Any] = {"optimizer": "adam", "lr": 1e-3, "batch_size": 16, "ema": 0.999}
# A running mean of a thousand steps would still hold weights of the start, for a run takes fewer.
NANO_RECIPE: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.3, "batch_size": 32, "ema": 0.99, "epochs": 20}

VARIANTS = {
    "pixelcnn": PixelCNNSpec(CIFAR_10, COLOUR, {**RECIPE, "epochs": 100}),
    "pixelcnn_nano": PixelCNNSpec(DIGITS, grey(8), NANO_RECIPE, width=32, blocks=4, head=64),
}
