import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torchs

from foveal.losses.distributions import kl_divergence

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
