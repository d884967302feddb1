"""A classifier on the maps of a system that learned something else, or the same elsewhere: Alain and Bengio 2016,
"Understanding intermediate layers using linear classifier probes", arXiv:1610.01644.

    scores = W pool(maps(image)) + b

The backbone is any system that has maps, such as a classifier or an autoencoder. With `--freeze backbone` its
weights stay as they are, and the accuracy tells what they know; otherwise they are where learning begins.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foveal.classify.backbone import Backbone
from foveal.classify.classifier import Classifier, ClassifierSpec
from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.system import System


@dataclass(frozen=True)
class ProbeSpec(ClassifierSpec):
    """
    backbone: the system whose maps are looked at: a name, a run or a checkpoint. Its weights are where learning
              begins.
    stride:   which of its maps, by how many times smaller than the image it is.
    grid:     the map is averaged in so many rows and columns of cells; 1 is its mean.
    hidden:   width of a layer between map and classes; 0 for none, so that classes are linear in the map.
    """

    backbone: System | str = "autoencoder"
    stride: int = 16
    grid: int = 1
    hidden: int = 0

    def __post_init__(self) -> None:
        if self.stride < 1 or self.grid < 1:
            raise InputError("stride and grid must be at least 1")
        if self.hidden < 0:
            raise InputError(f"hidden must be at least 0, not {self.hidden}")

    def taken(self, parts: Sequence[System]) -> dict[str, Any]:
        """Images are prepared as the backbone has it; classes are the probe's own."""
        return {"preprocess": parts[0].preprocess}


class Probe(Classifier):
    """Images are (B, 3, H, W) of any size that the backbone has maps of."""

    spec: ProbeSpec

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__(spec)
        if not isinstance(spec.backbone, System) or not spec.backbone.can("maps"):
            raise InputError(f"{spec.backbone} cannot be the backbone of a probe: that is a system with maps")
        self.backbone = Backbone(spec.backbone, (spec.stride,))
        self.map = nn.Identity()  # a name by which the map is found
        self.pool = nn.AdaptiveAvgPool2d(spec.grid)
        width = self.backbone.channels[0] * spec.grid**2
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if spec.hidden:
            layers |= {"fc": nn.Linear(width, spec.hidden), "relu": nn.ReLU()}
        layers["output"] = nn.Linear(spec.hidden or width, len(spec.labels))
        self.classifier = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        (x,) = self.backbone(self.normalize(images))
        return self.classifier(self.pool(self.map(x)).flatten(1))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        yield from self.backbone(x)

    @property
    def base(self) -> System | None:
        return self.spec.backbone if isinstance(self.spec.backbone, System) else None

    @property
    def explained_layer(self) -> str:
        return "map"


VARIANTS = {
    "probe": ProbeSpec(DIGITS, recipe={"epochs": 30}),
    "probe_nano": ProbeSpec(DIGITS, recipe={"epochs": 40, "lr": 0.002}, backbone="autoencoder_nano", stride=4, grid=2),
}
