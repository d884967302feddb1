"""Losses between distributions over the same outcomes."""

import torch
from torch import Tensor


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """D(P || Q) = sum_y P(y) log(P(y) / Q(y)), in nats: what is lost by taking Q for P. (..., C) -> (...).

    Kullback and Leibler 1951, "On information and sufficiency". An outcome that P never has adds nothing, 0 log 0 = 0;
    one that only Q never has makes the divergence infinite. Rows are taken as they are and should sum to one.
    """
    # A one in the place of each zero of P: 0 log(0 / 0) and its gradient would be no numbers.
    happens, one = p > 0, torch.ones_like(p)
    return (p * (torch.where(happens, p, one).log() - torch.where(happens, q, one).log())).sum(-1)
