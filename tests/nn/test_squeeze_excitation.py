"""Squeeze and excitation against its equations, written map by map."""

import pytest
import torch
from torch import nn

from foveal.nn.squeeze_excitation import SqueezeExcitation


@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
def test_equal_to_the_equations(gate):
    torch.manual_seed(0)
    layer, x = SqueezeExcitation(6, 2, gate).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    first, second = layer.fc1.weight[:, :, 0, 0], layer.fc2.weight[:, :, 0, 0]
    for image, found in zip(x, layer(x), strict=True):
        z = torch.stack([channel.sum() / 20 for channel in image])  # equation 2
        middle = (first @ z + layer.fc1.bias).clamp(min=0)
        s = second @ middle + layer.fc2.bias  # equation 3
        s = 1 / (1 + (-s).exp()) if gate is nn.Sigmoid else (s / 6 + 0.5).clamp(0, 1)
        for channel in range(6):
            torch.testing.assert_close(found[channel], image[channel] * s[channel])  # equation 4
