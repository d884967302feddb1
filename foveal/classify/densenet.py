"""Densely connected networks: each layer reads the maps of all layers before it in its stage.

    x_l = H_l([x_0, x_1, ..., x_{l-1}])         equation 2 of Huang, Liu, van der Maaten and Weinberger 2016,
                                                "Densely connected convolutional networks", arXiv:1608.06993

[...] puts maps side by side as channels. H_l is norm, relu, 3x3 convolution, and adds k maps, the growth rate; with a
bottleneck ("-B") norm, relu and a 1x1 convolution stand before it. Between two stages a transition mixes all maps by a
1x1 convolution, to half as many with compression ("-C"), and averages squares of 2x2.

Departs from the paper, as published weights do: a last norm and relu stand before the classifier, and ImageNet's are
trained with 0.1 for the rate and without dropout.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec, last
from foveal.classify.labels import CIFAR_10, DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.system import Preprocess


@dataclass(frozen=True)
class DenseNetSpec(ClassifierSpec):
    """
    depths:      number of layers in each stage.
    growth:      maps that each layer adds, k.
    width:       maps of the stem.
    stem:        "7x7" with stride 2 and max-pooling (1/4 of the image's size), or "3x3" (its full size).
    bottleneck:  maps between the two convolutions of a layer, as a multiple of `growth`; 0 for no first one.
    compression: share of the maps that is left by a transition, rounded down.
    dropout:     probability, after each layer.
    """

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    stem: Literal["7x7", "3x3"] = "7x7"
    bottleneck: int = 4
    compression: float = 0.5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 1:
            raise InputError(f"depths must give at least one layer for each stage, not {self.depths}")
        if min(self.growth, self.width) < 1 or self.bottleneck < 0:
            raise InputError("growth and width must be at least 1, bottleneck at least 0")
        if not 0 < self.compression <= 1 or int(self.width * self.compression) < 1:
            raise InputError(f"compression must be at most 1 and leave a map of {self.width}, not {self.compression}")
        check_drop("dropout", self.dropout)
        self.check(self.preprocess.size)

    @property
    def least(self) -> int:
        """The smallest side in pixels of an image that the transitions leave something of."""
        side = 2 ** (len(self.depths) - 1)
        return side if self.stem == "3x3" else 4 * side - 3

    def check(self, size: tuple[int, ...]) -> None:
        """Raises InputError where images of this height and width are too small."""
        if min(size) < self.least:
            raise InputError(
                f"a densenet of {len(self.depths)} stages takes images of {self.least} pixels or more, "
                f"not {size[0]} x {size[1]}"
            )


def activated(channels: int, out: int, size: int, number: int) -> OrderedDict[str, nn.Module]:
    """Norm, relu, convolution: (B, channels, H, W) -> (B, out, H, W)."""
    conv = nn.Conv2d(channels, out, size, padding=size // 2, bias=False)
    return OrderedDict({f"norm{number}": nn.BatchNorm2d(channels), f"relu{number}": nn.ReLU(), f"conv{number}": conv})


class DenseLayer(nn.Module):
    """[x, H(x)], H = norm, relu, 1x1 conv, norm, relu, 3x3 conv. (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, spec: DenseNetSpec, channels: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        middle = channels
        if spec.bottleneck:
            middle = spec.bottleneck * spec.growth
            layers |= activated(channels, middle, 1, 1)
        layers |= activated(middle, spec.growth, 3, 2 if spec.bottleneck else 1)
        self.branch = nn.Sequential(layers)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.dropout(self.branch(x))], 1)


def stem(spec: DenseNetSpec) -> nn.Sequential:
    channels, width = spec.preprocess.channels, spec.width
    if spec.stem == "3x3":
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, 3, padding=1, bias=False)))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
    layers |= {"norm": nn.BatchNorm2d(width), "relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 2, padding=1)}
    return nn.Sequential(layers)


def transition(channels: int, out: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, out, H / 2, W / 2), rounded down."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU())
    layers |= {"conv": nn.Conv2d(channels, out, 1, bias=False), "pool": nn.AvgPool2d(2)}
    return nn.Sequential(layers)


class DenseNet(Classifier):
    """Images are (B, 3, H, W) of any size from `spec.least` on. Stages are `stage1` ... `stageN`."""

    spec: DenseNetSpec

    def __init__(self, spec: DenseNetSpec) -> None:
        super().__init__(spec)
        self.stem = stem(spec)  # (B, 3, H, W) -> (B, width, H/4, W/4), or (B, width, H, W) of the small stem
        channels = spec.width
        for number, depth in enumerate(spec.depths, 1):
            if number > 1:
                out = int(channels * spec.compression)
                self.add_module(f"transition{number - 1}", transition(channels, out))
                channels = out
            layers = [DenseLayer(spec, channels + n * spec.growth) for n in range(depth)]
            self.add_module(f"stage{number}", nn.Sequential(*layers))
            channels += depth * spec.growth
        self.activate = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU()))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, len(spec.labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Keeps the variance through relu: He et al. 2015, arXiv:1502.01852, equation 10.
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        self.spec.check(tuple(images.shape[2:]))
        x = last(self.maps(self.normalize(images)))
        return self.classifier(self.pool(self.activate(x)).flatten(1))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stem(x)
        for number in range(1, len(self.spec.depths) + 1):
            if number > 1:
                x = self.get_submodule(f"transition{number - 1}")(x)
            x = self.get_submodule(f"stage{number}")(x)  # (B, C, h, w)
            yield x

    @property
    def explained_layer(self) -> str:
        return "activate"


HALVES = (0.5, 0.5, 0.5)
CIFAR = Preprocess((32, 32), "squash", 1.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# Section 4.2 of the paper.
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
IMAGENET_RECIPE = SGD | {"crop_scale": (0.08, 1.0), "flip": True}
CIFAR_RECIPE = SGD | {"batch_size": 64, "epochs": 300, "schedule": "step", "shift": 0.125, "flip": True}

DENSENET121 = DenseNetSpec(IMAGENET_1K, Preprocess(), IMAGENET_RECIPE)
DENSENET40_CIFAR = DenseNetSpec(
    CIFAR_10,
    CIFAR,
    CIFAR_RECIPE,
    depths=(12, 12, 12),
    growth=12,
    width=16,
    stem="3x3",
    bottleneck=0,
    compression=1.0,
)

VARIANTS = {
    "densenet121": DENSENET121,
    "densenet161": replace(DENSENET121, depths=(6, 12, 36, 24), growth=48, width=96),
    "densenet169": replace(DENSENET121, depths=(6, 12, 32, 32)),
    "densenet201": replace(DENSENET121, depths=(6, 12, 48, 32)),
    "densenet40_cifar": DENSENET40_CIFAR,
    "densenet100_bc_cifar": replace(DENSENET40_CIFAR, depths=(16, 16, 16), width=24, bottleneck=4, compression=0.5),
    "densenet_nano": DenseNetSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, HALVES, HALVES),
        {"epochs": 20, "lr": 0.01, "shift": 0.125},
        depths=(2, 2, 2),
        growth=12,
        width=16,
        stem="3x3",
        bottleneck=2,
    ),
}
