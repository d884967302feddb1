import math

import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy, norm
from torch.distributions import Categorical, Normal
from torch.distributions import kl_divergence as torchs

from foveal.losses.distributions import kl_divergence, level_log_probability, normal_kl

DRAW = torch.Generator().manual_seed(0)
P, Q = torch.randn(2, 6, 5, dtype=torch.float64, generator=DRAW).softmax(-1)


def test_it_is_the_equation() -> None:
    expected = [
        sum(p * torch.log(p / q) for p, q in zip(row, other, strict=True)) for row, other in zip(P, Q, strict=True)
    ]
    assert torch.allclose(kl_divergence(P, Q), torch.stack(expected), rtol=1e-13)


def test_it_is_scipys_and_torchs() -> None:
    assert torch.allclose(kl_divergence(P, Q), torch.tensor(entropy(P, Q, axis=-1)), rtol=1e-13)
    theirs = torchs(Categorical(probs=P), Categorical(probs=Q))
    assert torch.allclose(kl_divergence(P, Q), theirs, rtol=1e-13)


def test_no_distribution_is_nearer_than_itself_and_the_two_ways_differ() -> None:
    assert kl_divergence(P, P).abs().max() == 0
    assert (kl_divergence(P, Q) > 0).all()
    assert not torch.allclose(kl_divergence(P, Q), kl_divergence(Q, P), rtol=0.01)


def test_outcomes_that_never_happen() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.25, 0.5, 0.25], [0.3, 0.7, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    found = kl_divergence(p, q)
    assert found.tolist() == pytest.approx(rel_entr(p.tolist(), q.tolist()).sum(-1).tolist())
    assert found.isinf().tolist() == [False, False, True]
    of_p, of_q = torch.autograd.grad(found[:2].sum(), (p, q))
    # d/dq of p log(p / q) is -p / q, and nothing where p is 0.
    assert of_q[0].tolist() == pytest.approx([-2, -1, 0])
    assert of_q[1].tolist() == pytest.approx([0, -1 / 0.7, 0])
    assert of_p[:2].isfinite().all()


def test_gradients_are_right() -> None:
    assert torch.autograd.gradcheck(kl_divergence, (P.clone().requires_grad_(), Q.clone().requires_grad_()))


def numbers(count: int, *shape: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, dtype=torch.float64, generator=draw) for _ in range(count)]


def test_normal_kl_is_torchs() -> None:
    mean, other_mean, variance, other_variance = numbers(4, 7)
    variance, other_variance = variance.exp(), other_variance.exp()
    expected = torchs(Normal(mean, variance.sqrt()), Normal(other_mean, other_variance.sqrt()))
    assert torch.allclose(normal_kl(mean, variance, other_mean, other_variance), expected, rtol=1e-12)
    assert normal_kl(mean, variance, mean, variance).abs().max() == 0


def test_levels_share_all_of_the_mass() -> None:
    """Whether a level or the whole range is wide for the deviation, and wherever the mean is."""
    levels = torch.arange(256)
    for mean in (-300.0, 0.0, 3.2, 128.0, 254.9, 400.0):
        for deviation in (0.05, 1.0, 40.0, 1000.0):
            found = level_log_probability(levels, torch.tensor(mean).double(), torch.tensor(deviation).double())
            assert float(found.exp().sum()) == pytest.approx(1, rel=1e-12)


def test_level_probabilities_are_differences_of_scipys() -> None:
    mean, deviation = (
        torch.tensor([3.0, 100.4, 251.0]).double()[:, None],
        torch.tensor([0.7, 5.0, 30.0]).double()[:, None],
    )
    levels = torch.arange(256)
    found = level_log_probability(levels, mean, deviation)
    above = norm.cdf(levels + 0.5, mean, deviation)
    below = norm.cdf(levels - 0.5, mean, deviation)
    above[:, 255], below[:, 0] = 1, 0
    told = torch.tensor(above - below) > 1e-6
    assert torch.allclose(found.exp()[told], torch.tensor(above - below)[told], rtol=1e-8)


def test_a_level_far_away_keeps_its_probability_and_its_gradient() -> None:
    """Where the mass is nothing in floating point, its logarithm is -(z^2 / 2 + ln z + ln (2 pi) / 2), z of the nearer
    border, on both sides."""
    mean = torch.tensor([10.0, 250.0], dtype=torch.float64, requires_grad=True)
    found = level_log_probability(torch.tensor([200, 60]), mean, torch.ones((), dtype=torch.float64))
    z = 189.5
    assert found.tolist() == pytest.approx([-(z**2 / 2 + math.log(z) + math.log(2 * math.pi) / 2)] * 2, rel=1e-6)
    found.sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == pytest.approx([z, -z], rel=1e-3)


def test_gradients_of_levels_are_right_at_the_ends_too() -> None:
    mean, deviation = numbers(2, 5)
    levels = torch.tensor([0, 1, 128, 254, 255])
    mean, deviation = (levels + 3 * mean).requires_grad_(), (deviation.exp() + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, d: level_log_probability(levels, m, d), (mean, deviation))
