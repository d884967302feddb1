"""Losses of a classifier: functions of its scores (B, C) and a target weight for each class (B, C).

A target row is one-hot for a plain label; smoothing, mixing and class weights make others. Each loss is linear in it.
InputError for other shapes, such as a target of class indices (B,).
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from foveal.ops.checks import check


def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, mean over the batch: -sum_j t_j log(exp(s_j) / sum_k exp(s_k))."""
    check("cross_entropy", scores=(scores, "B C floats"), target=(target, "B C"))
    return -(target * scores.log_softmax(1)).sum(1).mean()


def distillation(scores: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p || q), mean over the batch: p = softmax(teacher / T), q = softmax(scores / T), of scores (B, C).

    Hinton, Vinyals and Dean 2015, arXiv:1503.02531: a high temperature T lets the classes speak that are improbable,
    and T^2 keeps the size of the gradient. A teacher that rules a class out may give it -inf.
    """
    check("distillation", scores=(scores, "B C floats"), teacher=(teacher, "B C"))
    p, log_q = (teacher / temperature).softmax(1), (scores / temperature).log_softmax(1)
    return -(temperature**2) * (torch.special.entr(p) + p * log_q).sum(1).mean()


def hinge(scores: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Multi-class SVM loss, mean over the batch: sum_y t_y sum_{j != y} max(0, s_j - s_y + margin).

    Weston and Watkins 1999. torch's MultiMarginLoss is this divided by the number of classes.
    """
    check("hinge", scores=(scores, "B C floats"), target=(target, "B C"))
    row, y = target.nonzero(as_tuple=True)
    violation = (scores[row] - scores[row, y][:, None] + margin).clamp(min=0)  # (one a non-zero weight, C)
    # j = y adds the constant margin, which is no violation.
    return (target[row, y] * (violation.sum(1) - margin)).sum() / len(scores)


def logistic(scores: Tensor, target: Tensor) -> Tensor:
    """One yes-or-no question a class, mean over the batch: -sum_y t_y (log p_y + sum_{j != y} log(1 - p_j)).

    p = 1 / (1 + exp(-s)): binary cross-entropy, with the logarithms as softplus so that no score is too large for it.
    """
    check("logistic", scores=(scores, "B C floats"), target=(target, "B C"))
    others = target.sum(1, keepdim=True) - target  # the weight with which class j is said not to be there
    return (target * softplus(-scores) + others * softplus(scores)).sum(1).mean()


def squared_error(scores: Tensor, target: Tensor) -> Tensor:
    """L2 loss, mean over the batch: sum_y t_y ((s_y - 1)^2 + sum_{j != y} s_j^2).

    For rows that sum to one this is sum_j (s_j - t_j)^2 and a constant; other rows weigh the images.
    """
    check("squared_error", scores=(scores, "B C floats"), target=(target, "B C"))
    others = target.sum(1, keepdim=True) - target
    return (target * (scores - 1).square() + others * scores.square()).sum(1).mean()
