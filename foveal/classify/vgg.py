"""VGG: Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition",
arXiv:1409.1556.

Nothing but 3x3 convolutions, each with a relu, and five times 2x2 max-pooling. Two of them see 5x5 pixels, three 7x7,
as one large convolution would, with fewer weights and more non-linearities. The number in a name counts the layers with
weights; 11, 13, 16 and 19 are the paper's configurations A, B, D and E.

    each stage: depth times (3x3 convolution, [batch norm], relu), then 2x2 max-pooling        maps halve, widths double

Departs from the paper: weights start with He's deviation, so that the deep ones need not start from a trained shallow
one; `*_bn` have a batch norm after each convolution (Ioffe and Szegedy 2015, arXiv:1502.03167), whose bias stays though
the norm takes it out again, since published weights have it; the last maps are averaged to 7 x 7, which changes nothing
at 224 pixels, where the paper lets the fully connected layers slide over larger maps.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec, filter_pictures, last
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.hidden import hidden_classifier
from foveal.nn.init import init_for_relu
from foveal.system import Preprocess


@dataclass(frozen=True)
class VGGSpec(ClassifierSpec):
    """
    depths:     number of convolutions in each stage.
    widths:     their channels.
    batch_norm: after each convolution.
    grid:       side of the map that the fully connected layers read; maps of other sizes are averaged to it.
    hidden:     units in each of the two hidden layers.
    dropout:    probability, of these units.
    """

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False
    grid: int = 7
    hidden: int = 4096
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise InputError(f"depths and widths must give a number for each stage, not {self.depths}, {self.widths}")
        if min(*self.depths, *self.widths, self.grid, self.hidden) < 1:
            raise InputError("depths, widths, grid and hidden must be at least 1")
        check_drop("dropout", self.dropout)

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which something is left after the last stage."""
        return 2 ** len(self.depths)


def convolution_stage(channels: int, width: int, depth: int, batch_norm: bool) -> nn.Sequential:
    """(B, channels, H, W) -> (B, width, H / 2, W / 2), rounded down."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n in range(1, depth + 1):
        layers[f"conv{n}"] = nn.Conv2d(channels if n == 1 else width, width, 3, padding=1)
        if batch_norm:
            layers[f"norm{n}"] = nn.BatchNorm2d(width)
        layers[f"relu{n}"] = nn.ReLU()
    layers["pool"] = nn.MaxPool2d(2)
    stage = nn.Sequential(layers)
    init_for_relu(stage)
    return stage


class VGG(Classifier):
    """Images are (B, 3, H, W), of 224 x 224 pixels in the paper, and of `spec.smallest` pixels or more."""

    spec: VGGSpec

    def __init__(self, spec: VGGSpec) -> None:
        super().__init__(spec)
        self.check_smallest(spec.preprocess.size, spec.smallest)
        # (B, 3, 224, 224) -> (B, 64, 112, 112) -> (B, 128, 56, 56) -> ... -> (B, 512, 7, 7)
        channels = spec.preprocess.channels
        for number, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), 1):
            self.add_module(f"stage{number}", convolution_stage(channels, width, depth, spec.batch_norm))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(spec.grid)
        self.classifier = hidden_classifier(channels * spec.grid**2, spec.hidden, len(spec.labels), spec.dropout)

    def forward(self, images: Tensor) -> Tensor:
        self.check_smallest(images.shape[2:], self.spec.smallest)
        x = last(self.maps(self.normalize(images)))
        return self.classifier(self.pool(x).flatten(1))  # flattened map by map, row by row

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        for number in range(1, len(self.spec.depths) + 1):
            x = self.get_submodule(f"stage{number}")(x)  # (B, C, h, w)
            yield x

    @property
    def explained_layer(self) -> str:
        # Before the last pooling: 14 x 14 places, not 7 x 7.
        return f"stage{len(self.spec.depths)}.relu{self.spec.depths[-1]}"

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        if not any(tensor.isnan().any() for name, tensor in weights.items() if name.startswith("classifier.")):
            return None
        return (
            "its fully connected layers are not numbers; torchvision's IMAGENET1K_FEATURES is such a file, made for "
            "detectors with another normalisation"
        )

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The filters of the first convolution."""
        return filter_pictures(self.get_parameter("stage1.conv1.weight"))


# Section 3.1 of the paper; batches of 256, 74 epochs of ImageNet.
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
RECIPE |= {"crop_scale": (0.25, 1.0), "flip": True}

# Its large layers have no norm, and adamw moves them too far at the shared rate; not measured here.
FINE_TUNING = {"lr": 1e-4}

VGG16 = VGGSpec(IMAGENET_1K, Preprocess(), RECIPE, finetune=FINE_TUNING)
VGG11 = replace(VGG16, depths=(1, 1, 2, 2, 2))
VGG13 = replace(VGG16, depths=(2, 2, 2, 2, 2))
VGG19 = replace(VGG16, depths=(2, 2, 4, 4, 4))

VARIANTS = {
    "vgg11": VGG11,
    "vgg13": VGG13,
    "vgg16": VGG16,
    "vgg19": VGG19,
    "vgg11_bn": replace(VGG11, batch_norm=True),
    "vgg13_bn": replace(VGG13, batch_norm=True),
    "vgg16_bn": replace(VGG16, batch_norm=True),
    "vgg19_bn": replace(VGG19, batch_norm=True),
    "vgg_nano": VGGSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, (0.5,) * 3, (0.5,) * 3),
        {"epochs": 20, "lr": 0.002, "shift": 0.125},
        depths=(1, 2, 2),
        widths=(16, 32, 48),
        grid=2,
        hidden=64,
        dropout=0.2,
    ),
}
