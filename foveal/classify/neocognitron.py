"""The neocognitron: Fukushima 1980, "Neocognitron: a self-organizing neural network model for a mechanism of pattern
recognition unaffected by shift in position", Biological Cybernetics 36.

Stages of S-cells, which learn to answer to a pattern, and C-cells, which answer wherever nearby one of theirs does. All
cells of a plane k share their weights a_k, b_k, so that a plane answers to one pattern in all places n:

    v_C(n)    = sqrt( sum_k sum_nu c(nu) u_C(k, n+nu)^2 )                                          inhibitory cell
    u_S(k, n) = r phi( (1 + sum a_k u_C) / (1 + 2r/(1+r) b_k v_C(n)) - 1 )                         phi(x) = max(x, 0)
    v_S(n)    = mean_k sum_nu d(nu) u_S(k, n+nu)                                                   lateral inhibition
    u_C(k, n) = psi( (1 + sum_nu d(nu) u_S(k, n+nu)) / (1 + v_S(n)) - 1 )                       psi(x) = x / (alpha + x)

Learning knows no classes. Stage after stage, for one image after another: of the S-cells of all planes within a small
square the strongest is a candidate, and of the candidates in a plane the strongest is its seed n*. There

    a_k <- a_k + q c(nu) u_C(k', n*+nu)         b_k <- b_k + q/2 v_C(n*)

so that a cell answers with nearly 1 to its own pattern, and with 0 to those whose cosine with it, weighted by c, is
below r / (1 + r). A plane that has not learned yet answers to everything, but faintly: a new pattern goes to it.

Departs from the paper: it leaves open which class a plane of the last layer stands for. Here the training images vote,
each for the plane that answers most, and the score of a class is the strongest answer of a plane, weighted with its
share of that class. Cells are choosier while they learn than afterwards (Fukushima and Tanigawa 1996), so that planes
come to differ and still answer to what they have not seen. C-cells of the last stage take the strongest answer of their
plane. Images come in a random order, each stage learns when the one before it is ready, and sizes are those for digits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, one_hot, pad

from foveal.classify.classifier import Scorer, label_indices
from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.structures import Batch, to_float
from foveal.system import Preprocess, Spec

FAINT = 1e-4  # the largest weight of a plane that has not learned yet
GAIN = 20.0  # answers are below 1: without it the softmax of ten classes would hardly tell them apart
CHUNK = 64  # images that go through the stages together


@dataclass(frozen=True)
class NeocognitronSpec(Spec):
    """planes: of each stage.
    windows: sides of the squares that the S-cells of each stage look at, odd.
    r: how choosy the S-cells of each stage are; they answer where the cosine is above r / (1 + r).
    learning_r: the same while they learn.
    q: how fast the S-cells of each stage learn.
    pools: sides of the squares that the C-cells of each stage look at, odd; those of the last see all.
    passes: how often all images are gone through for each stage.
    images: most images that are learned from, drawn at random.
    """

    planes: tuple[int, int, int] = (16, 64, 500)
    windows: tuple[int, int, int] = (5, 3, 5)
    r: tuple[float, float, float] = (4.0, 2.0, 6.0)
    learning_r: tuple[float, float, float] = (6.0, 6.0, 20.0)
    q: tuple[float, float, float] = (16.0, 16.0, 16.0)
    pools: tuple[int, int] = (5, 3)
    passes: int = 1
    images: int = 5000


def falling(side: int, base: float) -> Tensor:
    """(side, side): base to the power of the distance from the centre."""
    offset = torch.arange(side) - side // 2
    return base ** torch.hypot(offset[:, None].float(), offset[None].float())


class SCells(nn.Module):
    """(B, K', H, W) C-cells, or pixels -> (B, K, H, W). They look at every `spread`-th cell, down and across."""

    c: Tensor

    def __init__(
        self, inputs: int, planes: int, window: int, r: float, learning_r: float, q: float, column: int, spread: int = 1
    ) -> None:
        super().__init__()
        self.r, self.learning_r, self.q, self.column = r, learning_r, q, column
        self.spread, self.reach = spread, spread * (window // 2)
        self.a = nn.Parameter(torch.zeros(planes, inputs, window, window), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(planes), requires_grad=False)
        c = falling(window, 0.9)
        self.register_buffer("c", (c / (inputs * c.sum())).expand(1, inputs, -1, -1).contiguous(), persistent=False)
        self.phi = nn.ReLU()

    def inhibition(self, u: Tensor) -> Tensor:
        """v_C, (B, 1, H, W)."""
        # Where nothing is seen the root has no slope.
        return conv2d(u * u, self.c, padding=self.reach, dilation=self.spread).clamp(min=1e-20).sqrt()

    def forward(self, u: Tensor) -> Tensor:
        return self.answers(u, self.r)

    def answers(self, u: Tensor, r: float) -> Tensor:
        """u_S, (B, K, H, W)."""
        excitation = 1 + conv2d(u, self.a, padding=self.reach, dilation=self.spread)
        inhibition = 1 + 2 * r / (1 + r) * self.b[:, None, None] * self.inhibition(u)
        return r * self.phi(excitation / inhibition - 1)

    def begin(self) -> None:
        """Forget what was learned."""
        self.a.uniform_(0, FAINT)
        self.b.zero_()

    def learn(self, u: Tensor) -> None:
        """From one image, (1, K', H, W)."""
        padded, v = pad(u, [self.reach] * 4), self.inhibition(u)[0, 0]
        for k, (row, column) in seeds(self.answers(u, self.learning_r)[0], self.column).items():
            side = 2 * self.reach + 1
            seen = padded[:, :, row : row + side : self.spread, column : column + side : self.spread]
            self.a[k] += self.q * (self.c * seen)[0]
            self.b[k] += self.q / 2 * v[row, column]


def seeds(s: Tensor, column: int) -> dict[int, tuple[int, int]]:
    """The places of the cells that are reinforced: plane -> (row, column), from the answers (K, H, W) of all.

    column: side of the squares within which the cells of all planes compete; one larger than the map is all of it.
    """
    height, width = s.shape[1:]
    strongest, plane = s.max(0)  # (H, W)
    squares = min(column, height), min(column, width)
    _, winners = max_pool2d(strongest[None], squares, stride=1, return_indices=True)
    places = winners.unique()
    answers = strongest.flatten()[places]
    found: dict[int, tuple[int, int]] = {}
    for i in answers.argsort(descending=True, stable=True).tolist():
        if answers[i] > 0:
            found.setdefault(int(plane.flatten()[places[i]]), divmod(int(places[i]), width))
    return found


class Psi(nn.Module):
    """max(x, 0) / (alpha + max(x, 0))"""

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return x / (self.alpha + x)


class CCells(nn.Module):
    """(B, K, H, W) S-cells -> (B, K, H / stride, W / stride), rounded up; without a window the strongest alone."""

    d: Tensor

    def __init__(self, window: int | None, stride: int = 1) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        self.register_buffer("d", falling(window or 1, 0.7)[None, None], persistent=False)
        self.psi = Psi()

    def forward(self, s: Tensor) -> Tensor:
        if self.window is None:
            pooled = s.amax((2, 3), keepdim=True)
        else:
            pooled = conv2d(s.flatten(0, 1)[:, None], self.d, stride=self.stride, padding=self.window // 2)[:, 0]
            pooled = pooled.unflatten(0, s.shape[:2])
        lateral = pooled.mean(1, keepdim=True)  # v_S
        return self.psi((1 + pooled) / (1 + lateral) - 1)


class Neocognitron(Scorer):
    """Three stages of S-cells and C-cells, and the votes of the training images."""

    def __init__(self, spec: NeocognitronSpec) -> None:
        super().__init__(spec)
        whole = (*spec.planes, *spec.windows, *spec.pools, spec.passes, spec.images)
        if (
            min(whole) < 1
            or min(*spec.r, *spec.learning_r, *spec.q) <= 0
            or not all(w % 2 for w in (*spec.windows, *spec.pools))
        ):
            raise InputError("planes, passes, images, r, learning_r and q are above 0, windows and pools odd")
        self.check_smallest(spec.preprocess.size, 8)
        self.passes, self.images = spec.passes, spec.images
        self.stages = nn.ModuleList()
        inputs = spec.preprocess.channels
        pools = ((spec.pools[0], 2), (spec.pools[1], 1), (None, 1))
        # In the last stage all cells compete. They look at every second one of maps that were not thinned out, for
        # where they can stand decides which shifts they follow.
        places = ((5, 1), (3, 1), (max(spec.preprocess.size), 2))
        settings = (spec.planes, spec.windows, spec.r, spec.learning_r, spec.q)
        for pool, place, own in zip(pools, places, zip(*settings, strict=True), strict=True):
            cells = SCells(inputs, *own, *place)
            self.stages.append(nn.ModuleDict({"simple": cells, "complex": CCells(*pool)}))
            inputs = own[0]
        # The share of each class in the votes for each plane of the last layer.
        self.votes = nn.Parameter(torch.zeros(inputs, len(spec.labels)), requires_grad=False)

    def cells(self, images: Tensor, stages: int = 3) -> Tensor:
        """(B, 3, H, W) -> the C-cells of the first `stages`, (B, K, H', W')."""
        u = self.normalize(images)
        for stage in list(self.stages)[:stages]:
            u = stage["complex"](stage["simple"](u))  # type: ignore[index]
        return u

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K): the strongest answer of each plane of the last layer."""
        return self.cells(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return GAIN * (self.features(images)[:, :, None] * self.votes).amax(1)  # (B, C)

    @torch.no_grad()
    def fit(self, data: Iterable[Batch]) -> None:
        images, labels = self._drawn(data)
        for number, stage in enumerate(self.stages):
            cells = stage["simple"]  # type: ignore[index]
            cells.begin()
            below = torch.cat([self.cells(part, number) for part in self._parts(images)])
            for _ in range(self.passes):
                for i in torch.randperm(len(below)).tolist():
                    cells.learn(below[i : i + 1])
        winners = torch.cat([self.features(part).argmax(1) for part in self._parts(images)])
        self.votes.zero_().index_add_(0, winners, one_hot(labels, len(self.labels)).to(self.votes))
        self.votes.div_(self.votes.sum(1, keepdim=True).clamp(min=1))

    def _drawn(self, data: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """All images as bytes with their labels, or as many of them as are learned from, drawn at random."""
        parts, classes = [], []
        for batch in data:
            parts.append((batch.images * 255).round().byte())
            classes.append(label_indices(batch))
        images, labels = torch.cat(parts), torch.cat(classes)
        chosen = torch.randperm(len(images))[: self.images]
        return images[chosen], labels[chosen].to(self.device)

    def _parts(self, images: Tensor) -> Iterable[Tensor]:
        return (to_float(part).to(self.device) for part in images.split(CHUNK))

    @property
    def explained_layer(self) -> str:
        return "stages.1.complex"

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The patterns of the first S-planes that have learned, black where nothing is seen; each has its own scale."""
        cells = self.stages[0]["simple"]  # type: ignore[index]
        known = (cells.b > 0).nonzero()[:, 0]
        patterns = cells.a[known] / cells.c  # a gathers c u; what is seen is u
        patterns = patterns / patterns.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        return {"first planes": (patterns.expand(-1, 3, -1, -1), tuple(f"plane {k}" for k in known.tolist()))}


INK = Preprocess(size=(16, 16), resize="squash", crop=1.0, mean=(0.0,), std=(1.0,), grey=True)

VARIANTS = {"neocognitron": NeocognitronSpec(DIGITS, INK)}
