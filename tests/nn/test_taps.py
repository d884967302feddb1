from typing import Any

import pytest
import torch
from torch import nn

from foveal.nn import taps
from foveal.nn.taps import TapConv2d, kernel_gradient


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "dilation"),
    [
        ((2, 2), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((4, 3), (3, 3), (2, 2), (1, 1), (1, 1)),
        ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((5, 4), (3, 2), (3, 2), (0, 1), (1, 2)),
        ((2, 3), (5, 3), (1, 2), (4, 3), (2, 3)),  # taps that meet the border alone
    ],
)
def test_kernel_gradient_is_that_of_autograd(side: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, *side).double(), torch.randn(5, 4, *kernel).double().requires_grad_()
    y = nn.functional.conv2d(x, weight, None, stride, padding, dilation)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, grad)
    found = kernel_gradient(x, grad, kernel, stride, padding, dilation)
    assert (found - expected).norm() < 1e-14 * expected.norm()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_by_taps_is_the_layer(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(taps, "WEIGHTS", 1)
    monkeypatch.setattr(taps, "kernel_gradient", lambda *given: calls.append(0) or kernel_gradient(*given))
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias).double()
    ours = TapConv2d(3, 4, 3, stride=2, padding=1, bias=bias).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 4, 4).double().requires_grad_()
    answers = [layer(x) for layer in (plain, ours)]
    torch.testing.assert_close(*answers, rtol=1e-13, atol=0)
    grads = [
        torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], create_graph=True)
        for y, layer in zip(answers, (plain, ours), strict=True)
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-13)
    assert calls == [0]
    # Penalties on gradients differentiate twice.
    second = [
        torch.autograd.grad(sum(grad.square().sum() for grad in found), layer.weight)
        for found, layer in zip(grads, (plain, ours), strict=True)
    ]
    torch.testing.assert_close(*second, rtol=1e-12, atol=1e-13)
    calls.clear()
    ours(torch.randn(2, 3, 9, 9).double()).sum().backward()  # 25 places
    assert not calls


def test_autocast_reaches_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "WEIGHTS", 1)
    torch.manual_seed(0)
    layer = TapConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    exact = torch.autograd.grad(nn.functional.conv2d(x, layer.weight, layer.bias, padding=1).sum(), layer.weight)[0]
    assert layer.weight.grad is not None
    assert (layer.weight.grad - exact).norm() < 0.01 * exact.norm()
