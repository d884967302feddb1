import math

import pytest
import torch
from torch import Tensor

from foveal.losses.distributions import level_log_probability
from foveal.losses.likelihood import bernoulli_log_probability, logistic_log_probability

LEVELS = torch.arange(256)


def logistic(low: float, high: float, mean: float, scale: float) -> float:
    """The mass of a logistic distribution between two points, by its definition."""
    return 1 / (1 + math.exp(-(high - mean) / scale)) - 1 / (1 + math.exp(-(low - mean) / scale))


def test_logistic_is_the_mass_of_each_level() -> None:
    for mean, scale in ((100.3, 4.0), (-3.0, 30.0), (255.0, 10.0)):
        found = logistic_log_probability(
            LEVELS, torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64).log()
        )
        for level in (1, 90, 101, 254):
            expected = logistic(level - 0.5, level + 0.5, mean, scale)
            assert found[level].exp().item() == pytest.approx(expected, rel=1e-8)
        assert found[0].exp().item() == pytest.approx(1 / (1 + math.exp((mean - 0.5) / scale)), rel=1e-12)
        assert found[255].exp().item() == pytest.approx(1 / (1 + math.exp((254.5 - mean) / scale)), rel=1e-12)


def sums(log_probability: Tensor) -> Tensor:
    return log_probability.double().exp().sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_the_levels_sum_to_one(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    mean = 400 * torch.rand(40, 1, generator=draw, dtype=dtype) - 70
    log_scale = 12 * torch.rand(40, 1, generator=draw, dtype=dtype) - 3
    one = torch.ones(40, dtype=torch.float64)
    close = {"rtol": 2e-5 if dtype == torch.float32 else 1e-12, "atol": 0}
    torch.testing.assert_close(sums(logistic_log_probability(LEVELS, mean, log_scale)), one, **close)
    logits = torch.cat([30 * torch.randn(37, 1, generator=draw, dtype=dtype), torch.tensor([[0.0], [1e-7], [3e4]])])
    torch.testing.assert_close(sums(bernoulli_log_probability(LEVELS, logits.to(dtype))), one, **close)


def test_far_tails_keep_their_digits_and_gradients() -> None:
    mean = torch.tensor([-5000.0, 5000.0, 128.0], requires_grad=True)
    log_scale = torch.tensor([0.0, 0.0, -6.0], requires_grad=True)
    found = logistic_log_probability(torch.tensor([200, 200, 10]), mean, log_scale)
    # Far out the mass is that of an exponential: (e^(1 / s) - 1) e^(-distance / s).
    assert found[:2].tolist() == pytest.approx(
        [-5199.5 + math.log1p(-math.exp(-1)), -4799.5 + math.log1p(-math.exp(-1))]
    )
    found.sum().backward()
    assert mean.grad is not None
    assert log_scale.grad is not None
    assert mean.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()
    assert mean.grad[:2].tolist() == pytest.approx([1, -1])


def test_gradients_are_right() -> None:
    draw = torch.Generator().manual_seed(0)
    levels = torch.tensor([0, 3, 128, 254, 255])
    mean, log_scale = (40 * torch.randn(5, generator=draw).double()).requires_grad_(), torch.ones(5).double()
    assert torch.autograd.gradcheck(logistic_log_probability, (levels, mean, log_scale.requires_grad_()))
    logits = (4 * torch.randn(5, generator=draw).double()).requires_grad_()
    assert torch.autograd.gradcheck(bernoulli_log_probability, (levels, logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_bernoulli_are_those_of_the_sum_over_levels(dtype: torch.dtype) -> None:
    """k / 255 less the mean of j / 255, of which the sum is written out, for logits as near to zero as can be too."""
    sizes = torch.tensor([0.0, 1e-42, 1e-30, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 1.0, 30.0, 500.0], dtype=dtype)
    logits = torch.cat([sizes, -sizes])[:, None].requires_grad_()
    for level in (0, 100, 255):
        (found,) = torch.autograd.grad(bernoulli_log_probability(torch.tensor(level), logits).sum(), logits)
        shares = LEVELS.double() / 255
        mean = ((shares * logits.detach().double()).softmax(1) * shares).sum(1, keepdim=True)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(found.double(), level / 255 - mean, rtol=0, atol=tolerance)


def test_bernoulli_is_cross_entropy_over_its_sum() -> None:
    logits = torch.tensor([-3.0, 0.0, 0.4, 9.0], dtype=torch.float64)[:, None]
    p, v = logits.sigmoid(), LEVELS.double() / 255
    mass = p**v * (1 - p) ** (1 - v)
    expected = (mass / mass.sum(1, keepdim=True)).log()
    torch.testing.assert_close(bernoulli_log_probability(LEVELS, logits), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", [-1, 256, 300])
def test_a_level_that_does_not_exist_has_no_probability(level: int) -> None:
    levels, zero = torch.tensor([level, 7]), torch.zeros(2, requires_grad=True)
    for found in (
        logistic_log_probability(levels, zero + 100, zero),
        bernoulli_log_probability(levels, zero),
        level_log_probability(levels, zero + 100, zero + 9),
    ):
        assert found[0] == -torch.inf
        assert found[1].isfinite()
        assert torch.autograd.grad(found[1], zero)[0].isfinite().all()
