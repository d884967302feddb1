"""Squeeze-and-excitation networks: residual networks whose blocks weigh their maps by what the whole image shows.

    y = relu(x + excite(F(x)))                  Hu, Shen, Albanie, Sun and Wu 2017, arXiv:1709.01507

F is that of ResNet or ResNeXt (resnet.py), `excite` stands in foveal/nn/squeeze_excitation.py. SENet-154 is the winner
of ILSVRC 2017, a ResNeXt of 152 layers with a stem of three convolutions and more changes.

Two kinds of it are published, under timm's names. `legacy_*` are the authors' own, trained with Caffe: bottlenecks of
SE-ResNet have the stride in the first convolution, the stem's pooling has no padding, but goes over the lower and the
right border. The others follow today's ResNet.

Departs from the paper in what published weights do: the two matrices have biases.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from torch import Tensor, nn

from foveal.classify import resnet
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.classify.resnet import IMAGENET_RECIPE, Block, ResNet, ResNetSpec, convolution
from foveal.errors import InputError
from foveal.nn.squeeze_excitation import SqueezeExcitation
from foveal.system import Preprocess


@dataclass(frozen=True)
class SENetSpec(ResNetSpec):
    """
    reduction: how many times shorter than a block's output the vector between the two matrices is.
    caffe:     as the authors' networks: pooling without padding, squeezed vectors of less than 8 numbers, and a relu
               before the excitation of basic blocks.
    deep:      the changes of SENet-154: three 3x3 convolutions in the stem, half as many channels between the 1x1 and
               the 3x3 convolution of a bottleneck, and projections of 3x3 where they have a stride.
    """

    reduction: int = 16
    caffe: bool = False
    deep: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction < 1:
            raise InputError(f"reduction must be at least 1, not {self.reduction}")
        if self.preactivation:
            raise InputError("squeeze and excitation is for blocks without preactivation")
        if self.deep and (self.block, self.stem, self.shortcut) != ("bottleneck", "7x7", "projection"):
            raise InputError("deep is for bottleneck blocks, the 7x7 stem, which it replaces, and projections")
        if self.deep and self.stride_in_1x1:
            raise InputError("deep has its stride in the 3x3 convolution, so stride_in_1x1 does not go with it")
        self.check(self.preprocess.size)

    @property
    def stem_width(self) -> int:
        return 2 * self.width if self.deep else self.width

    def check(self, size: tuple[int, ...]) -> None:
        """Raises InputError where the stem's pooling would leave nothing of images of this height and width."""
        if self.caffe and self.stem == "7x7" and min(size) < 3:
            raise InputError(f"this senet takes images of 3 pixels or more, not {size[0]} x {size[1]}")


class SEBlock(Block):
    """y = relu(shortcut(x) + excite(F(x))). (B, C, H, W) -> (B, out, H / s, W / s)."""

    def __init__(self, spec: SENetSpec, channels: int, width: int, stride: int, drop: float) -> None:
        super().__init__(spec, channels, width, stride, drop)
        if spec.deep:
            middle = self.branch.get_parameter("conv2.weight").shape[0]
            self.branch.conv1 = convolution(channels, middle // 2, 1)
            self.branch.norm1 = spec.normalise(middle // 2)
            self.branch.relu1 = spec.activate(middle // 2)
            self.branch.conv2 = convolution(middle // 2, middle, 3, stride, spec.groups)
            if stride > 1:
                self.shortcut.conv = convolution(channels, self.out, 3, stride)
        self.activate = spec.activate(self.out) if spec.caffe and spec.block == "basic" else nn.Identity()
        self.excite = SqueezeExcitation(self.out, max(self.out // spec.reduction, 1 if spec.caffe else 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.excite(self.activate(self.branch(x)))
        return self.relu(self.shortcut(x) + self.drop(y))


def stem(spec: SENetSpec) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(resnet.stem(spec).named_children())
    if spec.deep:
        pool, layers = layers["pool"], OrderedDict()
        channels = spec.preprocess.channels
        for number, (out, stride) in enumerate([(spec.width, 2), (spec.width, 1), (spec.stem_width, 1)], 1):
            layers[f"conv{number}"] = convolution(channels, out, 3, stride)
            layers |= {f"norm{number}": spec.normalise(out), f"relu{number}": spec.activate(out)}
            channels = out
        layers["pool"] = pool
    if spec.caffe and spec.stem == "7x7":
        layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(layers)


class SENet(ResNet):
    """Images are (B, 3, H, W) of any size, of 3 pixels or more with a Caffe stem. Stages are `stage1` ... `stageN`."""

    spec: SENetSpec

    def __init__(self, spec: SENetSpec) -> None:
        super().__init__(spec, stem=stem, block=SEBlock)

    def forward(self, images: Tensor) -> Tensor:
        self.spec.check(tuple(images.shape[2:]))
        return super().forward(images)

    @property
    def first_filters(self) -> str:
        return "conv1.weight" if self.spec.deep else "conv.weight"


BICUBIC = Preprocess(interpolation="bicubic")
SERESNET18 = SENetSpec(IMAGENET_1K, BICUBIC, IMAGENET_RECIPE)
SERESNET34 = replace(SERESNET18, depths=(3, 4, 6, 3))
SERESNET50 = replace(SERESNET34, block="bottleneck")
SERESNET101 = replace(SERESNET50, depths=(3, 4, 23, 3))
SERESNET152 = replace(SERESNET50, depths=(3, 8, 36, 3))
SERESNEXT50 = replace(SERESNET50, groups=32, width_per_group=4)
SERESNEXT101 = replace(SERESNET101, groups=32, width_per_group=4)
SENET154 = replace(SERESNET152, groups=64, width_per_group=4, deep=True, dropout=0.2)


def legacy(spec: SENetSpec, preprocess: Preprocess) -> SENetSpec:
    """As the authors have it; only those that are no ResNeXt have the stride in the first convolution."""
    in_1x1 = spec.block == "bottleneck" and spec.groups == 1
    return replace(spec, preprocess=preprocess, caffe=True, stride_in_1x1=in_1x1)


VARIANTS = {
    "seresnet18": SERESNET18,
    "seresnet34": SERESNET34,
    "seresnet50": replace(SERESNET50, preprocess=replace(BICUBIC, crop=224 / 235)),
    "seresnet101": SERESNET101,
    "seresnet152": SERESNET152,
    "seresnext50_32x4d": SERESNEXT50,
    "seresnext101_32x4d": SERESNEXT101,
    "senet154": SENET154,
    "legacy_seresnet18": legacy(SERESNET18, BICUBIC),
    "legacy_seresnet34": legacy(SERESNET34, Preprocess()),
    "legacy_seresnet50": legacy(SERESNET50, Preprocess()),
    "legacy_seresnet101": legacy(SERESNET101, Preprocess()),
    "legacy_seresnet152": legacy(SERESNET152, Preprocess()),
    "legacy_seresnext50_32x4d": legacy(SERESNEXT50, Preprocess()),
    "legacy_seresnext101_32x4d": legacy(SERESNEXT101, Preprocess()),
    "legacy_senet154": legacy(SENET154, Preprocess()),
    "senet_nano": SENetSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, resnet.HALVES, resnet.HALVES),
        {"epochs": 20, "lr": 0.01, "shift": 0.125},
        depths=(1, 1, 1),
        width=16,
        stem="3x3",
        reduction=4,
    ),
}
