"""Losses between distributions over the same outcomes, and of outcomes by distributions."""

import torch
from torch import Tensor
from torch.special import log_ndtr

from foveal.ops.checks import check


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """D(P || Q) = sum_y P(y) log(P(y) / Q(y)), in nats: what is lost by taking Q for P. (..., C) -> (...).

    Kullback and Leibler 1951, "On information and sufficiency". An outcome that P never has adds nothing, 0 log 0 = 0;
    one that only Q never has makes the divergence infinite. Rows are taken as they are and should sum to one.
    InputError for other shapes.
    """
    check("kl_divergence", p=(p, "... C floats"), q=(q, "... C floats"))
    # A one in the place of each zero of P: 0 log(0 / 0) and its gradient would be no numbers.
    happens, one = p > 0, torch.ones_like(p)
    return (p * (torch.where(happens, p, one).log() - torch.where(happens, q, one).log())).sum(-1)


def normal_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """D(N(mean, variance) || N(other_mean, other_variance)) of single numbers, each for itself, in nats; what
    broadcasts together -> its shape."""
    ratio = variance / other_variance
    return (ratio - 1 - ratio.log() + (mean - other_mean).square() / other_variance) / 2


def level_log_probability(levels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """ln P(level) of 8-bit levels, where a level has the mass that N(mean, deviation^2) puts between half a level below
    it and half a level above; the first and the last one have all that lies beyond, so that the 256 sum to one.
    Other levels have the logarithm of zero, -inf.

    Ho et al. 2020, arXiv:2006.11239, equation 13. levels: 0 to 255, of any type; mean and deviation in levels too; what
    broadcasts together -> its shape, in the type of the mean.
    """
    levels = levels.to(mean)
    low = ((levels - 0.5 - mean) / deviation).masked_fill(levels <= 0, -torch.inf)
    high = ((levels + 0.5 - mean) / deviation).masked_fill(levels >= 255, torch.inf)
    # Both on the side where ln Phi keeps its digits, however far away.
    above = low > 0
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    outer, inner = log_ndtr(high), log_ndtr(low)
    total = outer + torch.log1p(-(inner - outer).exp())
    return total.masked_fill((levels < 0) | (levels > 255), -torch.inf)
