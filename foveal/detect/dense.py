"""What detectors share that look at every place of a pyramid of maps: their heads and how these are read."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from foveal.detect.detector import Detector, DetectorSpec
from foveal.errors import InputError
from foveal.nn.norm import NORMS
from foveal.nn.pyramid import Extra, FeaturePyramid

PRIOR = 0.01  # how probable a class is anywhere, before anything is learned


@dataclass(frozen=True)
class DenseSpec(DetectorSpec):
    """
    extra: what makes the pyramid's coarser maps (FeaturePyramid).
    width: channels of the pyramid and the heads.
    depth: convolutions of a head before the one that tells.
    norm:  group norms follow them.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    extra: Extra = "convolve_last"
    width: int = 256
    depth: int = 4
    norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.depth) < 1:
            raise InputError(f"width and depth are at least 1, not {self.width} and {self.depth}")


class DenseDetector(Detector):
    """A backbone, a pyramid on it with `count` maps, and two heads: `classes` tells "scores", `boxes` what is `told`.

    told, shapes, bias: of the heads (Head).
    """

    def __init__(
        self, spec: DenseSpec, count: int, told: Mapping[str, int], shapes: int = 1, bias: bool = True
    ) -> None:
        super().__init__(spec)
        self.backbone = spec.build()
        self.pyramid = FeaturePyramid(self.backbone.channels, spec.width, spec.extra)
        if self.pyramid.count != count:
            raise InputError(f"the pyramid has {self.pyramid.count} maps, while there are steps or sizes of {count}")
        self.classes = Head(spec, {"scores": len(spec.labels)}, shapes, bias)
        # Where no class is probable the many places without an object do not drown all others at first (section 3.3 of
        # arXiv:1708.02002).
        nn.init.constant_(self.classes.tell.get_parameter("scores.bias"), -log((1 - PRIOR) / PRIOR))
        self.boxes = Head(spec, told, shapes, bias)

    accelerated = "own_maps"

    def own_maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps of the pyramid, (B, width, h, w) each, finest first."""
        return self.pyramid(self.backbone(self.normalize(images)))

    @property
    def explained_layer(self) -> str:
        # The coarsest map that enters the pyramid, from where it flows down to all others.
        return f"pyramid.lateral.{len(self.spec.strides) - 1}"


class Head(nn.Module):
    """A tower of convolutions and, on what leaves it, one for each thing that is told: the same for all maps.

    Maps (B, width, h, w) -> {name: (B, N, K)}, N = sum of h w `shapes` over the maps: row by row, column by column,
    then shape by shape.

    told:   K of each name.
    shapes: how many boxes are looked for at each place.
    bias:   the convolutions of the tower have one.
    """

    def __init__(self, spec: DenseSpec, told: Mapping[str, int], shapes: int = 1, bias: bool = True) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for n in range(1, spec.depth + 1):
            layers[f"conv{n}"] = nn.Conv2d(spec.width, spec.width, 3, padding=1, bias=bias)
            if spec.norm:
                layers[f"norm{n}"] = NORMS["group"](spec.width)
            layers[f"relu{n}"] = nn.ReLU()
        self.tower = nn.Sequential(layers)
        self.tell = nn.ModuleDict({name: nn.Conv2d(spec.width, shapes * k, 3, padding=1) for name, k in told.items()})
        self.shapes = shapes
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        towers = [self.tower(x) for x in maps]
        return {name: torch.cat([self._rows(tell(x)) for x in towers], 1) for name, tell in self.tell.items()}

    def _rows(self, x: Tensor) -> Tensor:
        """(B, A K, h, w) -> (B, h w A, K)."""
        return x.unflatten(1, (self.shapes, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def extents(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each map."""
    return [(x.shape[2], x.shape[3]) for x in maps]


def levels(counts: Sequence[int], device: torch.device) -> Tensor:
    """(N,) int64: the number of its map for each of `counts` rows of each map."""
    return torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
