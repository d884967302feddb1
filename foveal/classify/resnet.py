"""Residual networks: blocks that learn what to add to their input.

    y = relu(x + F(x))                          He, Zhang, Ren and Sun 2015, arXiv:1512.03385
    y = x + F(x), norm and relu first in F      the same 2016, "Identity Mappings", arXiv:1603.05027: `preactivation`

F is two 3x3 convolutions ("basic"), or 1x1, 3x3, 1x1 with a narrow middle ("bottleneck"). The middle is wider in Wide
ResNet (Zagoruyko and Komodakis 2016, arXiv:1605.07146) and split into groups in ResNeXt (Xie, Girshick, Dollar, Tu and
He 2016, arXiv:1611.05431).

Departs from the papers, as published weights do:
- a bottleneck has its stride in the 3x3 convolution ("v1.5", Goyal et al. 2017), which costs 6 % and gains accuracy;
  `stride_in_1x1=True` is the paper's. Both take the same weights, so a file cannot tell which one it was trained for.
- with `preactivation` the stem is a bare convolution: its norm and relu are those of the first block.
- the identity shortcut that gains channels has its zero channels half before and half after, not all after.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from foveal.classify.classifier import Classifier, ClassifierSpec, filter_pictures, last
from foveal.classify.labels import CIFAR_10, DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.activation import ACTIVATIONS, Activation
from foveal.nn.init import Init
from foveal.nn.norm import NORMS, Norm
from foveal.nn.stochastic_depth import StochasticDepth, linear_rule
from foveal.system import Preprocess


@dataclass(frozen=True)
class ResNetSpec(ClassifierSpec):
    """
    block:              "basic" or "bottleneck".
    depths:             number of blocks in each stage; each stage after the first halves the size of the maps.
    width:              channels of the first stage, doubled by each next one; four times as many leave a bottleneck.
    groups:             groups of the 3x3 convolution in a bottleneck.
    width_per_group:    its channels in each group, where `width` is 64.
    stem:               "7x7" with stride 2 and max-pooling (1/4 of the image's size), or "3x3" (its full size).
    stride_in_1x1:      a bottleneck's stride is in its first convolution, not in its 3x3.
    preactivation:      norm and relu stand before each convolution.
    shortcut:           where a block changes the shape, "projection" is a 1x1 convolution (option B of the paper) and
                        "identity" the input at every other pixel with channels of zeros (option A, no parameters).
    dropout:            probability, before the classifier.
    stochastic_depth:   drop probability of the last block's branch, growing linearly from the first.
    zero_init_residual: each branch starts as zero, so that the untrained network is shallow (Goyal et al. 2017).
    activation:         the non-linearity, at the places that are named relu.
    norm:               what mean and variance are taken of: a batch, an image, each of its maps, or groups of them.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["7x7", "3x3"] = "7x7"
    stride_in_1x1: bool = False
    preactivation: bool = False
    shortcut: Literal["projection", "identity"] = "projection"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    zero_init_residual: bool = False
    activation: Activation = "relu"
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 1:
            raise InputError(f"depths must give at least one block for each stage, not {self.depths}")
        if min(self.width, self.groups, self.width_per_group) < 1:
            raise InputError("width, groups and width_per_group must be at least 1")
        if self.block == "basic" and (self.groups != 1 or self.width_per_group != 64 or self.stride_in_1x1):
            raise InputError("groups, width_per_group and stride_in_1x1 are of bottleneck blocks, these are basic")
        if self.width * self.width_per_group % 64:
            raise InputError(
                f"width * width_per_group must be a multiple of 64, not {self.width}*{self.width_per_group}"
            )
        check_drop("dropout", self.dropout)

    @property
    def stem_width(self) -> int:
        """Channels that leave the stem."""
        return self.width

    def activate(self, channels: int) -> nn.Module:
        """A non-linearity for so many channels."""
        return ACTIVATIONS[self.activation](channels)

    def normalise(self, channels: int) -> nn.Module:
        """A norm of so many maps."""
        return NORMS[self.norm](channels)


def convolution(channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """(B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up. The norm beside it has the bias."""
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, groups=groups, bias=False)


def branch_convolutions(spec: ResNetSpec, channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    """The convolutions of F for a stage of `width`."""
    if spec.block == "basic":
        return [convolution(channels, width, 3, stride), convolution(width, width, 3)]
    middle = width * spec.width_per_group // 64 * spec.groups
    first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
    return [
        convolution(channels, middle, 1, first),
        convolution(middle, middle, 3, second, spec.groups),
        convolution(middle, 4 * width, 1),
    ]


class PaddedIdentity(nn.Module):
    """Every `stride`-th pixel, and `extra` channels of zeros: half of them before the input's own, half after."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))


def shortcut(spec: ResNetSpec, channels: int, out: int, stride: int) -> nn.Module:
    """The input itself, or what has the shape of the block's output."""
    if stride == 1 and channels == out:
        return nn.Identity()
    if spec.shortcut == "identity":
        return PaddedIdentity(out - channels, stride)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution(channels, out, 1, stride))
    if not spec.preactivation:
        layers["norm"] = spec.normalise(out)
    return nn.Sequential(layers)


class Block(nn.Module):
    """y = relu(shortcut(x) + F(x)), F = conv, norm, relu, ..., conv, norm. (B, C, H, W) -> (B, out, H / s, W / s)."""

    def __init__(self, spec: ResNetSpec, channels: int, width: int, stride: int, drop: float) -> None:
        super().__init__()
        convolutions = branch_convolutions(spec, channels, width, stride)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for n, conv in enumerate(convolutions, 1):
            out = conv.out_channels
            layers |= {f"conv{n}": conv, f"norm{n}": spec.normalise(out), f"relu{n}": spec.activate(out)}
        layers.popitem()  # the last relu comes after the sum
        self.out = convolutions[-1].out_channels
        self.branch = nn.Sequential(layers)
        self.drop = StochasticDepth(drop)
        self.shortcut = shortcut(spec, channels, self.out, stride)
        self.relu = spec.activate(self.out)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.drop(self.branch(x)))


class PreactivationBlock(nn.Module):
    """y = x + F(a), a = relu(norm(x)), F = conv, norm, relu, ..., conv. (B, C, H, W) -> (B, out, H / s, W / s).

    A projection takes a; an identity takes x, so that nothing stands in its way.
    """

    def __init__(self, spec: ResNetSpec, channels: int, width: int, stride: int, drop: float) -> None:
        super().__init__()
        self.activate = nn.Sequential(OrderedDict(norm=spec.normalise(channels), relu=spec.activate(channels)))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for n, conv in enumerate(branch_convolutions(spec, channels, width, stride), 1):
            if n > 1:
                middle = conv.in_channels
                layers |= {f"norm{n}": spec.normalise(middle), f"relu{n}": spec.activate(middle)}
            layers[f"conv{n}"] = conv
            self.out = conv.out_channels
        self.branch = nn.Sequential(layers)
        self.drop = StochasticDepth(drop)
        self.shortcut = shortcut(spec, channels, self.out, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = self.activate(x)
        kept = self.shortcut(a if isinstance(self.shortcut, nn.Sequential) else x)
        return kept + self.drop(self.branch(a))


def stem(spec: ResNetSpec) -> nn.Sequential:
    large = spec.stem == "7x7"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = convolution(spec.preprocess.channels, spec.width, 7 if large else 3, 2 if large else 1)
    if not spec.preactivation:
        layers |= {"norm": spec.normalise(spec.width), "relu": spec.activate(spec.width)}
    if large:
        layers["pool"] = nn.MaxPool2d(3, 2, padding=1)
    return nn.Sequential(layers)


class ResNet(Classifier):
    """Images are (B, 3, H, W) of any size. Stages are `stage1` ... `stageN`; each after the first halves the maps.

    stem:  makes what comes before the stages.
    block: makes what they are made of; default Block or PreactivationBlock, as the spec says.
    """

    spec: ResNetSpec

    def __init__(
        self,
        spec: ResNetSpec,
        *,
        stem: Callable[[Any], nn.Module] = stem,
        block: Callable[[Any, int, int, int, float], Block | PreactivationBlock] | None = None,
    ) -> None:
        super().__init__(spec)
        self.stem = stem(spec)  # (B, 3, H, W) -> (B, width, H/4, W/4), or (B, width, H, W) of the small stem
        block = block or (PreactivationBlock if spec.preactivation else Block)
        drops = iter(linear_rule(spec.stochastic_depth, sum(spec.depths)))
        channels = spec.stem_width
        for number, depth in enumerate(spec.depths):
            blocks: list[Block | PreactivationBlock] = []
            for n in range(depth):
                stride = 2 if number > 0 and n == 0 else 1
                blocks.append(block(spec, channels, spec.width * 2**number, stride, next(drops)))
                channels = blocks[n].out
            self.add_module(f"stage{number + 1}", nn.Sequential(*blocks))
        # The sum that leaves the last preactivation block is still to be normalised.
        self.activate: nn.Module = nn.Identity()
        if spec.preactivation:
            self.activate = nn.Sequential(OrderedDict(norm=spec.normalise(channels), relu=spec.activate(channels)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, len(spec.labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Keeps the variance of gradients through relu: He et al. 2015, arXiv:1502.01852, equation 14.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._zero_branches()

    def initialise(self, how: Init) -> None:
        super().initialise(how)
        self._zero_branches()

    def _zero_branches(self) -> None:
        for module in self.modules():
            if self.spec.zero_init_residual and isinstance(module, Block | PreactivationBlock):
                for parameter in module.branch[-1].parameters():
                    nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        if self.spec.norm == "instance":  # a map of one pixel has no variance
            self.check_smallest(images.shape[2:], 2 ** (len(self.spec.depths) - 1) * self.stem_stride + 1)
        x = last(self.maps(self.normalize(images)))
        x = self.pool(self.activate(x)).flatten(1)  # (B, C)
        return self.classifier(self.dropout(x))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stem(x)
        for number in range(len(self.spec.depths)):
            x = self.get_submodule(f"stage{number + 1}")(x)  # (B, C, h, w)
            yield x

    @property
    def stem_stride(self) -> int:
        """How many times smaller than the image the maps are that leave the stem."""
        return 4 if self.spec.stem == "7x7" else 1

    @property
    def explained_layer(self) -> str:
        # What the classifier averages: with preactivation the last stage's sum, normalised.
        return "activate" if self.spec.preactivation else f"stage{len(self.spec.depths)}"

    @property
    def first_filters(self) -> str:
        """The weights of the first convolution, by their name in the stem."""
        return "conv.weight"

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The filters of the first convolution."""
        return filter_pictures(self.stem.get_parameter(self.first_filters))


HALVES = (0.5, 0.5, 0.5)
CIFAR = Preprocess((32, 32), "squash", 1.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}
IMAGENET_RECIPE = SGD | {"weight_decay": 1e-4, "crop_scale": (0.25, 1.0), "flip": True}
CIFAR_RECIPE = SGD | {"nesterov": True, "weight_decay": 5e-4, "schedule": "cosine"}
CIFAR_RECIPE |= {"batch_size": 128, "epochs": 30, "shift": 0.125, "flip": True}

RESNET18 = ResNetSpec(IMAGENET_1K, Preprocess(), IMAGENET_RECIPE)
RESNET34 = replace(RESNET18, depths=(3, 4, 6, 3))
RESNET50 = replace(RESNET34, block="bottleneck")
RESNET101 = replace(RESNET50, depths=(3, 4, 23, 3))
RESNET152 = replace(RESNET50, depths=(3, 8, 36, 3))


def preactivated(spec: ResNetSpec, resized: int) -> ResNetSpec:
    """With the preprocessing of timm's weights, which cut 224 pixels out of `resized`."""
    halves = Preprocess(crop=224 / resized, mean=HALVES, std=HALVES, interpolation="bicubic")
    return replace(spec, preprocess=halves, preactivation=True)


def cifar(depth: int) -> ResNetSpec:
    """Section 4.2 of the 2015 paper: 6 n + 2 layers, n blocks on maps of 32, n of 16 and n of 8 pixels."""
    n = (depth - 2) // 6
    return ResNetSpec(CIFAR_10, CIFAR, CIFAR_RECIPE, depths=(n, n, n), width=16, stem="3x3", shortcut="identity")


VARIANTS = {
    "resnet18": RESNET18,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "resnet152": RESNET152,
    "wide_resnet50_2": replace(RESNET50, width_per_group=128),
    "wide_resnet101_2": replace(RESNET101, width_per_group=128),
    "resnext50_32x4d": replace(RESNET50, groups=32, width_per_group=4),
    "resnext101_32x8d": replace(RESNET101, groups=32, width_per_group=8),
    "resnext101_64x4d": replace(RESNET101, groups=64, width_per_group=4, preprocess=Preprocess(crop=224 / 232)),
    "resnetv2_18": preactivated(RESNET18, 248),
    "resnetv2_34": preactivated(RESNET34, 248),
    "resnetv2_50": preactivated(RESNET50, 235),
    "resnetv2_101": preactivated(RESNET101, 235),
    "resnetv2_152": preactivated(RESNET152, 256),
    "resnet20_cifar": cifar(20),
    "resnet32_cifar": cifar(32),
    "resnet44_cifar": cifar(44),
    "resnet56_cifar": cifar(56),
    "resnet110_cifar": cifar(110),
    "resnet_nano": ResNetSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, HALVES, HALVES),
        {"epochs": 30, "lr": 0.01, "shift": 0.125},
        depths=(1, 1, 1),
        width=16,
        stem="3x3",
    ),
    # Maps with strides 4, 8, 16 and 32: what small detectors are built upon.
    "resnet10_nano": ResNetSpec(
        DIGITS,
        Preprocess((64, 64), "squash", 1.0, HALVES, HALVES),
        {"epochs": 30, "lr": 0.01, "shift": 0.125},
        depths=(1, 1, 1, 1),
        width=32,
    ),
}
