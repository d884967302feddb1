"""Non-linearities, as a choice by name for systems that let them vary.

sigmoid     1 / (1 + e^-x)                        squashes to (0, 1)
tanh        (e^2x - 1) / (e^2x + 1)               squashes to (-1, 1), around zero
relu        max(0, x)                             does not saturate above zero
leaky_relu  max(0.1 x, x)                         nor below
elu         x, below zero e^x - 1                 Clevert et al. 2015, arXiv:1511.07289
selu        1.0507 x, below zero 1.7581 (e^x - 1) Klambauer et al. 2017, arXiv:1706.02515
gelu        x P(X <= x), X ~ N(0, 1)              Hendrycks and Gimpel 2016, arXiv:1606.08415
gelu_tanh   x (1 + tanh((2 / pi)^0.5 (x + 0.044715 x^3))) / 2, the same to three digits
softplus    log(1 + e^x)                          Dugas et al. 2001
maxout      max(W_1 x + b_1, W_2 x + b_2)         learns its own shape
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Activation = Literal[
    "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "softplus", "maxout"
]  # fmt: skip


class Maxout(nn.Module):
    """y_c = max over i of (W_i x + b_i)_c: Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013, arXiv:1302.4389.

    (B, C) or maps (B, C, H, W), each pixel's channels for themselves -> the same shape.

    pieces: how many affine functions the maximum is taken of; it is convex and piecewise linear in x.
    """

    def __init__(self, channels: int, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces
        self.affine = nn.Linear(channels, pieces * channels)
        # The larger of two normal numbers has the mean square of each of them.
        nn.init.normal_(self.affine.weight, std=channels**-0.5)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor) -> Tensor:
        candidates = self.affine(x.movedim(1, -1)).unflatten(-1, (self.pieces, -1))  # (B, ..., pieces, C)
        return candidates.max(-2).values.movedim(-1, 1)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "sigmoid": lambda channels: nn.Sigmoid(),
    "tanh": lambda channels: nn.Tanh(),
    "relu": lambda channels: nn.ReLU(),
    "leaky_relu": lambda channels: nn.LeakyReLU(0.1),
    "elu": lambda channels: nn.ELU(),
    "selu": lambda channels: nn.SELU(),
    "gelu": lambda channels: nn.GELU(),
    "gelu_tanh": lambda channels: nn.GELU(approximate="tanh"),
    "softplus": lambda channels: nn.Softplus(),
    "maxout": Maxout,
}
