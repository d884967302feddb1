"""FCOS: every place of a pyramid that lies in an object says how far its four sides are, without any anchor.

Tian, Shen, Chen and He 2019, "Fully convolutional one-stage object detection", arXiv:1904.01355. A place learns the
smallest object around it that is of the size its map is for; how central it lies, the "centerness", is learned beside
and lowers what is told from the rim of an object, where boxes are poor.

As in the authors' later version (2020, arXiv:2006.09214): only places near the centre of an object learn it, boxes by
their GIoU, distances in strides of the map and positive by a relu, centerness beside the boxes. Departs from it as
torchvision's weights do: no learned scale for each map, and places lie at the corners of their strides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from foveal.detect.dense import DenseDetector, DenseSpec, extents, levels
from foveal.detect.detector import Candidates, to_learn
from foveal.detect.labels import COCO, SCENES
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, BoxLossName, Code
from foveal.losses.detection import sigmoid_focal
from foveal.ops.anchors import grid_points
from foveal.ops.boxes import area, decode_sides, encode_sides
from foveal.ops.matching import NOTHING
from foveal.structures import Batch
from foveal.system import Preprocess

SMALLEST, LARGEST = 4.0, 8.0  # strides: a map learns objects whose farthest side lies between these from the place


@dataclass(frozen=True)
class FCOSSpec(DenseSpec):
    """
    steps:    stride of each map in pixels, the finest first: the unit of its distances, which sizes it learns.
    radius:   how many strides from the centre of an object, across and down, the places lie that learn it.
    box_loss: by its name in losses/boxes.py; the first version has iou.
    """

    norm: bool = True
    steps: tuple[int, ...] = (8, 16, 32, 64, 128)
    radius: float = 1.5
    box_loss: BoxLossName = field(default="giou", kw_only=True)
    score_threshold: float = 0.2
    nms_threshold: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius <= 0:
            raise InputError(f"radius is above 0, not {self.radius}")


@dataclass(frozen=True)
class FCOSOutputs:
    """
    scores: (B, N, C) of each class, before a sigmoid.
    sides:  (B, N, 4) distances of left, upper, right and lower side, in strides.
    centre: (B, N, 1) centerness, before a sigmoid.
    points: (N, 2), x and y, pixels of the prepared images.
    stride: (N, 1) pixels.
    level:  (N,) int64, the map each is of.
    """

    scores: Tensor
    sides: Tensor
    centre: Tensor
    points: Tensor
    stride: Tensor
    level: Tensor


class FCOS(DenseDetector):
    """Images (B, 3, H, W) of any size.

    class_loss: (scores, target), each (n, C) -> their losses, of the same shape.
    box_loss:   see losses/boxes.py; default as the spec names it.
    """

    spec: FCOSSpec

    def __init__(
        self,
        spec: FCOSSpec,
        *,
        class_loss: Callable[[Tensor, Tensor], Tensor] = sigmoid_focal,
        box_loss: BoxLoss | None = None,
    ) -> None:
        super().__init__(spec, len(spec.steps), {"sides": 4, "centre": 1})
        self.class_loss, self.box_loss = class_loss, box_loss or BOX_LOSSES[spec.box_loss]
        # Boxes begin two strides wide, where no relu is silent yet.
        nn.init.ones_(self.boxes.tell.get_parameter("sides.bias"))

    def forward(self, images: Tensor) -> FCOSOutputs:
        maps = self.own_maps(images)  # (B, width, h, w) each, h = H / 8 ... H / 128
        scores, boxes = self.classes(maps)["scores"], self.boxes(maps)
        points = [
            # As published weights have it: the image's extent over the map's, a whole number, from the corner on.
            grid_points((h, w), (images.shape[2] // h, images.shape[3] // w), 0.0, images.device)
            for h, w in extents(maps)
        ]
        level = levels([len(each) for each in points], images.device)
        stride = torch.tensor(self.spec.steps, device=images.device).to(images)[level][:, None]
        at = torch.cat(points).to(images)
        return FCOSOutputs(scores, boxes["sides"].relu(), boxes["centre"], at, stride, level)

    def candidates(self, outputs: FCOSOutputs) -> list[Candidates]:
        """The score is the geometric mean of the probability of the class and the centerness."""
        scores = (outputs.scores.sigmoid() * outputs.centre.sigmoid()).sqrt()
        boxes = decode_sides(outputs.points, outputs.sides * outputs.stride)
        return [Candidates(box[:, None], score, outputs.level) for box, score in zip(boxes, scores, strict=True)]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """ "class", "box" and "centre": the sums over all places of the batch, divided by how many learn an object."""
        outputs = self(batch.images)
        at, stride = outputs.points, outputs.stride
        matches, boxes, labels = [], [], []
        for truth in to_learn(batch.targets):
            each = self.assign(truth.boxes.to(at), outputs)
            held = each[each >= 0]
            matches.append(each)
            boxes.append(truth.boxes.to(at)[held])
            labels.append(truth.labels[held])
        image, place = (torch.stack(matches) >= 0).nonzero(as_tuple=True)  # (P,), in the order of the lists
        wanted, count = torch.cat(boxes), max(1, len(image))
        classes = torch.zeros_like(outputs.scores)
        classes[image, place, torch.cat(labels)] = 1
        at, stride = at[place], stride[place]
        code = Code(lambda boxes: encode_sides(at, boxes) / stride, lambda sides: decode_sides(at, sides * stride))
        centre = centerness(encode_sides(at, wanted))
        told = outputs.centre[image, place, 0].to(centre)
        return {
            "class": self.class_loss(outputs.scores, classes).sum() / count,
            "box": self.box_loss(outputs.sides[image, place], wanted, code).sum() / count,
            "centre": binary_cross_entropy_with_logits(told, centre, reduction="sum") / count,
        }

    def assign(self, boxes: Tensor, outputs: FCOSOutputs) -> Tensor:
        """Which of the boxes (M, 4) each place learns, (N,) int64, -1 for none: of those that it lies in, near whose
        centre it lies and which are of its map's size, the smallest."""
        at, stride = outputs.points, outputs.stride
        if not len(boxes):
            return torch.full((len(at),), NOTHING, device=at.device)
        sides = encode_sides(at[:, None], boxes)  # (N, M, 4)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        near = (at[:, None] - centres).abs().amax(2) < self.spec.radius * stride
        farthest = sides.amax(2)
        # The first map learns what is small as well, the last what is large.
        low = torch.where(outputs.level == 0, 0.0, SMALLEST * stride[:, 0])[:, None]
        high = torch.where(outputs.level == len(self.spec.steps) - 1, torch.inf, LARGEST * stride[:, 0])[:, None]
        fits = (sides.amin(2) > 0) & near & (farthest > low) & (farthest < high)
        smallest, index = area(boxes).expand(len(at), -1).masked_fill(~fits, torch.inf).min(1)
        return index.masked_fill(smallest == torch.inf, NOTHING)


def centerness(sides: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) of sides (P, 4), l, t, r, b > 0 -> (P,): 1 in the middle."""
    across, down = sides[:, 0::2], sides[:, 1::2]
    return (across.amin(1) / across.amax(1) * down.amin(1) / down.amax(1)).sqrt()


PHOTOGRAPH = Preprocess((800, 1333), "bound", 1.0)
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 16}
RECIPE |= {"epochs": 24, "milestones": (16, 22), "schedule": "step", "flip": True}
RESNET50 = FCOSSpec(COCO, PHOTOGRAPH, RECIPE, backbone="resnet50", frozen_norm=True)

VARIANTS = {
    "fcos_resnet50_fpn": RESNET50,
    "fcos_nano": replace(
        RESNET50,
        labels=SCENES,
        preprocess=Preprocess((96, 96), "squash", 1.0),
        recipe={"epochs": 16, "batch_size": 16, "lr": 2e-3, "warmup": 1, "clip": 5.0, "shift": 0.08},
        backbone="resnet10_nano",
        frozen_norm=False,
        strides=(4, 8, 16),
        extra="none",
        width=48,
        depth=2,
        steps=(4, 8, 16),
        score_threshold=0.05,
    ),
}
