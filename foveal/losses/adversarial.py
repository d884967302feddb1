"""Losses of two players: a discriminator D, which scores how real an image looks, and a generator G, which makes them.

With s the sigmoid, x real images and x' = G(z) made ones, the discriminator minimises real + fake, the generator fool:

               real             fake                   fool
minimax        -E log s(D(x))   -E log(1 - s(D(x')))   E log(1 - s(D(x')))   Goodfellow et al. 2014, arXiv:1406.2661
nonsaturating  the same         the same               -E log s(D(x'))       the same paper, section 3
wasserstein    -E D(x)          E D(x')                -E D(x')              Arjovsky et al. 2017, arXiv:1701.07875

What minimax lets the generator learn fades where the discriminator is sure, as at the start of a game; nonsaturating
has the same fixed point and does not fade. Scores of wasserstein have no bounds but those that a penalty on the slope
of D sets. Scores are (B,), before any sigmoid; losses are means over them.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

Objective = Literal["minimax", "nonsaturating", "wasserstein"]
Score = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> (B,)


class Terms(NamedTuple):
    """The parts of an objective, each a function of scores."""

    real: Score
    fake: Score
    fool: Score


def seems_real(scores: Tensor) -> Tensor:
    """-E log s(D), small where scores are high."""
    return softplus(-scores).mean()


def seems_fake(scores: Tensor) -> Tensor:
    """-E log(1 - s(D)), small where scores are low."""
    return softplus(scores).mean()


OBJECTIVES: dict[Objective, Terms] = {
    "minimax": Terms(seems_real, seems_fake, lambda scores: -seems_fake(scores)),
    "nonsaturating": Terms(seems_real, seems_fake, seems_real),
    "wasserstein": Terms(lambda scores: -scores.mean(), Tensor.mean, lambda scores: -scores.mean()),
}


def r1_penalty(score: Score, real: Tensor) -> Tensor:
    """E |dD/dx|^2 / 2 at real images (B, C, H, W): D is to be flat there, so that a game that is won comes to rest.

    Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation 9, but for its factor gamma.
    """
    return slopes(score, real).square().sum(1).mean() / 2


def gradient_penalty(score: Score, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E (|dD/dx| - 1)^2 at x = share * real + (1 - share) * fake: the slope is to be one between the two.

    Gulrajani et al. 2017, arXiv:1704.00028, equation 3, but for its factor lambda. share: (B, 1, 1, 1) in [0, 1].
    """
    norms = slopes(score, share * real + (1 - share) * fake).norm(dim=1)
    return (norms - 1).square().mean()


def slopes(score: Score, images: Tensor) -> Tensor:
    """dD/dx for each image, (B, C H W), itself differentiable; under no_grad too."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
    return gradient.flatten(1)
