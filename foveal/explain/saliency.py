"""Saliency: Simonyan, Vedaldi and Zisserman 2013, "Deep Inside Convolutional Networks", arXiv:1312.6034, section 3.

How much the score changes with each pixel, to first order:

    map = max over channels of |d score / d pixel|

Departs from the paper in nothing; pixels are those in [0, 1] before normalisation.
"""

from typing import Any

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.explain.method import Method
from foveal.system import System, evaluating


def saliency(system: System, images: Tensor, target: Any) -> Tensor:
    """Prepared images (B, 3, h, w) in [0, 1] -> maps (B, h, w), not negative."""
    return pixel_gradient(system, images, target).abs().amax(1)


def pixel_gradient(system: System, images: Tensor, target: Any) -> Tensor:
    """d score / d pixel, (B, 3, h, w), for prepared images of this shape in [0, 1].

    Raises InputError where the score has no gradient.
    """
    with torch.inference_mode(False), evaluating(system), torch.enable_grad():
        pixels = images.clone().detach().requires_grad_(True)
        # In evaluation mode the images know nothing of each other, so the sum has the gradient of each.
        score = system.score(pixels, target).sum()
        if not score.requires_grad:
            name = system.name or type(system).__name__
            raise InputError(f"the scores of {name} change in steps and have no gradient; occlusion needs none")
        return torch.autograd.grad(score, pixels)[0]


SALIENCY = Method(saliency)
