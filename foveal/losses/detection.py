"""Losses of detectors: functions of the scores of places. Those of boxes are in boxes.py."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from foveal.errors import InputError
from foveal.ops.checks import check


def sigmoid_focal(scores: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """One yes-or-no question for each score, where what is easily told hardly counts; the same shape as the scores.

        -alpha_t (1 - p_t)^gamma log p_t,   p_t = p where the answer is yes, else 1 - p;  alpha_t likewise

    Lin, Goyal, Girshick, He and Dollar 2017, arXiv:1708.02002. scores: before the sigmoid. target: 0 or 1, or t in
    between, which is as in torchvision:

        -alpha_t (1 - p_t)^gamma (t log p + (1 - t) log(1 - p)),   p_t = t p + (1 - t) (1 - p);  alpha_t likewise

    InputError for a target of another shape.
    """
    check("sigmoid_focal", scores=(scores, "... floats"), target=(target, "..."))
    if target.shape != scores.shape:
        shapes = f"{tuple(target.shape)} of scores {tuple(scores.shape)}"
        raise InputError(f"sigmoid_focal takes a target of the shape of the scores, not {shapes}")
    yes = target.to(scores)
    no = 1 - yes
    entropy = -(yes * logsigmoid(scores) + no * logsigmoid(-scores))
    missed = yes * (-scores).sigmoid() + no * scores.sigmoid()  # 1 - p_t
    return (alpha * yes + (1 - alpha) * no) * missed**gamma * entropy
