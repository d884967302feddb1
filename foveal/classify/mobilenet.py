"""MobileNets: a convolution as two cheap ones, of each map by itself (depthwise), then across maps (pointwise, 1x1).

    v1         y = relu(pointwise(relu(depthwise(x))))                 Howard et al. 2017, arXiv:1704.04861
    v2         y = x + project(relu6(depthwise(relu6(expand(x)))))     Sandler et al. 2018, arXiv:1801.04381
    v3         v2 with squeeze and excitation before `project`, and    Howard et al. 2019, arXiv:1905.02244
               hard-swish, x relu6(x + 3) / 6, where maps are small
    Lite0      v2 with the depths and kernels of EfficientNet-B0       Tan and Le 2019, arXiv:1905.11946

Each layer has a norm. `expand` and `project` are 1x1 convolutions to more maps and back; nothing squashes what
`project` gives. The shortcut x + is there where both have one shape.

Publishers differ in what no weight shows: torchvision has eps=1e-3 in the norms of v3, timm 1e-5. Names with tf_ are
of weights that Google trained with TensorFlow, with eps=1e-3 and its "same" padding, which is lopsided where a stride
is 2. Names and shapes of the weights are equal, so `refuses` looks at who published them; in timm's layout there are
both kinds, and nothing tells them apart but the name of the file.

Departs from the papers, as published weights do: v1 has relu6 as v2 has.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec, last
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError
from foveal.nn.same_padding import SameConv2d
from foveal.nn.squeeze_excitation import SqueezeExcitation
from foveal.nn.stochastic_depth import StochasticDepth, linear_rule
from foveal.system import Preprocess

Activation = Literal["relu", "relu6", "hardswish"]
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


class Row(NamedTuple):
    """A line in the table of a paper: `depth` blocks of one kind, of which the first has the stride."""

    kernel: int
    expansion: float
    out: int
    depth: int
    stride: int
    excite: bool
    activation: Activation


@dataclass(frozen=True)
class MobileNetSpec(ClassifierSpec):
    """
    rows:             of blocks: kernel, expansion, maps, number of blocks, stride of the first, whether they have
                      squeeze and excitation, activation. The expansion is a multiple of the maps that enter a block; 1
                      is for no expansion, 0 for a block of v1. Rows of equally many maps are one stage.
    stem:             maps of the first convolution.
    stem_stride:      its stride.
    head:             maps of a last 1x1 convolution, 0 for none.
    hidden:           units of a layer before the classifier, 0 for none.
    activation:       of stem, head and hidden layer.
    width:            factor of all these numbers of maps, which are rounded to multiples of 8; a factor below 1 leaves
                      head and hidden layer as they are, but for the head of v3.
    padding:          "symmetric", or TensorFlow's "same".
    eps:              added to the variance in the norms.
    norm_momentum:    weight of a batch in the running statistics of the norms.
    dropout:          probability, before the classifier.
    stochastic_depth: drop probability of the last block's branch, growing linearly from the first.
    """

    rows: tuple[tuple[int, float, int, int, int, bool, Activation], ...] = ()
    stem: int = 32
    stem_stride: int = 2
    head: int = 1280
    hidden: int = 0
    activation: Activation = "relu6"
    width: float = 1.0
    padding: Literal["symmetric", "same"] = "symmetric"
    eps: float = 1e-5
    norm_momentum: float = 0.1
    dropout: float = 0.2
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("rows must have at least one row of blocks")
        if any(len(row) != len(Row._fields) for row in self.rows):
            raise InputError(f"a row has seven entries: {', '.join(Row._fields)}")
        for row in map(Row._make, self.rows):
            if row.kernel % 2 == 0 or min(row.kernel, row.out, row.depth, row.stride) < 1 or row.expansion < 0:
                raise InputError(f"a row has an odd kernel, and maps, depth and stride of at least 1, not {tuple(row)}")
            if row.activation not in ACTIVATIONS:
                raise InputError(f"an activation is one of {', '.join(ACTIVATIONS)}, not {row.activation!r}")
        if min(self.stem, self.stem_stride) < 1 or min(self.head, self.hidden) < 0:
            raise InputError("stem and stem_stride must be at least 1, head and hidden at least 0")
        if self.width <= 0 or self.eps <= 0:
            raise InputError("width and eps must be above 0")
        if not 0 <= self.dropout < 1 or not 0 < self.norm_momentum <= 1:
            raise InputError("dropout must be at least 0 and below 1, norm_momentum above 0 and at most 1")

    @property
    def stages(self) -> list[list[Row]]:
        """The rows of each stage."""
        stages: list[list[Row]] = []
        for row in map(Row._make, self.rows):
            if stages and stages[-1][0].out == row.out:
                stages[-1].append(row)
            else:
                stages.append([row])
        return stages


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but never below nine tenths of the number: processors like it so."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def layer(
    spec: MobileNetSpec, channels: int, out: int, kernel: int, stride: int, groups: int, activation: str | None
) -> nn.Sequential:
    """Convolution, norm and activation: (B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up."""
    same = spec.padding == "same" and stride > 1  # else both are symmetric
    kind, padding = (SameConv2d, 0) if same else (nn.Conv2d, kernel // 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = kind(channels, out, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(out, spec.eps, spec.norm_momentum)
    if activation is not None:
        layers["act"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)


class Block(nn.Module):
    """y = x + project(excite(depthwise(expand(x)))), of which a row may have less. (B, C, H, W) -> (B, out, h, w).

    `parts` are the names of those that it has, in order.
    """

    def __init__(self, spec: MobileNetSpec, row: Row, channels: int, out: int, stride: int, drop: float) -> None:
        super().__init__()
        middle = rounded(channels * row.expansion) if row.expansion not in (0, 1) else channels
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if row.expansion not in (0, 1):
            parts["expand"] = layer(spec, channels, middle, 1, 1, 1, row.activation)
        parts["depthwise"] = layer(spec, middle, middle, row.kernel, stride, middle, row.activation)
        if row.excite:
            parts["excite"] = SqueezeExcitation(middle, rounded(middle / 4), nn.Hardsigmoid)
        parts["project"] = layer(spec, middle, out, 1, 1, 1, row.activation if row.expansion == 0 else None)
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts = tuple(parts)
        self.shortcut = row.expansion != 0 and stride == 1 and channels == out
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.parts:
            y = self.get_submodule(part)(y)
        return x + self.drop(y) if self.shortcut else y


class MobileNet(Classifier):
    """Images are (B, 3, H, W) of any size. Stages are `stage1` ... `stageN`."""

    spec: MobileNetSpec

    def __init__(self, spec: MobileNetSpec) -> None:
        super().__init__(spec)
        act, width = spec.activation, spec.width
        channels = rounded(spec.stem * width)
        self.stem = layer(spec, spec.preprocess.channels, channels, 3, spec.stem_stride, 1, act)
        drops = iter(linear_rule(spec.stochastic_depth, sum(row[3] for row in spec.rows)))
        for number, rows in enumerate(spec.stages, 1):
            blocks = []
            for row in rows:
                for n in range(row.depth):
                    out = rounded(row.out * width)
                    blocks.append(Block(spec, row, channels, out, row.stride if n == 0 else 1, next(drops)))
                    channels = out
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
        self.head: nn.Module = nn.Identity()
        if spec.head:
            out = rounded(spec.head * (width if spec.hidden else max(1.0, width)))
            self.head = layer(spec, channels, out, 1, 1, 1, act)
            channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden: nn.Module = nn.Identity()
        if spec.hidden:
            out = rounded(spec.hidden * max(1.0, width))
            self.hidden = nn.Sequential(OrderedDict(linear=nn.Linear(channels, out), act=ACTIVATIONS[act]()))
            channels = out
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, len(spec.labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Keeps the variance of gradients through relu; each input of a depthwise one goes to one map alone.
                fan_out = module.weight[:, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = last(self.maps(self.normalize(images)))
        x = self.pool(self.head(x)).flatten(1)  # (B, C)
        return self.classifier(self.dropout(self.hidden(x)))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stem(x)
        for number in range(1, len(self.spec.stages) + 1):
            x = self.get_submodule(f"stage{number}")(x)  # (B, C, h, w)
            yield x

    @property
    def blocks(self) -> dict[str, Block]:
        """All blocks in order, by their names."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    @property
    def explained_layer(self) -> str:
        return "head" if self.spec.head else f"stage{len(self.spec.stages)}"

    def refuses(self, layout: str) -> str | None:
        usual, torchvision = (1e-5, "symmetric"), (1e-3 if self.spec.hidden else 1e-5, "symmetric")
        tensorflow = (1e-3, "same")
        known = {"torchvision": [torchvision], "timm": [usual, tensorflow], "efficientnet_pytorch": [tensorflow]}
        ours = (self.spec.eps, self.spec.padding)
        if ours in known.get(layout, [ours]):
            return None
        theirs = " or ".join("eps={}, padding={}".format(*pair) for pair in known[layout])
        alike = {name: spec for name, spec in VARIANTS.items() if spec.rows == self.spec.rows}
        better = [name for name, spec in alike.items() if (spec.eps, spec.padding) in known[layout]]
        advice = f"create {' or '.join(better)}" if better else "create one that has"
        return f"its networks have {theirs}, this one has eps={ours[0]}, padding={ours[1]}; {advice}"


def table(activation: Activation, *rows: tuple[int, float, int, int, int]) -> tuple[Row, ...]:
    """Rows of kernel, expansion, maps, depth and stride, of one activation and without squeeze and excitation."""
    return tuple(Row(*row, False, activation) for row in rows)


V1 = table("relu6", (3, 0, 64, 1, 1), (3, 0, 128, 2, 2), (3, 0, 256, 2, 2), (3, 0, 512, 6, 2), (3, 0, 1024, 2, 2))
V2 = table(
    "relu6", (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (3, 6, 32, 3, 2), (3, 6, 64, 4, 2), (3, 6, 96, 3, 1),
    (3, 6, 160, 3, 2), (3, 6, 320, 1, 1),
)  # fmt: skip
LITE0 = table(
    "relu6", (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2), (3, 6, 320, 1, 1),
)  # fmt: skip
V3_LARGE = (
    Row(3, 1, 16, 1, 1, False, "relu"), Row(3, 4, 24, 1, 2, False, "relu"), Row(3, 3, 24, 1, 1, False, "relu"),
    Row(5, 3, 40, 3, 2, True, "relu"),
    *table("hardswish", (3, 6, 80, 1, 2), (3, 2.5, 80, 1, 1), (3, 2.3, 80, 2, 1)),
    Row(3, 6, 112, 2, 1, True, "hardswish"), Row(5, 6, 160, 3, 2, True, "hardswish"),
)  # fmt: skip
# From the last stride on with half the maps, as section 6.3 of the paper of v3 has it for detectors.
V3_REDUCED = (*V3_LARGE[:-1], V3_LARGE[-1]._replace(out=80))
V3_SMALL = (
    Row(3, 1, 16, 1, 2, True, "relu"), Row(3, 4.5, 24, 1, 2, False, "relu"), Row(3, 3.67, 24, 1, 1, False, "relu"),
    Row(5, 4, 40, 1, 2, True, "hardswish"), Row(5, 6, 40, 2, 1, True, "hardswish"),
    Row(5, 3, 48, 2, 1, True, "hardswish"), Row(5, 6, 96, 3, 2, True, "hardswish"),
)  # fmt: skip
V2_NANO = table("relu6", (3, 1, 16, 1, 1), (3, 4, 24, 2, 2), (3, 4, 32, 2, 2))
V3_NANO = (
    Row(3, 1, 16, 1, 1, False, "relu"), Row(3, 4, 24, 1, 2, True, "relu"), Row(5, 4, 32, 2, 2, True, "hardswish"),
)  # fmt: skip

HALVES = (0.5, 0.5, 0.5)
BICUBIC = Preprocess(interpolation="bicubic")
GOOGLE = Preprocess(mean=HALVES, std=HALVES)
GOOGLE_BICUBIC = replace(GOOGLE, interpolation="bicubic")
# Section 6.1 of the paper of v2, with a rate for our batches and without its decay by epochs.
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.045, "momentum": 0.9, "weight_decay": 4e-5, "flip": True}
RECIPE |= {"crop_scale": (0.08, 1.0)}

MOBILENET_V1 = MobileNetSpec(IMAGENET_1K, GOOGLE_BICUBIC, RECIPE, V1, head=0)
MOBILENET_V2 = MobileNetSpec(IMAGENET_1K, Preprocess(), RECIPE, V2)
LITE = replace(MOBILENET_V2, rows=LITE0, preprocess=BICUBIC)
V3 = replace(MOBILENET_V2, stem=16, activation="hardswish", eps=1e-3, norm_momentum=0.01)
LARGE = replace(V3, rows=V3_LARGE, head=960, hidden=1280)
SMALL = replace(V3, rows=V3_SMALL, head=576, hidden=1024)
NANO = MobileNetSpec(
    DIGITS,
    replace(GOOGLE, size=(16, 16), resize="squash", crop=1.0),
    {"epochs": 20, "lr": 0.01, "shift": 0.125},
    table("relu6", (3, 0, 32, 1, 2), (3, 0, 64, 2, 2)),
    stem=16,
    stem_stride=1,
    head=0,
    dropout=0.0,
)

VARIANTS = {
    "mobilenetv1_100": MOBILENET_V1,
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v3_large": LARGE,
    "mobilenet_v3_small": SMALL,
    # With the constants that SSDLite's weights have in torchvision.
    "mobilenet_v3_large_reduced": replace(
        LARGE, preprocess=GOOGLE, rows=V3_REDUCED, head=480, hidden=640, norm_momentum=0.03
    ),
    "mobilenetv3_large_100": replace(LARGE, preprocess=BICUBIC, eps=1e-5, norm_momentum=0.1),
    "mobilenetv3_small_100": replace(SMALL, preprocess=BICUBIC, eps=1e-5, norm_momentum=0.1),
    "tf_mobilenetv3_large_100": replace(LARGE, preprocess=GOOGLE, padding="same"),
    "tf_mobilenetv3_small_100": replace(SMALL, preprocess=GOOGLE, padding="same"),
    "efficientnet_lite0": LITE,
    "tf_efficientnet_lite0": replace(LITE, preprocess=GOOGLE_BICUBIC, padding="same", eps=1e-3),
    "mobilenet_v1_nano": NANO,
    "mobilenet_v2_nano": replace(NANO, rows=V2_NANO, head=128),
    "mobilenet_v3_nano": replace(NANO, rows=V3_NANO, head=96, hidden=128, activation="hardswish"),
}
