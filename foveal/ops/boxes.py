"""Boxes: area, overlap, conversion, and the parametrisations that networks regress.

A box is (x1, y1, x2, y2) with x2 >= x1 and y2 >= y1, in pixels or in any other unit; its area is (x2 - x1) (y2 - y1).

    IoU  = |A and B| / |A or B|
    GIoU = IoU - (|C| - |A or B|) / |C|         C the smallest box around both     Rezatofighi et al. 2019, 1902.09630
    DIoU = IoU - |centre A - centre B|^2 / d^2  d the diagonal of C                Zheng et al. 2019, 1911.08287
    CIoU = DIoU - v^2 / (1 - IoU + v)           v = 4 / pi^2 (atan(w_A / h_A) - atan(w_B / h_B))^2      the same paper

Where the denominator is zero the quotient is taken as zero: degenerate boxes give no NaN, nor do their gradients.
Half precision is computed in float32: the area of a box of 300 by 300 pixels is more than float16 holds.
InputError for tensors of other shapes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foveal.ops.checks import check

LARGEST = math.log(1000 / 16)  # a decoded side is at most 62.5 times that of its reference
SMALLEST = 1e-6  # what a side without length counts as, where its logarithm is taken
BLOCK = 2**17  # pairs at once: what lies between the steps stays in the cache


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...)."""
    check("area", boxes=(boxes, "... 4"))
    x1, y1, x2, y2 = _precise(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1)


def iou(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    """Intersection over union of each of (N, 4) with each of (M, 4) -> (N, M); paired: row by row -> (N,)."""
    return _compare(_iou, a, b, paired)


def giou(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    """Generalised IoU, in [-1, 1], of each of (N, 4) with each of (M, 4) -> (N, M); paired: row by row -> (N,)."""
    return _compare(_giou, a, b, paired)


def diou(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    """Distance IoU, in [-1, 1], of each of (N, 4) with each of (M, 4) -> (N, M); paired: row by row -> (N,)."""
    return _compare(_diou, a, b, paired)


def ciou(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    """Complete IoU of each of (N, 4) with each of (M, 4) -> (N, M); paired: row by row -> (N,). As in the paper, the
    weight of v, v / (1 - IoU + v), has no gradient."""
    return _compare(_ciou, a, b, paired)


def iof(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    """The share of each a (N, 4) that lies in each b (M, 4) -> (N, M); what a crowd is matched by."""
    return _compare(_iof, a, b, paired)


Sides = Sequence[Tensor]  # x1, y1, x2, y2 of boxes, broadcast against those of others


def _compare(measure: Callable[[Sides, Sides], Tensor], a: Tensor, b: Tensor, paired: bool) -> Tensor:
    check(measure.__name__[1:], a=(a, "N 4"), b=(b, "N 4" if paired else "M 4"))
    a, b = _precise(a), _precise(b)
    if paired:
        return measure(a.unbind(-1), b.unbind(-1))
    rows, columns = a[:, None].unbind(-1), [side.contiguous() for side in b[None].unbind(-1)]
    count = max(1, BLOCK // max(1, len(b)))
    if len(a) <= count or a.device.type != "cpu":
        return measure(rows, columns)
    parts = zip(*(side.split(count) for side in rows), strict=True)
    return torch.cat([measure(part, columns) for part in parts])


def _precise(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _areas(a: Sides, b: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of the intersection, of a and of b."""
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    height = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    return width * height, (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])


def _hull(a: Sides, b: Sides) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    width = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    return width, torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    empty = whole == 0
    return part.masked_fill(empty, 0) / whole.masked_fill(empty, 1)


def _iou(a: Sides, b: Sides) -> Tensor:
    both, ours, theirs = _areas(a, b)
    return _quotient(both, ours + theirs - both)


def _iof(a: Sides, b: Sides) -> Tensor:
    both, ours, _ = _areas(a, b)
    return _quotient(both, ours.expand_as(both))


def _giou(a: Sides, b: Sides) -> Tensor:
    both, ours, theirs = _areas(a, b)
    union = ours + theirs - both
    width, height = _hull(a, b)
    return _quotient(both, union) - _quotient(width * height - union, width * height)


def _diou(a: Sides, b: Sides) -> Tensor:
    width, height = _hull(a, b)
    x, y = a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]  # twice the distance of the centres
    return _iou(a, b) - _quotient((x * x + y * y) / 4, width * width + height * height)


def _ciou(a: Sides, b: Sides) -> Tensor:
    angles = [_quotient(x2 - x1, y2 - y1).atan() for x1, y1, x2, y2 in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    weight = v.detach()
    weight = _quotient(weight, 1 - _iou(a, b).detach() + weight)
    return _diou(a, b) - weight * v


def clip(boxes: Tensor, extent: tuple[int, int] | Tensor) -> Tensor:
    """Boxes (..., N, 4) cut to images of `extent`, (height, width) or (..., 2) with the same leading dimensions."""
    extent = torch.as_tensor(extent, device=boxes.device)
    check("clip", boxes=(boxes, "... N 4"), extent=(extent, "... 2"))
    limit = extent.to(boxes.dtype).flip(-1)[..., None, :]
    return torch.cat([boxes[..., :2].clamp(min=0).minimum(limit), boxes[..., 2:].clamp(min=0).minimum(limit)], -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4): corner and size, as COCO writes boxes, to two corners."""
    check("xywh_to_xyxy", boxes=(boxes, "... 4"))
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4): two corners to corner and size."""
    check("xyxy_to_xywh", boxes=(boxes, "... 4"))
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4): centre and size, as YOLO and DETR write boxes, to two corners."""
    check("cxcywh_to_xyxy", boxes=(boxes, "... 4"))
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4): two corners to centre and size."""
    check("xyxy_to_cxcywh", boxes=(boxes, "... 4"))
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes (..., 4) as seen from references (..., 4) -> (..., 4); Girshick et al. 2013, 1311.2524, appendix C.

    t = (wx (x - xr) / wr, wy (y - yr) / hr, ww log(w / wr), wh log(h / hr)) with x, y the centre. A side shorter than
    1e-6 counts as that long.
    """
    check("encode", boxes=(boxes, "... 4"), references=(references, "... 4"))
    boxes, references = xyxy_to_cxcywh(_precise(boxes)), xyxy_to_cxcywh(_precise(references))
    size = references[..., 2:].clamp(min=SMALLEST)
    moved = (boxes[..., :2] - references[..., :2]) / size
    grown = torch.log(boxes[..., 2:].clamp(min=SMALLEST) / size)
    return torch.cat([moved, grown], -1) * boxes.new_tensor(weights)


def decode(
    deltas: Tensor, references: Tensor, weights: Sequence[float] = (1, 1, 1, 1), limit: float = LARGEST
) -> Tensor:
    """The boxes (..., 4) that deltas (..., 4) are of, seen from references (..., 4): the inverse of `encode`.

    limit: the largest logarithm of a scale, so that a wild network gives no infinite box.
    """
    check("decode", deltas=(deltas, "... 4"), references=(references, "... 4"))
    deltas, references = _precise(deltas), xyxy_to_cxcywh(_precise(references))
    deltas = deltas / deltas.new_tensor(weights)
    centre = deltas[..., :2] * references[..., 2:] + references[..., :2]
    half = deltas[..., 2:].clamp(max=limit).exp() * references[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def encode_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """From points (..., 2) the distances (..., 4) of the left, upper, right and lower side of boxes (..., 4).

    All four are positive where the point lies inside; Tian et al. 2019, 1904.01355.
    """
    check("encode_sides", points=(points, "... 2"), boxes=(boxes, "... 4"))
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def decode_sides(points: Tensor, sides: Tensor) -> Tensor:
    """The boxes (..., 4) whose sides lie at these distances (..., 4) from points (..., 2)."""
    check("decode_sides", points=(points, "... 2"), sides=(sides, "... 4"))
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
