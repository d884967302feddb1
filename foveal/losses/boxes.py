"""Losses of boxes that a detector regresses. All have one contract, so any detector learns by any of them.

    loss(numbers, boxes, code) -> (N,)

numbers: (N, 4) what the network regresses: deltas from references, distances of sides, or centre and size.
boxes:   (N, 4) the true boxes, xyxy.
code:    how numbers stand for boxes.

InputError for other shapes.

`l1` and `smooth_l1` compare the numbers with those of the true boxes; the others compare the boxes that the numbers
stand for with the true ones.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from foveal.ops import boxes as ops
from foveal.ops.checks import check

BoxLossName = Literal["l1", "smooth_l1", "iou", "giou", "diou", "ciou"]


class Code(NamedTuple):
    """How numbers (N, 4) stand for boxes (N, 4), row by row.

    encode: boxes -> numbers.
    decode: numbers -> boxes.
    beta:   the error of a number below which `smooth_l1` is quadratic; it depends on the unit of the numbers.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    beta: float = 1 / 9


BoxLoss = Callable[[Tensor, Tensor, Code], Tensor]


def deltas_from(references: Tensor, weights: Sequence[float] = (1, 1, 1, 1), beta: float = 1 / 9) -> Code:
    """The code of deltas from references (N, 4), as `foveal.ops.boxes.encode` defines them."""
    encode = partial(ops.encode, references=references, weights=weights)
    return Code(encode, partial(ops.decode, references=references, weights=weights), beta)


def l1(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """Sum of |d| over the four numbers of a box; d = numbers - encoded boxes."""
    check("l1", numbers=(numbers, "N 4"), boxes=(boxes, "N 4"))
    return (numbers - code.encode(boxes)).abs().sum(-1)


def smooth_l1(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """Sum of d^2 / (2 beta) where |d| < beta, else of |d| - beta / 2, over the four numbers of a box; d as in `l1`.

    Girshick 2015, arXiv:1504.08083, where beta is 1; the published training of Faster R-CNN has a ninth.
    """
    check("smooth_l1", numbers=(numbers, "N 4"), boxes=(boxes, "N 4"))
    return smooth_l1_loss(numbers, code.encode(boxes), reduction="none", beta=code.beta).sum(-1)


def iou_loss(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """-log IoU. Yu et al. 2016, "UnitBox", arXiv:1608.01471. An IoU below 1e-6 counts as that, and has no gradient."""
    return -torch.log(ops.iou(code.decode(numbers), boxes, paired=True).clamp(min=1e-6))


def giou_loss(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """1 - GIoU, from 0 to 2. Rezatofighi et al. 2019, arXiv:1902.09630. Boxes that do not overlap have a gradient."""
    return 1 - ops.giou(code.decode(numbers), boxes, paired=True)


def diou_loss(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """1 - DIoU, from 0 to 2. Zheng et al. 2019, arXiv:1911.08287. It pulls the centres together as well."""
    return 1 - ops.diou(code.decode(numbers), boxes, paired=True)


def ciou_loss(numbers: Tensor, boxes: Tensor, code: Code) -> Tensor:
    """1 - CIoU. Zheng et al. 2019, arXiv:1911.08287. It makes the aspect ratios alike as well."""
    return 1 - ops.ciou(code.decode(numbers), boxes, paired=True)


BOX_LOSSES: dict[BoxLossName, BoxLoss] = {
    "l1": l1,
    "smooth_l1": smooth_l1,
    "iou": iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}
