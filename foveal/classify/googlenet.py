"""GoogLeNet: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich 2014, "Going deeper with
convolutions", arXiv:1409.4842.

A stem makes the maps small early; then nine Inception modules look at each place in four ways at once,

    y = [1x1(x); 3x3(1x1(x)); 5x5(1x1(x)); 1x1(max-pooling(x))]        side by side, 1x1 keeps the others cheap

and the average of each map replaces the large hidden layers of its predecessors. In training two small classifiers on
maps half-way add their losses, so that early modules get a gradient of their own (`auxiliary`).

`googlenet_paper` is the paper's network. `googlenet` is that of torchvision's weights, which Google trained later:
batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167), no response norm, 3x3 in the place of 5x5, 2x2 in the last
max-pooling, pixels in [-1, 1]; torchvision calls the last `transform_input`, which undoes its usual normalisation. Its
file also has numbers for the auxiliary classifiers that nobody trained; they are left out unless `auxiliary=True`.

Departs from the paper: weights start with He's deviation; auxiliary classifiers average their map to 4 x 4 whatever
its size, where the paper's 5x5 windows fit 14 x 14 alone; the response norm is AlexNet's, since the paper gives none.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.classify.auxiliary import AuxiliaryClassifier
from foveal.classify.classifier import ClassifierSpec, filter_pictures
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.init import init_for_relu, init_scores
from foveal.nn.response_norm import response_norm
from foveal.system import Preprocess

# Table 1 of the paper: channels of 1x1; of 3x3 and the 1x1 before it; of 5x5 and the 1x1 before it; after max-pooling.
MODULES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),  # 3a, 3b
    (
        (192, 96, 208, 16, 48, 64),  # 4a
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),  # 4e
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),  # 5a, 5b
)
WIDTH = 64  # of the first convolution in this table


@dataclass(frozen=True)
class GoogLeNetSpec(ClassifierSpec):
    """
    width:             channels of the first convolution, a multiple of 8; all others are in the paper's proportion.
    depths:            modules in stage3, stage4 and stage5, the first ones of the paper's 2, 5 and 2.
    stem:              "7x7" makes maps of 1/8 of the image's size, "3x3" keeps its full size.
    large_kernel:      size of the larger convolution in a module.
    last_pool:         size of the last max-pooling, whose stride is 2.
    batch_norm:        after each convolution, which then has no bias.
    response_norm:     twice in the stem.
    auxiliary:         two more classifiers, on the first and the last but one module of stage4; their losses are added.
    auxiliary_weight:  what their losses are multiplied by.
    auxiliary_dropout: probability, of their hidden units.
    dropout:           probability, of the averages that the classifier reads.
    """

    width: int = 64
    depths: tuple[int, int, int] = (2, 5, 2)
    stem: Literal["7x7", "3x3"] = "7x7"
    large_kernel: Literal[3, 5] = 3
    last_pool: Literal[2, 3] = 2
    batch_norm: bool = True
    response_norm: bool = False
    auxiliary: bool = False
    auxiliary_weight: float = 0.3
    auxiliary_dropout: float = 0.7
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise InputError(f"width must be a multiple of 8, not {self.width}")
        if any(not 1 <= depth <= len(rows) for depth, rows in zip(self.depths, MODULES, strict=True)):
            raise InputError(f"depths must be at least (1, 1, 1) and at most (2, 5, 2), not {self.depths}")
        if self.auxiliary and self.depths[1] < 2:
            raise InputError("auxiliary classifiers need at least two modules in stage4")
        for name, value in (("dropout", self.dropout), ("auxiliary_dropout", self.auxiliary_dropout)):
            check_drop(name, value)
        if self.auxiliary_weight < 0:
            raise InputError(f"auxiliary_weight must be at least 0, not {self.auxiliary_weight}")

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which something is left in the last stage."""
        side = 2 * (self.last_pool - 1)  # of the maps of stage3: a 3x3 window needs two pixels, a 2x2 window one
        return side if self.stem == "3x3" else 8 * side - 1

    def channels(self, paper: int) -> int:
        """What the paper's number of channels becomes."""
        return paper * self.width // WIDTH


def unit(spec: GoogLeNetSpec, channels: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, [norm], relu. (B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up."""
    conv = nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=not spec.batch_norm)
    init_for_relu(conv)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if spec.batch_norm:
        layers["norm"] = nn.BatchNorm2d(out, eps=1e-3)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


class Inception(nn.Module):
    """(B, channels, H, W) -> (B, out, H, W), out the sum over the four branches; `row` is one of MODULES."""

    def __init__(self, spec: GoogLeNetSpec, channels: int, row: tuple[int, ...]) -> None:
        super().__init__()
        one, before_three, three, before_large, large, pooled = map(spec.channels, row)
        self.out = one + three + large + pooled
        self.branch1 = unit(spec, channels, one, 1)
        self.branch2 = nn.Sequential(
            OrderedDict(reduce=unit(spec, channels, before_three, 1), spatial=unit(spec, before_three, three, 3))
        )
        self.branch3 = nn.Sequential(
            OrderedDict(
                reduce=unit(spec, channels, before_large, 1),
                spatial=unit(spec, before_large, large, spec.large_kernel),
            )
        )
        self.branch4 = nn.Sequential(
            OrderedDict(pool=nn.MaxPool2d(3, 1, padding=1), project=unit(spec, channels, pooled, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def auxiliary_classifier(spec: GoogLeNetSpec, channels: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, C): averages of 4 x 4 parts of the map, 1x1 convolution, one hidden layer."""
    narrow, hidden = spec.channels(128), spec.channels(1024)
    fc, output = nn.Linear(16 * narrow, hidden), nn.Linear(hidden, len(spec.labels))
    init_for_relu(fc)
    init_scores(output)
    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(4),
            reduce=unit(spec, channels, narrow, 1),
            flatten=nn.Flatten(),
            fc=fc,
            relu=nn.ReLU(),
            dropout=nn.Dropout(spec.auxiliary_dropout),
            output=output,
        )
    )


def half(size: int = 3) -> nn.MaxPool2d:
    """Max-pooling with stride 2 that keeps a window which hangs over the edge, so that sizes round up."""
    return nn.MaxPool2d(size, 2, ceil_mode=True)


def stem(spec: GoogLeNetSpec) -> nn.Sequential:
    """(B, 3, H, W) -> (B, 192, H / 8, W / 8), or (B, 192, H, W) of the small one, for a width of 64."""
    width, out, large = spec.width, spec.channels(192), spec.stem == "7x7"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["unit1"] = unit(spec, spec.preprocess.channels, width, 7 if large else 3, 2 if large else 1)
    if large:
        layers["pool1"] = half()
    if spec.response_norm:
        layers["norm1"] = response_norm()
    layers |= {"unit2": unit(spec, width, width, 1), "unit3": unit(spec, width, out, 3)}
    if spec.response_norm:
        layers["norm2"] = response_norm()
    if large:
        layers["pool2"] = half()
    return nn.Sequential(layers)


class GoogLeNet(AuxiliaryClassifier):
    """Images are (B, 3, H, W), of 224 x 224 pixels in the paper, and of `spec.smallest` pixels or more."""

    spec: GoogLeNetSpec

    def __init__(self, spec: GoogLeNetSpec) -> None:
        super().__init__(spec)
        self.check_smallest(spec.preprocess.size, spec.smallest)
        self.stem = stem(spec)
        channels, outs = spec.channels(192), []
        # (B, 192, 28, 28) -> (B, 480, 28, 28), pool3 -> (B, 832, 14, 14), pool4 -> (B, 1024, 7, 7)
        for stage, (depth, rows) in enumerate(zip(spec.depths, MODULES, strict=True), 3):
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            for letter, row in zip("abcde", rows[:depth], strict=False):
                modules[letter] = module = Inception(spec, channels, row)
                channels = module.out
                outs.append(channels)
            self.add_module(f"stage{stage}", nn.Sequential(modules))
        self.pool3, self.pool4 = half(), half(spec.last_pool)
        first, last_but_one = spec.depths[0], spec.depths[0] + spec.depths[1] - 2
        self.auxiliary1 = auxiliary_classifier(spec, outs[first]) if spec.auxiliary else None
        self.auxiliary2 = auxiliary_classifier(spec, outs[last_but_one]) if spec.auxiliary else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, len(spec.labels))
        init_scores(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.get_submodule("stage4")(self.begin(images)))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        for before, stage in ((self.stem, "stage3"), (self.pool3, "stage4"), (self.pool4, "stage5")):
            x = self.get_submodule(stage)(before(x))
            yield x

    def begin(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 480, H / 16, W / 16), what stage4 reads."""
        self.check_smallest(images.shape[2:], self.spec.smallest)
        return self.pool3(next(self.maps(self.normalize(images))))

    def finish(self, x: Tensor) -> Tensor:
        """What stage4 gives -> (B, C)."""
        x = self.get_submodule("stage5")(self.pool4(x))
        return self.classifier(self.dropout(self.pool(x).flatten(1)))

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """The scores of the classifier, and of the auxiliary ones, in the paper on 4a and 4d."""
        x, maps = self.begin(images), []
        for module in self.get_submodule("stage4").children():
            x = module(x)
            maps.append(x)
        scores = {"class": self.finish(x)}
        if self.auxiliary1 is not None and self.auxiliary2 is not None:
            scores |= {"auxiliary1": self.auxiliary1(maps[0]), "auxiliary2": self.auxiliary2(maps[-2])}
        return scores

    @property
    def explained_layer(self) -> str:
        return "stage5"

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The filters of the first convolution."""
        return filter_pictures(self.stem.get_parameter("unit1.conv.weight"))


HALVES = (0.5, 0.5, 0.5)
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 2e-4}
RECIPE |= {"crop_scale": (0.08, 1.0), "flip": True}

GOOGLENET = GoogLeNetSpec(IMAGENET_1K, Preprocess(mean=HALVES, std=HALVES), RECIPE)

VARIANTS = {
    "googlenet": GOOGLENET,
    "googlenet_paper": replace(
        GOOGLENET,
        preprocess=Preprocess(),
        large_kernel=5,
        last_pool=3,
        batch_norm=False,
        response_norm=True,
        auxiliary=True,
        dropout=0.4,
    ),
    "googlenet_nano": GoogLeNetSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, HALVES, HALVES),
        {"epochs": 15, "batch_size": 64, "lr": 0.01, "shift": 0.125},
        width=8,
        depths=(1, 3, 1),
        stem="3x3",
        auxiliary=True,
        auxiliary_dropout=0.2,
    ),
}
