"""AlexNet and ZFNet: five convolutions and three fully connected layers, trained end to end on ImageNet.

`alexnet_paper`  Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural
                 networks": two halves that meet in the third convolution (groups of 2), with local response norms.
`alexnet`        Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997:
                 narrower, without halves and norms; the network of torchvision's weights.
`zfnet`          Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", arXiv:1311.2901: what
                 AlexNet's first filters look like suggested smaller ones (7x7, not 11x11) in finer steps.

    each stage: convolution, relu, [norm], [3x3 max-pooling with stride 2, whose windows overlap]

Departs from the papers: weights start with He's deviation (2012: 0.01, and biases of one in some layers, which learns
slowly or not at all); the last maps are averaged to `grid`, so that images of other sizes can be used, which changes
nothing at 224 pixels; the 2012 paper says 224 pixels where its arithmetic needs the padding that it has here; the norm
of ZFNet, of which the paper says that it is "across feature maps", has the formula of the 2012 paper.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec, filter_pictures, last
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.hidden import hidden_classifier
from foveal.nn.init import init_for_relu
from foveal.nn.response_norm import response_norm
from foveal.system import Preprocess


@dataclass(frozen=True)
class AlexNetSpec(ClassifierSpec):
    """
    channels:      of each convolution, one a stage.
    kernels:       size of each convolution.
    strides:       of each convolution.
    padding:       of each convolution.
    groups:        of each convolution.
    pooled:        numbers, from 1, of the stages that end with max-pooling.
    ceil:          pooling keeps a window that hangs over the edge, so that sizes round up.
    response_norm: of the first two stages: "before_pool" (2012), "after_pool" (ZFNet; Caffe's AlexNet), or "none".
    grid:          side of the map that the fully connected layers read; maps of other sizes are averaged to it.
    hidden:        units in each of the two hidden layers.
    dropout:       probability, of these units.
    """

    channels: tuple[int, ...] = (64, 192, 384, 256, 256)
    kernels: tuple[int, ...] = (11, 5, 3, 3, 3)
    strides: tuple[int, ...] = (4, 1, 1, 1, 1)
    padding: tuple[int, ...] = (2, 2, 1, 1, 1)
    groups: tuple[int, ...] = (1, 1, 1, 1, 1)
    pooled: tuple[int, ...] = (1, 2, 5)
    ceil: bool = False
    response_norm: Literal["none", "before_pool", "after_pool"] = "none"
    grid: int = 6
    hidden: int = 4096
    dropout: float = 0.5

    def __post_init__(self) -> None:
        count = len(self.channels)
        per_stage = {"kernels": self.kernels, "strides": self.strides, "padding": self.padding, "groups": self.groups}
        for field, values in per_stage.items():
            if len(values) != count:
                raise InputError(f"{field} must have a value for each of the {count} channels, not {values}")
        if not count or min(*self.channels, *self.kernels, *self.strides, *self.groups, self.grid, self.hidden) < 1:
            raise InputError("channels, kernels, strides, groups, grid and hidden must be at least 1")
        if min(self.padding) < 0 or any(p >= k for p, k in zip(self.padding, self.kernels, strict=True)):
            raise InputError(f"padding must be at least 0 and below the kernel's size, not {self.padding}")
        inputs = (self.preprocess.channels, *self.channels)
        for stage, (before, after, groups) in enumerate(zip(inputs, self.channels, self.groups, strict=False), 1):
            if before % groups or after % groups:
                raise InputError(f"{groups} groups cannot share the {before} and {after} channels of stage {stage}")
        if wrong := [stage for stage in self.pooled if not 1 <= stage <= count]:
            raise InputError(f"there is no stage {wrong[0]} to be pooled, stages are 1 to {count}")
        check_drop("dropout", self.dropout)

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which something is left after the last stage."""
        side = 1
        for stage in range(len(self.channels), 0, -1):
            if stage in self.pooled:
                side = 2 * side + (not self.ceil)
            kernel, stride, padding = self.kernels[stage - 1], self.strides[stage - 1], self.padding[stage - 1]
            side = max(1, stride * (side - 1) + kernel - 2 * padding)
        return side


def convolution_stage(spec: AlexNetSpec, number: int, channels: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, spec.channels[number - 1], h, w)."""
    n = number - 1
    conv = nn.Conv2d(
        channels, spec.channels[n], spec.kernels[n], spec.strides[n], spec.padding[n], groups=spec.groups[n]
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, relu=nn.ReLU())
    if number <= 2 and spec.response_norm == "before_pool":
        layers["norm"] = response_norm()
    if number in spec.pooled:
        layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=spec.ceil)
    if number <= 2 and spec.response_norm == "after_pool":
        layers["norm"] = response_norm()
    init_for_relu(conv)
    return nn.Sequential(layers)


class AlexNet(Classifier):
    """Images are (B, 3, H, W), of 224 x 224 pixels in the papers, and of `spec.smallest` pixels or more."""

    spec: AlexNetSpec

    def __init__(self, spec: AlexNetSpec) -> None:
        super().__init__(spec)
        self.check_smallest(spec.preprocess.size, spec.smallest)
        # alexnet: (B, 3, 224, 224) -> (B, 64, 27, 27) -> (B, 192, 13, 13) -> ... -> (B, 256, 6, 6)
        channels = spec.preprocess.channels
        for number, out in enumerate(spec.channels, 1):
            self.add_module(f"stage{number}", convolution_stage(spec, number, channels))
            channels = out
        self.pool = nn.AdaptiveAvgPool2d(spec.grid)
        self.classifier = hidden_classifier(channels * spec.grid**2, spec.hidden, len(spec.labels), spec.dropout)

    def forward(self, images: Tensor) -> Tensor:
        self.check_smallest(images.shape[2:], self.spec.smallest)
        x = last(self.maps(self.normalize(images)))
        return self.classifier(self.pool(x).flatten(1))  # flattened map by map, row by row

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        for number in range(1, len(self.spec.channels) + 1):
            x = self.get_submodule(f"stage{number}")(x)  # (B, C, h, w)
            yield x

    @property
    def explained_layer(self) -> str:
        return f"stage{len(self.spec.channels)}.relu"  # before pooling: 13 x 13 places, not 6 x 6

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The filters of the first convolution, as in figure 3 of the 2012 paper."""
        return filter_pictures(self.get_parameter("stage1.conv.weight"))


# Section 5 of the 2012 paper; batches of 128, and 90 epochs of ImageNet.
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
RECIPE |= {"crop_scale": (0.25, 1.0), "flip": True}

ALEXNET = AlexNetSpec(IMAGENET_1K, Preprocess(), RECIPE, finetune={"lr": 1e-4})  # see vgg.py
ZFNET = replace(
    ALEXNET,
    channels=(96, 256, 384, 384, 256),
    kernels=(7, 5, 3, 3, 3),
    strides=(2, 2, 1, 1, 1),
    padding=(1, 0, 1, 1, 1),
    ceil=True,
    response_norm="after_pool",
)
ALEXNET_NANO = AlexNetSpec(
    DIGITS,
    Preprocess((16, 16), "squash", 1.0, (0.5,) * 3, (0.5,) * 3),
    {"epochs": 20, "lr": 0.002, "shift": 0.125},
    channels=(16, 32, 48, 48, 32),
    kernels=(5, 3, 3, 3, 3),
    strides=(1, 1, 1, 1, 1),
    padding=(2, 1, 1, 1, 1),
    groups=(1, 2, 1, 2, 2),
    response_norm="before_pool",
    pooled=(1, 5),
    grid=3,
    hidden=64,
    dropout=0.2,
)

VARIANTS = {
    "alexnet": ALEXNET,
    "alexnet_paper": replace(
        ALEXNET, channels=(96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), response_norm="before_pool"
    ),
    "alexnet_nano": ALEXNET_NANO,
    "zfnet": ZFNET,
    "zfnet_nano": replace(
        ALEXNET_NANO,
        kernels=(3, 3, 3, 3, 3),
        padding=(1, 1, 1, 1, 1),
        groups=(1, 1, 1, 1, 1),
        response_norm="after_pool",
        ceil=True,
    ),
}
