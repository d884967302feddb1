"""Losses of detectors: functions of the scores of places, and of boxes."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from foveal.ops.boxes import giou, iou


def sigmoid_focal(scores: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """One yes-or-no question for each score, where what is easily told hardly counts; the same shape as the scores.

        -alpha_t (1 - p_t)^gamma log p_t,   p_t = p where the answer is yes, else 1 - p;  alpha_t likewise

    Lin, Goyal, Girshick, He and Dollar 2017, arXiv:1708.02002. scores: before the sigmoid. target: 0 or 1.
    """
    sign = 2 * target - 1
    weight = 0.5 + sign * (alpha - 0.5)  # alpha or 1 - alpha
    return -weight * (-sign * scores).sigmoid() ** gamma * logsigmoid(sign * scores)


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of boxes (N, 4) with those that are wanted, row by row -> (N,), from 0 to 2.

    Rezatofighi et al. 2019, arXiv:1902.09630. Boxes that do not meet are drawn to each other.
    """
    return 1 - giou(boxes, wanted, paired=True)


def iou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """-log IoU of boxes (N, 4) with those that are wanted, row by row -> (N,).

    Yu et al. 2016, "UnitBox", arXiv:1608.01471. An IoU below 1e-6 counts as that, and has no gradient.
    """
    return -torch.log(iou(boxes, wanted, paired=True).clamp(min=1e-6))
