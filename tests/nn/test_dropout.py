"""Dropout as systems use it, torch's own, against its formula: y = x b / (1 - p), b = 0 with probability p, else 1."""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_each_number_is_dropped_or_enlarged_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    y = nn.Dropout(p)(torch.ones(100_000, dtype=torch.float64))
    assert y.unique().tolist() == [0, pytest.approx(1 / (1 - p))]
    # Standard deviations of a share and of a mean of 100,000 numbers: 0.0016 and 0.0032.
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=0.008)
    assert y.mean().item() == pytest.approx(1, abs=0.016)


def test_the_gradient_goes_where_the_number_went_and_evaluation_changes_nothing() -> None:
    torch.manual_seed(0)
    layer, x = nn.Dropout(0.3), torch.randn(1000, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.where(y == 0, 0.0, 1 / 0.7).double())
    assert torch.equal(layer.eval()(x), x)
