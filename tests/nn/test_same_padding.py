"""TensorFlow's "same" against a loop over its definition."""

import math

import pytest
import torch

from foveal.nn.same_padding import SameConv2d


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (3, 1), (16, 16)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (2, 2), (3, 1), (3, 3), (1, 2), ((3, 5), (2, 1))])
def test_equal_to_the_definition(size, kernel, stride):
    """Unit i of n = ceil(size / stride) begins at i stride - floor(p / 2), p = (n - 1) stride + kernel - size."""
    torch.manual_seed(0)
    conv, x = SameConv2d(2, 3, kernel, stride), torch.randn(1, 2, *size)
    n = [math.ceil(side / step) for side, step in zip(size, conv.stride, strict=True)]
    before = [
        max((count - 1) * step + width - side, 0) // 2
        for count, step, width, side in zip(n, conv.stride, conv.kernel_size, size, strict=True)
    ]
    expected = conv.bias.detach().view(3, 1, 1).repeat(1, *n)
    for row in range(n[0]):
        for column in range(n[1]):
            for i in range(conv.kernel_size[0]):
                for j in range(conv.kernel_size[1]):
                    y, z = row * conv.stride[0] - before[0] + i, column * conv.stride[1] - before[1] + j
                    if 0 <= y < size[0] and 0 <= z < size[1]:
                        expected[:, row, column] += conv.weight[:, :, i, j] @ x[0, :, y, z]
    torch.testing.assert_close(conv(x)[0], expected)
