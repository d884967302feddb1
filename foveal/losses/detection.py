"""Losses of detectors: functions of the scores of places. Those of boxes are in boxes.py."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid_focal(scores: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """One yes-or-no question for each score, where what is easily told hardly counts; the same shape as the scores.

        -alpha_t (1 - p_t)^gamma log p_t,   p_t = p where the answer is yes, else 1 - p;  alpha_t likewise

    Lin, Goyal, Girshick, He and Dollar 2017, arXiv:1708.02002. scores: before the sigmoid. target: 0 or 1.
    """
    sign = 2 * target - 1
    weight = 0.5 + sign * (alpha - 0.5)  # alpha or 1 - alpha
    return -weight * (-sign * scores).sigmoid() ** gamma * logsigmoid(sign * scores)
