"""What systems share that make an image pixel by pixel, in the order of reading, and each channel after the other:

    p(x) = prod over i of p(x_i | x_1 ... x_(i-1))       van den Oord et al. 2016, arXiv:1601.06759, equation 1

Each p(x_i | ...) is a softmax over all values that a channel can have. A network answers for all i at once, so that
the likelihood of an image takes one pass. To make one takes a pass for each i, or else `begin`, which computes for each
pixel only what is new. Such a network is one over grids of integers, which need not be pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from foveal.errors import InputError
from foveal.generate.generator import LEVELS, Generator, Trace
from foveal.nn.masked import CausalConv2d
from foveal.structures import Batch
from foveal.system import evaluating

PIXELS = 2**14  # whose probabilities are computed together
# How far logits of a pixel alone can be from those that the whole network gives, which rounds otherwise, over 1 + the
# largest of them: by up to a fifth of this in networks with random weights, an eighth in trained ones.
DOUBT = 5e-6

# The grid so far (n, C, H, W), row, column -> logits (n, levels, C) of that pixel, a channel's right if those before it
# are known. Pixels come in the order of reading, none is left out, and each comes last when all but its last channel is
# known.
Step = Callable[[Tensor, int, int], Tensor]


class GridNetwork(nn.Module):
    """Of each number in a grid, how probable each of its values is, by all that is read before it. A subclass gives
    `run` and `begin`.

    channels:  numbers in a pixel, C.
    levels:    values that a number can have, 0 to levels - 1.
    embedding: None, where values are amounts, as of light, and the network sees them between -1 and 1; else they are
               names, and it sees so many learned features of each.
    """

    def __init__(self, channels: int, levels: int, embedding: int | None = None) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.embedding = nn.Embedding(levels, embedding) if embedding else None

    @property
    def inputs(self) -> Tensor:
        """(F,) int64, the channel that each of the features of a pixel is of."""
        width = self.embedding.embedding_dim if self.embedding else 1
        return torch.arange(self.channels).repeat_interleave(width)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) int64 -> (B, F, H, W), what of the grid the network sees."""
        if self.embedding is None:
            return 2 / (self.levels - 1) * x.to(next(self.parameters()).dtype) - 1
        return self.embedding(x).movedim(-1, 2).flatten(1, 2)

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Grids (B, C, H, W) int64, and where classes (B,) are known these, -> logits (B, levels, C, H, W)."""
        return self.by_level(self.run(self.features(x), classes))

    def run(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """What `features` gives -> (B, C levels, H, W), logits of one channel after the other."""
        raise NotImplementedError

    def begin(self, width: int, classes: Tensor | None) -> Step:
        """What answers pixel by pixel, for grids of this width, with what `forward` has at that place."""
        raise NotImplementedError

    def around(self, layer: CausalConv2d, x: Tensor, row: int, column: int) -> Tensor:
        """(n, F, *kernel_size), the features of grids (n, C, H, W) that a layer looks at from one pixel."""
        top, left = row - layer.above, column - layer.side
        right = left + layer.kernel_size[1]
        part = self.features(x[..., max(0, top) : row + 1, max(0, left) : right])
        return pad(part, (max(0, -left), max(0, right - x.shape[3]), max(0, -top), 0))

    def by_level(self, logits: Tensor) -> Tensor:
        """(B, C levels, ...) -> (B, levels, C, ...)."""
        return logits.unflatten(1, (self.channels, self.levels)).transpose(1, 2)


def draw(
    network: GridNetwork,
    numbers: Tensor,
    classes: Tensor | None = None,
    *,
    x: Tensor | None = None,
    known: Tensor | None = None,
    cached: bool = True,
    trace: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    """New grids (n, C, H, W) int64, each number the value at which its probabilities come to add up to more than a
    number in [0, 1) that was drawn for it.

    numbers: (n, C, H, W) float64 on the CPU.
    classes: (n,) of the grids; None for a network without.
    x:       grids whose pixels `known`, (H, W) bool, are kept.
    cached:  compute for each pixel what is new; else ask the whole network for each. The grids are the same, for
             what rounding could decide is held against the whole network.
    trace:   called after each row with the share that is done and the grids so far, those to come zero.
    """
    _, channels, height, width = numbers.shape
    device = next(network.parameters()).device
    known = torch.zeros(height, width, dtype=torch.bool) if known is None else known.cpu()
    grid = torch.zeros(numbers.shape, dtype=torch.long, device=device)
    if x is not None:
        grid = torch.where(known.to(device), x, grid)
    step = network.begin(width, classes) if cached else None
    for row in range(height):
        for column in range(width):
            if known[row, column]:
                if step:
                    step(grid, row, column)
                continue
            for channel in range(channels):
                drawn = numbers[:, channel, row, column]
                doubt = step is None
                if step:
                    values, doubt = _drawn(step(grid, row, column)[..., channel], drawn)
                if doubt:
                    values, _ = _drawn(_whole(network, grid, classes, row, column)[..., channel], drawn)
                grid[:, channel, row, column] = values.to(device)
        if trace:
            trace((row + 1) / height, grid)
    return grid


def log_probability(network: GridNetwork, x: Tensor, classes: Tensor | None = None) -> Tensor:
    """Grids (B, C, H, W) int64 -> the same shape, ln p of each number by all that is read before it."""
    found = []
    for part, of in _parts(x, classes):
        found.append(-cross_entropy(network(part, of), part, reduction="none"))
    return torch.cat(found)


def _drawn(logits: Tensor, numbers: Tensor) -> tuple[Tensor, bool]:
    """(n, levels), (n,) -> (n,) values, and whether rounding could have made one of them another.

    Where no logit is off by more than e, the odds of what lies below a border are off by a factor between exp(-2 e) and
    exp(2 e), and so it, p, is by no more than about 2 e p (1 - p).
    """
    logits = logits.cpu()
    borders = logits.softmax(1, torch.float64).cumsum(1)[:, :-1] - numbers[:, None]
    near = 2 * DOUBT * (1 + float(logits.abs().max())) * numbers * (1 - numbers)
    return (borders <= 0).sum(1), bool((borders.abs() < near[:, None]).any())


def _whole(network: GridNetwork, grid: Tensor, classes: Tensor | None, row: int, column: int) -> Tensor:
    """(n, levels, C), by the whole network."""
    return torch.cat([network(part, of)[..., row, column] for part, of in _parts(grid, classes)])


def _parts(x: Tensor, classes: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Grids and their classes, as many together as memory is for."""
    at_once = max(1, PIXELS // x[0].numel())
    parts = x.split(at_once)
    return list(zip(parts, [None] * len(parts) if classes is None else classes.split(at_once), strict=True))


class Autoregressive(Generator):
    """What these systems share; a subclass gives the network, over the 8-bit levels of the channels of an image."""

    network: GridNetwork

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 256, C, H, W) of each channel of each pixel by all before it, without knowing the class."""
        return self.network(self.levels(images))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """nll: -ln p(x) over the number of channels of all pixels, nats."""
        levels = self.levels(batch.images)
        return {"nll": cross_entropy(self.network(levels, self.classes(batch)), levels)}

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """(B,) ln p(x) in nats, exact; of a conditional system ln p(x | class)."""
        with evaluating(self):
            return log_probability(self.network, self.levels(batch.images), self.classes(batch)).sum((1, 2, 3))

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
        trace: Trace | None = None,
        cached: bool = True,
    ) -> Tensor:
        """n new images (n, 3, H, W) in [0, 1].

        cached: reuse what earlier pixels computed; without it the same images take longer.
        generator, labels, trace: as of every Generator.
        """
        return self._draw(torch.Size((n, *self.shape)), self.asked(n, labels), generator, trace, cached)

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
        trace: Trace | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Images (B, 3, H, W) of which the pixels `known` (H, W) are kept and the others drawn, each by all before it.

        labels: of a conditional system; by default those under which the pixels that come before the first unknown one
                are most probable.
        cached: as of `sample`.
        """
        if known.shape != images.shape[2:] or known.dtype != torch.bool:
            given = f"{known.dtype} of {tuple(known.shape)}"
            raise InputError(f"known must be bool of shape {tuple(images.shape[2:])}, not {given}")
        x, known = self.levels(images), known.to(images.device)
        classes = self.asked(len(x), labels) if labels is not None or not self.labels else self._likely(x, known)
        return self._draw(x.shape, classes, generator, trace, cached, x, known)

    def _likely(self, x: Tensor, known: Tensor) -> Tensor:
        """(B,) int64: the class under which the pixels before the first unknown one are most probable."""
        leading = known.flatten().long().cumprod(0).view(known.shape)
        with evaluating(self):
            found = []
            for index in range(len(self.labels)):
                classes = torch.full((len(x),), index, device=self.device)
                found.append((log_probability(self.network, x, classes) * leading).sum((1, 2, 3)))
        return torch.stack(found, 1).argmax(1)

    def _draw(
        self,
        shape: torch.Size,
        classes: Tensor | None,
        generator: torch.Generator | None,
        trace: Trace | None,
        cached: bool,
        x: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
        seen = (lambda done, grid: trace(done, _pictures(grid))) if trace else None
        with evaluating(self):
            made = draw(self.network, numbers, classes, x=x, known=known, cached=cached, trace=seen)
        return _pictures(made)


def _pictures(levels: Tensor) -> Tensor:
    """(n, C, H, W) int64 -> (n, 3, H, W) in [0, 1]."""
    return (levels / (LEVELS - 1)).expand(-1, 3, -1, -1)
