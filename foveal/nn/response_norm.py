"""Local response normalisation, which lets neighbouring maps compete: Krizhevsky et al. 2012, section 3.3."""

from torch import nn


def response_norm() -> nn.LocalResponseNorm:
    """b_i = a_i / (2 + 1e-4 * (sum of a_j^2 over the maps j = i - 2 ... i + 2)) ** 0.75. (B, C, H, W), same shape."""
    size = 5
    # torch takes the mean of the squares, where the paper has their sum.
    return nn.LocalResponseNorm(size, alpha=size * 1e-4, beta=0.75, k=2.0)
