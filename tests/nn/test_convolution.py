"""The convolution that systems are made of against loops over its formula, and what it costs."""

import pytest
import torch
from torch import Tensor, nn

import foveal


def by_loops(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """y_o(i, j) = b_o + sum of w_o,c(k, m) x_c(s i + d k - p, s j + d m - p) over the channels c of o's group, k and m

    This is a cross-correlation: the kernel is not turned around.
    """
    stride, padding, dilation, kernel = (
        getattr(layer, name)[0] for name in ("stride", "padding", "dilation", "kernel_size")
    )
    count, channels, height, width = x.shape
    rows, columns = ((side - dilation * (kernel - 1) - 1 + 2 * padding) // stride + 1 for side in (height, width))
    y = torch.zeros(count, layer.out_channels, rows, columns, dtype=x.dtype)
    inputs, outputs = channels // layer.groups, layer.out_channels // layer.groups
    for o in range(layer.out_channels):
        for i in range(rows):
            for j in range(columns):
                total = torch.zeros(count, dtype=x.dtype) if layer.bias is None else layer.bias[o].expand(count)
                for c in range(inputs):
                    for k in range(kernel):
                        for m in range(kernel):
                            row, column = stride * i + dilation * k - padding, stride * j + dilation * m - padding
                            if 0 <= row < height and 0 <= column < width:
                                total = total + layer.weight[o, c, k, m] * x[:, o // outputs * inputs + c, row, column]
                y[:, o, i, j] = total
    return y


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 5, "stride": 3, "padding": 2},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 3, "dilation": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "groups": 2, "padding": 1},
        {"kernel_size": 3, "groups": 4, "bias": False},
    ],
    ids=str,
)
def test_convolution_by_its_formula(settings: dict) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 8, **settings).double(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_loops(x, layer), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_convolution_is_convolutions_of_parts_of_the_channels(groups: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 12, 3, padding=1, groups=groups).double(), torch.randn(2, 8, 5, 5, dtype=torch.float64)
    parts = zip(x.chunk(groups, 1), layer.weight.chunk(groups), layer.bias.chunk(groups), strict=True)
    side_by_side = torch.cat([nn.functional.conv2d(part, w, b, padding=1) for part, w, b in parts], 1)
    torch.testing.assert_close(layer(x), side_by_side, rtol=1e-12, atol=1e-12)
    # G convolutions of C_in / G to C_out / G channels have one G-th of the weights.
    assert layer.weight.numel() == groups * (8 // groups) * (12 // groups) * 9 == 12 * 8 * 9 // groups


def test_depthwise_then_pointwise_is_one_convolution_of_rank_one_kernels() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    depthwise, pointwise = nn.Conv2d(4, 4, 3, groups=4, bias=False).double(), nn.Conv2d(4, 5, 1, bias=False).double()
    kernels = pointwise.weight * depthwise.weight[:, 0]  # (5, 4, 1, 1) * (4, 3, 3): w_o,c(k, l) = p_o,c d_c(k, l)
    torch.testing.assert_close(pointwise(depthwise(x)), nn.functional.conv2d(x, kernels), rtol=1e-12, atol=1e-12)
    separable = sum(layer.weight.numel() for layer in (depthwise, pointwise))
    assert separable == 4 * 9 + 4 * 5 < kernels.numel() == 4 * 5 * 9


def test_a_dilated_convolution_is_one_with_zeros_between_the_weights() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3, dilation=3).double(), torch.randn(1, 2, 11, 12, dtype=torch.float64)
    spread = torch.zeros(3, 2, 7, 7, dtype=torch.float64)
    spread[:, :, ::3, ::3] = layer.weight.detach()
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, spread, layer.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [7, 10, 32])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1), (5, 2), (7, 3), (2, 0)])
def test_size_of_the_output(side: int, stride: int, kernel: int, padding: int) -> None:
    x = torch.zeros(1, 1, side, side)
    size = (side - kernel + 2 * padding) // stride + 1
    assert nn.Conv2d(1, 1, kernel, stride, padding)(x).shape[2:] == (size, size)
    assert nn.MaxPool2d(kernel, stride)(x).shape[-1] == (side - kernel) // stride + 1
    if stride == 1 and padding == (kernel - 1) / 2:
        assert size == side


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "padding"), [(3, 8, 5, 2, 2), (16, 4, 1, 1, 0)])
def test_parameters_and_multiplications(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
    class One(foveal.system.System):
        def __init__(self) -> None:
            super().__init__(foveal.system.Spec((), foveal.system.Preprocess((20, 18))))
            self.widen = nn.Conv2d(3, inputs, 1, bias=False)
            self.layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(self.widen(self.normalize(images)))

    layer = foveal.cost(One()).layers[-1]
    height, width = ((side - kernel + 2 * padding) // stride + 1 for side in (20, 18))
    assert layer.params == outputs * inputs * kernel * kernel + outputs
    assert layer.macs == (outputs * height * width) * (inputs * kernel * kernel)
    assert layer.activation_bytes == 4 * outputs * height * width


def test_stacked_small_convolutions_are_one_large_convolution() -> None:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(1, 1, 3, bias=False).double() for _ in range(2))
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    # The kernel of both, 5 x 5, is what they make of a point, turned around as a cross-correlation does.
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    kernel = second(first(point)).flip(2, 3)
    assert kernel.shape[2:] == (5, 5)
    torch.testing.assert_close(second(first(x)), nn.functional.conv2d(x, kernel), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pooling_by_its_formula(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    rows, columns = ((side - kernel) // stride + 1 for side in (7, 8))
    largest, mean = torch.zeros(2, 2, 3, rows, columns, dtype=torch.float64)
    gradient = torch.zeros_like(x)
    for n in range(2):
        for c in range(3):
            for i in range(rows):
                for j in range(columns):
                    window = x[n, c, stride * i : stride * i + kernel, stride * j : stride * j + kernel].detach()
                    largest[n, c, i, j], mean[n, c, i, j] = window.max(), window.sum() / kernel**2
                    row, column = divmod(int(window.argmax()), kernel)
                    gradient[n, c, stride * i + row, stride * j + column] += 1  # max passes it to the largest alone
    y = nn.MaxPool2d(kernel, stride)(x)
    torch.testing.assert_close(y, largest)
    torch.testing.assert_close(nn.AvgPool2d(kernel, stride)(x), mean)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], gradient)
