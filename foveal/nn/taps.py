"""The gradient of a convolution's kernel on maps of a few places, as one matrix product for each tap of the kernel.

    Y[n, o, y, x]     = sum over i, a, b of W[o, i, a, b] X[n, i, s y + d a - p, s x + d b - p]
    dL/dW[o, i, a, b] = sum over n, y, x of dL/dY[n, o, y, x] X[n, i, s y + d a - p, s x + d b - p]

What is beyond the border of X is zero and adds nothing, so the sum of a tap goes over the places whose pixel lies on
the map; of a 3 x 3 kernel on 2 x 2 places these are 16 pairs instead of 36. On a CPU the convolutions that torch calls
take several times as long for this gradient as for the pass forward; benchmarks/plan.py tells what a whole step gains.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

PLACES = 4  # of the largest map of outputs whose kernel learns this way
WEIGHTS = 2**18  # of the smallest kernel for which so many small products are worth their calls


def taps(
    side: int, places: int, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[int, slice, slice]]:
    """Along one axis each tap of the kernel that meets the map: (tap, the places that see it, the pixels they see)."""
    for tap in range(kernel):
        offset = dilation * tap - padding  # place y sees the pixel stride y + offset, within [0, side)
        first = max(0, -(offset // stride))
        count = min(places, (side - 1 - offset) // stride + 1) - first
        if count > 0:
            start = stride * first + offset
            yield tap, slice(first, first + count), slice(start, start + stride * (count - 1) + 1, stride)


def kernel_gradient(
    x: Tensor, grad: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: Any, dilation: tuple[int, ...]
) -> Tensor:
    """(N, I, H, W), (N, O, h, w) -> (O, I, A, B), with the channels of a tap together in memory."""
    pixels, grads = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    inputs, outputs = pixels.shape[-1], grads.shape[-1]
    rows, columns = (
        list(taps(x.shape[n + 2], grad.shape[n + 2], kernel[n], stride[n], padding[n], dilation[n])) for n in (0, 1)
    )
    new = x.new_empty if len(rows) * len(columns) == kernel[0] * kernel[1] else x.new_zeros
    found = new(outputs, *kernel, inputs)
    for a, y, i in rows:
        for b, x_, j in columns:
            found[:, a, b] = grads[:, y, x_].reshape(-1, outputs).t() @ pixels[:, i, j].reshape(-1, inputs)
    return found.permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """A convolution without bias whose gradients are torch's and `kernel_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return nn.functional.conv2d(x, weight, None, *how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x = conv2d_input(x.shape, weight, grad, *ctx.how) if ctx.needs_input_grad[0] else None
        return of_x, kernel_gradient(x, grad, weight.shape[2:], *ctx.how), None, None, None


class TapConv2d(nn.Conv2d):
    """`nn.Conv2d` whose kernel learns by taps where its maps are small and it is large. What it answers is the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._worth(x):
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        y = _Convolution.apply(x, weight, self.stride, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def _worth(self, x: Tensor) -> bool:
        plain = self.groups == 1 and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if not plain or self.weight.numel() < WEIGHTS or self.kernel_size == (1, 1) or x.device.type != "cpu":
            return False
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return False
        places = 1
        for n in (0, 1):
            reach = self.dilation[n] * (self.kernel_size[n] - 1) + 1
            places *= (x.shape[n + 2] + 2 * int(self.padding[n]) - reach) // self.stride[n] + 1
        return 0 < places <= PLACES
