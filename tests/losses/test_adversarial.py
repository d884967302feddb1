"""The losses of two players against loops and closed forms."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from foveal.losses.adversarial import OBJECTIVES, gradient_penalty, r1_penalty

SCORES = torch.tensor([-3.0, -0.2, 0.0, 1.5, 4.0], dtype=torch.float64)


def test_log_losses_are_the_papers() -> None:
    probabilities = [1 / (1 + math.exp(-score)) for score in SCORES.tolist()]
    real = -sum(math.log(p) for p in probabilities) / 5
    fake = -sum(math.log(1 - p) for p in probabilities) / 5
    for name, fool in (("minimax", -fake), ("nonsaturating", real)):
        terms = OBJECTIVES[name]
        found = [float(term(SCORES)) for term in terms]
        assert found == pytest.approx([real, fake, fool], rel=1e-12)
    ones = torch.ones_like(SCORES)
    assert torch.allclose(OBJECTIVES["nonsaturating"].real(SCORES), binary_cross_entropy_with_logits(SCORES, ones))
    assert torch.allclose(OBJECTIVES["nonsaturating"].fake(SCORES), binary_cross_entropy_with_logits(SCORES, 0 * ones))


def test_wasserstein() -> None:
    mean = float(SCORES.mean())
    assert [float(term(SCORES)) for term in OBJECTIVES["wasserstein"]] == pytest.approx([-mean, mean, -mean])


def test_a_sure_discriminator_is_heard_by_the_nonsaturating_alone() -> None:
    slopes = []
    for name in ("minimax", "nonsaturating"):
        score = torch.tensor([-20.0], requires_grad=True)
        OBJECTIVES[name].fool(score).backward()
        slopes.append(float(score.grad))  # type: ignore[arg-type]
    assert slopes[0] == pytest.approx(-math.exp(-20), rel=1e-3)
    assert slopes[1] == pytest.approx(-1, rel=1e-3)


def test_penalties_of_a_plane_and_of_a_bowl() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6, 1, 2, 2, dtype=torch.float64)
    share = torch.rand(6, 1, 1, 1, dtype=torch.float64)
    plane = torch.randn(1, 2, 2, dtype=torch.float64)
    norm = float(plane.square().sum()) ** 0.5
    assert float(r1_penalty(lambda x: (x * plane).sum((1, 2, 3)), real)) == pytest.approx(norm**2 / 2)
    assert float(gradient_penalty(lambda x: (x * plane).sum((1, 2, 3)), real, fake, share)) == pytest.approx(
        (norm - 1) ** 2
    )

    def bowl(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum((1, 2, 3)) / 2  # whose slope is x

    expected = [float(x.square().sum()) / 2 for x in real]
    assert float(r1_penalty(bowl, real).detach()) == pytest.approx(sum(expected) / 6)
    between = [float((e * a + (1 - e) * b).norm()) for e, a, b in zip(share, real, fake, strict=True)]
    assert float(gradient_penalty(bowl, real, fake, share).detach()) == pytest.approx(
        sum((n - 1) ** 2 for n in between) / 6
    )


def test_penalties_are_measured_without_gradients_too() -> None:
    real = torch.randn(3, 1, 2, 2)
    with torch.no_grad():
        assert float(r1_penalty(lambda x: 3 * x.sum((1, 2, 3)), real)) == pytest.approx(9 * 4 / 2)
