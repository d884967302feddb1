"""Squeeze and excitation: Hu, Shen, Albanie, Sun and Wu 2017, arXiv:1709.01507.

What is seen anywhere in the image decides how much each map counts everywhere.
"""

from collections.abc import Callable

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """y = x * gate(W_2 relu(W_1 mean(x) + b_1) + b_2), the mean that of each map. (B, C, H, W) -> the same shape.

    middle: length of the vector between the two matrices, which are 1x1 convolutions of maps of one pixel.
    gate:   makes the module that squashes the factors into (0, 1).
    """

    def __init__(self, channels: int, middle: int, gate: Callable[[], nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, middle, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(middle, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
