"""Losses of numbers that are regressed."""

from torch import Tensor
from torch.nn.functional import smooth_l1_loss


def smooth_l1(found: Tensor, wanted: Tensor, beta: float = 1 / 9) -> Tensor:
    """Sum of d^2 / (2 beta) where |d| < beta, else of |d| - beta / 2; d = found - wanted, of any shape.

    Girshick 2015, arXiv:1504.08083, where beta is 1; a ninth as in the published training of Faster R-CNN.
    """
    return smooth_l1_loss(found, wanted, reduction="sum", beta=beta)
