"""Inception v3: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2015, "Rethinking the Inception architecture for computer
vision", arXiv:1512.00567.

GoogLeNet's modules with their large convolutions taken apart. A 5x5 becomes two 3x3 one after another, an n x n becomes
1 x n and n x 1, which see as much for less:

    A, at 35 x 35:  y = [1x1; 5x5(1x1); 3x3(3x3(1x1)); 1x1(average)]             the 5x5 of one branch stays
    C, at 17 x 17:  y = [1x1; 7x1(1x7(1x1)); 1x7(7x1(1x7(7x1(1x1)))); 1x1(average)]
    E, at  8 x  8:  y = [1x1; (1x3 | 3x1)(1x1); (1x3 | 3x1)(3x3(1x1)); 1x1(average)]       | is side by side

Between them modules with stride 2 halve the maps by convolution and max-pooling side by side (B, D), so that nothing
has to be squeezed through few channels. An auxiliary classifier on the last C adds its loss in training.

`inception_v3` is the network of torchvision's and timm's weights, which Google trained; pixels are in [-1, 1], which
torchvision's `transform_input` makes of its usual normalisation. `inception_v3_fid` is the network of the usual Frechet
Inception distances (FID, Heusel et al. 2017, arXiv:1706.08500), whose weights are known as pt_inception-2015-12-05: it
has 1008 outputs, whose classes the file does not name, averages do not count the zeros around a map, the last module
takes the largest value for the average, and there is no auxiliary classifier. Its `features` are the 2048 averages of
the last maps, of images brought to 299 x 299 pixels. Smaller images are enlarged as others do it; larger ones are
antialiased, as Parmar, Zhang and Zhu 2021 advise (arXiv:2104.11222), where others are not: then figures are not to be
compared with theirs.

Departs from the paper: the stem and the 5x5 of A are those of the published weights, where table 1 has convolutions in
place of the second pooling, and figure 5 two 3x3; weights start with He's deviation; the auxiliary classifier takes
maps of less than 17 x 17, for which it is not made, by their averages over 5 x 5 parts; its loss is weighed as in
Google's code, as the paper does not say how.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.classify.auxiliary import AuxiliaryClassifier
from foveal.classify.classifier import ClassifierSpec, filter_pictures, last
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.init import init_for_relu, init_scores
from foveal.system import Preprocess

Size = tuple[int, int]  # height, width
Step = tuple[int, Size, int]  # channels, size and stride of a convolution
ONE, THREE, FIVE, WIDE, HIGH = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
WIDTH = 32  # channels of the first convolution; those of all others below are for it


@dataclass(frozen=True)
class Layout:
    """A module's branches.

    branches: the convolutions of each; one with stride 2 makes maps smaller.
    pooled:   channels of the branch with the pooling; 0 for the pooling alone, with stride 2.
    forked:   branches, counted from 0, that end in 1x3 and 3x1 side by side, and the channels of each of these.
    """

    branches: tuple[tuple[Step, ...], ...]
    pooled: int = 0
    forked: Mapping[int, int] | None = None


def a(pooled: int) -> Layout:
    """Of stage1, at 35 x 35."""
    five = ((48, ONE, 1), (64, FIVE, 1))
    three = ((64, ONE, 1), (96, THREE, 1), (96, THREE, 1))
    return Layout((((64, ONE, 1),), five, three), pooled)


def c(inner: int) -> Layout:
    """Of stage2, at 17 x 17: figure 6 of the paper, with `inner` channels between convolutions."""
    once = ((inner, ONE, 1), (inner, WIDE, 1), (192, HIGH, 1))
    twice = ((inner, ONE, 1), (inner, HIGH, 1), (inner, WIDE, 1), (inner, HIGH, 1), (192, WIDE, 1))
    return Layout((((192, ONE, 1),), once, twice), 192)


B = Layout((((384, THREE, 2),), ((64, ONE, 1), (96, THREE, 1), (96, THREE, 2))))
D = Layout(
    (
        ((192, ONE, 1), (320, THREE, 2)),
        ((192, ONE, 1), (192, WIDE, 1), (192, HIGH, 1), (192, THREE, 2)),
    )
)
E = Layout((((320, ONE, 1),), ((384, ONE, 1),), ((448, ONE, 1), (384, THREE, 1))), 192, {1: 384, 2: 384})

# By stage, under the letters that publishers know them by.
STAGES: tuple[dict[str, Layout], ...] = (
    {"b": a(32), "c": a(64), "d": a(64)},
    {"a": B, "b": c(128), "c": c(160), "d": c(160), "e": c(192)},
    {"a": D, "b": E, "c": E},
)


@dataclass(frozen=True)
class InceptionSpec(ClassifierSpec):
    """
    width:             channels of the first convolution, an even number; all others are in the paper's proportion.
    depths:            modules of each stage that keep the maps' size, the first ones of the paper's 3, 4 and 2.
    stem:              "large" makes maps of 1/8 of the image's size, "small" keeps its full size.
    count_padding:     averages of 3x3 windows count the zeros around the map.
    last_pool:         what the pooling branch of the last module takes of its 3x3 windows.
    auxiliary:         one more classifier, on the last module of stage2; its loss is added.
    auxiliary_weight:  what this loss is multiplied by.
    dropout:           probability, of the averages that the classifier reads.
    """

    width: int = WIDTH
    depths: tuple[int, int, int] = (3, 4, 2)
    stem: Literal["large", "small"] = "large"
    count_padding: bool = True
    last_pool: Literal["average", "max"] = "average"
    auxiliary: bool = True
    auxiliary_weight: float = 0.4
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise InputError(f"width must be an even number, not {self.width}")
        if len(self.depths) != 3 or any(not 1 <= n <= most for n, most in zip(self.depths, (3, 4, 2), strict=True)):
            raise InputError(f"depths must be at least (1, 1, 1) and at most (3, 4, 2), not {self.depths}")
        check_drop("dropout", self.dropout)
        if self.auxiliary_weight < 0:
            raise InputError(f"auxiliary_weight must be at least 0, not {self.auxiliary_weight}")

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which something is left in the last stage, whose two halvings need 7 pixels."""
        return 7 if self.stem == "small" else 75

    def channels(self, paper: int) -> int:
        """What the paper's number of channels becomes."""
        return paper * self.width // WIDTH


def unit(channels: int, out: int, size: Size, stride: int = 1, padded: bool = True) -> nn.Sequential:
    """Convolution, norm, relu. (B, channels, H, W) -> (B, out, H, W); without padding a map loses its border."""
    padding = (size[0] // 2, size[1] // 2) if padded else 0
    conv = nn.Conv2d(channels, out, size, stride, padding, bias=False)
    init_for_relu(conv)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out, eps=1e-3), relu=nn.ReLU()))


class Fork(nn.Module):
    """(B, channels, H, W) -> (B, 2 out, H, W): 1x3 and 3x1 side by side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.wide, self.high = unit(channels, out, (1, 3)), unit(channels, out, (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.wide(x), self.high(x)], 1)


class Inception(nn.Module):
    """(B, channels, H, W) -> (B, out, H, W), or (B, out, (H - 1) / 2, (W - 1) / 2), rounded down: its branches side by
    side. `largest`: the pooling takes the largest value of a window also where it keeps the maps' size."""

    def __init__(self, spec: InceptionSpec, channels: int, layout: Layout, largest: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        self.out = 0
        for place, steps in enumerate(layout.branches):
            before, layers = channels, OrderedDict[str, nn.Module]()
            for number, (paper, size, stride) in enumerate(steps, 1):
                out = spec.channels(paper)
                layers[f"unit{number}"] = unit(before, out, size, stride, padded=stride == 1)
                before = out
            if layout.forked and place in layout.forked:
                out = spec.channels(layout.forked[place])
                layers["fork"] = Fork(before, out)
                before = 2 * out
            self.branches.append(nn.Sequential(layers))
            self.out += before
        pooled = spec.channels(layout.pooled)
        if pooled:
            average = nn.AvgPool2d(3, 1, padding=1, count_include_pad=spec.count_padding)
            pool = nn.MaxPool2d(3, 1, padding=1) if largest else average
            self.branches.append(nn.Sequential(OrderedDict(pool=pool, unit1=unit(channels, pooled, ONE))))
        else:
            self.branches.append(nn.Sequential(OrderedDict(pool=nn.MaxPool2d(3, 2))))
        self.out += pooled or channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Parts(nn.Module):
    """(B, C, H, W) -> (B, C, 5, 5) of 17 x 17: the averages of 5x5 windows with stride 3. More parts of larger maps; of
    smaller ones, of which too few windows would fit, always 5 x 5."""

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 17:
            return nn.functional.adaptive_avg_pool2d(x, 5)
        return nn.functional.avg_pool2d(x, 5, 3)


def auxiliary_classifier(spec: InceptionSpec, channels: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, C)."""
    narrow, hidden = spec.channels(128), spec.channels(768)
    output = nn.Linear(hidden, len(spec.labels))
    init_scores(output)
    return nn.Sequential(
        OrderedDict(
            parts=Parts(),
            reduce=unit(channels, narrow, ONE),
            hidden=unit(narrow, hidden, FIVE, padded=False),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            output=output,
        )
    )


def stem(spec: InceptionSpec) -> nn.Sequential:
    """(B, 3, H, W) -> (B, 192, H / 8, W / 8) less a border, 35 x 35 of 299 x 299; the small one (B, 192, H, W)."""
    images, widths = spec.preprocess.channels, list(map(spec.channels, (32, 32, 64, 80, 192)))
    if spec.stem == "small":
        units = unit(images, widths[0], THREE), unit(widths[0], widths[4], THREE)
        return nn.Sequential(OrderedDict(unit1=units[0], unit2=units[1]))
    return nn.Sequential(
        OrderedDict(
            unit1=unit(images, widths[0], THREE, 2, padded=False),
            unit2=unit(widths[0], widths[1], THREE, padded=False),
            unit3=unit(widths[1], widths[2], THREE),
            pool1=nn.MaxPool2d(3, 2),
            unit4=unit(widths[2], widths[3], ONE),
            unit5=unit(widths[3], widths[4], THREE, padded=False),
            pool2=nn.MaxPool2d(3, 2),
        )
    )


class InceptionV3(AuxiliaryClassifier):
    """Images are (B, 3, H, W), of 299 x 299 pixels in the paper, and of `spec.smallest` pixels or more."""

    spec: InceptionSpec

    def __init__(self, spec: InceptionSpec) -> None:
        super().__init__(spec)
        self.check_smallest(spec.preprocess.size, spec.smallest)
        self.stem = stem(spec)
        channels, outs = spec.channels(192), []
        # (B, 192, 35, 35) -> (B, 288, 35, 35) -> (B, 768, 17, 17) -> (B, 2048, 8, 8)
        for stage, (depth, layouts) in enumerate(zip(spec.depths, STAGES, strict=True), 1):
            kept = list(layouts.items())[: depth + ("a" in layouts)]  # what makes the maps smaller is always there
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for letter, layout in kept:
                largest = spec.last_pool == "max" and stage == 3 and letter == kept[-1][0]
                layers[letter] = made = Inception(spec, channels, layout, largest)
                channels = made.out
            self.add_module(f"stage{stage}", nn.Sequential(layers))
            outs.append(channels)
        self.auxiliary = auxiliary_classifier(spec, outs[1]) if spec.auxiliary else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, len(spec.labels))
        init_scores(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(last(self.maps(self.checked(images))))

    def checked(self, images: Tensor) -> Tensor:
        """Images that are large enough, normalised."""
        self.check_smallest(images.shape[2:], self.spec.smallest)
        return self.normalize(images)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stem(x)
        for stage in ("stage1", "stage2", "stage3"):
            x = self.get_submodule(stage)(x)
            yield x

    def finish(self, x: Tensor) -> Tensor:
        """What stage3 gives -> (B, C)."""
        return self.classifier(self.dropout(self.pool(x).flatten(1)))

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """The scores of the classifier, and of the auxiliary one."""
        _, middle, end = self.maps(self.checked(images))
        scores = {"class": self.finish(end)}
        return scores if self.auxiliary is None else scores | {"auxiliary": self.auxiliary(middle)}

    @property
    def explained_layer(self) -> str:
        return "stage3"

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The filters of the first convolution."""
        return filter_pictures(self.stem.get_parameter("unit1.conv.weight"))


HALVES = (0.5, 0.5, 0.5)
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 4e-5}
RECIPE |= {"label_smoothing": 0.1, "crop_scale": (0.08, 1.0), "flip": True}
OUTPUTS = tuple(f"output {n}" for n in range(1008))

INCEPTION = InceptionSpec(IMAGENET_1K, Preprocess((299, 299), mean=HALVES, std=HALVES), RECIPE)

VARIANTS = {
    "inception_v3": INCEPTION,
    "inception_v3_fid": replace(
        INCEPTION,
        labels=OUTPUTS,
        preprocess=Preprocess((299, 299), "squash", 1.0, HALVES, HALVES),
        count_padding=False,
        last_pool="max",
        auxiliary=False,
    ),
    "inception_v3_nano": InceptionSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, HALVES, HALVES),
        {"epochs": 15, "batch_size": 64, "lr": 0.01, "shift": 0.125},
        width=4,
        depths=(1, 1, 1),
        stem="small",
        dropout=0.2,
    ),
}
