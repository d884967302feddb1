"""LeNet-5: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".

Two rounds of convolution and subsampling, then three fully connected layers, on grey images of 32 pixels.

`lenet` departs from the paper: the third layer sees all six maps (the paper's table of 60 connections saved memory),
the output is linear with a softmax loss (the paper had radial basis functions towards drawn letters), and subsampling
has no weights; with `subsampling="trainable"` it has the paper's gain and bias for each map, and a squashing after it.
Most published networks of this name have max pooling and ReLU: `lenet_relu`, and on colour images `lenet_cifar`, as
PyTorch's tutorials have them. The paper's C5 is a convolution as large as its map, which is a linear layer of the same
weights; here it is linear.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec, last
from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.errors import InputError
from foveal.nn.activation import ACTIVATIONS, Activation
from foveal.system import Preprocess


@dataclass(frozen=True)
class LeNetSpec(ClassifierSpec):
    """
    subsampling: mean or maximum of each 2x2 square, or the paper's "trainable".
    activation:  the non-linearity, at the places that are named squash; the paper's is the scaled tanh.
    padding:     pixels of zeros around the normalised image; with 2 the maps of 28 pixels are those of 32.
    """

    subsampling: Literal["average", "max", "trainable"] = "average"
    activation: Literal["scaled_tanh", Activation] = "scaled_tanh"
    padding: int = 0

    def squash(self, channels: int) -> nn.Module:
        """A non-linearity for so many channels."""
        return ScaledTanh() if self.activation == "scaled_tanh" else ACTIVATIONS[self.activation](channels)

    def pool(self, channels: int) -> nn.Module:
        """Subsampling by two of so many channels."""
        match self.subsampling:
            case "average":
                return nn.AvgPool2d(2)
            case "max":
                return nn.MaxPool2d(2)
            case "trainable":
                return TrainableSubsampling(channels, self.squash(channels))


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3), which maps 1 to 1 and is steepest between -1 and 1 (appendix A of the paper)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class TrainableSubsampling(nn.Module):
    """Squashed a * (sum of each 2x2 square) + b, one a and b for each map."""

    def __init__(self, channels: int, squash: nn.Module) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.gain * 4 * nn.functional.avg_pool2d(x, 2) + self.bias)


class LeNet(Classifier):
    """Images are (B, 3, H, W), 32 x 32 in the paper; other sizes change the first fully connected layer."""

    def __init__(self, spec: LeNetSpec) -> None:
        super().__init__(spec)
        if spec.padding < 0:
            raise InputError(f"padding must be at least 0, not {spec.padding}")
        height, width = ((side + 2 * spec.padding - 4) // 2 for side in spec.preprocess.size)
        height, width = (height - 4) // 2, (width - 4) // 2
        if min(height, width) < 1:
            raise InputError(
                f"lenet takes images of {16 - 2 * spec.padding} pixels or more, not {spec.preprocess.size}"
            )
        conv1 = nn.Conv2d(spec.preprocess.channels, 6, 5, padding=spec.padding)
        self.stage1 = nn.Sequential(  # (B, 1, 32, 32) -> (B, 6, 28, 28) -> (B, 6, 14, 14)
            OrderedDict(conv=conv1, squash=spec.squash(6), pool=spec.pool(6))
        )
        self.stage2 = nn.Sequential(  # -> (B, 16, 10, 10) -> (B, 16, 5, 5)
            OrderedDict(conv=nn.Conv2d(6, 16, 5), squash=spec.squash(16), pool=spec.pool(16))
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                c5=nn.Linear(16 * height * width, 120),
                squash5=spec.squash(120),
                f6=nn.Linear(120, 84),
                squash6=spec.squash(84),
                output=nn.Linear(84, len(spec.labels)),
            )
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # Standard deviation 1 / sqrt(fan-in): scaled tanh then keeps the variance near one.
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(last(self.maps(self.normalize(images))).flatten(1))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        for stage in (self.stage1, self.stage2):
            x = stage(x)
            yield x

    @property
    def explained_layer(self) -> str:
        return "stage2"


GREY = Preprocess(size=(32, 32), resize="squash", crop=1.0, mean=(0.5,), std=(0.5,), grey=True)
MNIST = replace(GREY, mean=(0.1307,), std=(0.3081,))
COLOUR = replace(GREY, mean=(0.5,) * 3, std=(0.5,) * 3, grey=False)
RELU: dict[str, Any] = {"subsampling": "max", "activation": "relu"}

VARIANTS = {
    "lenet": LeNetSpec(DIGITS, GREY, {"lr": 0.002}),
    "lenet_relu": LeNetSpec(DIGITS, MNIST, {"lr": 0.002}, **RELU),
    "lenet_cifar": LeNetSpec(CIFAR_10, COLOUR, {"lr": 0.002}, **RELU),
}
