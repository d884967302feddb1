"""RetinaNet: every place of a pyramid says for each of nine anchors what it shows and how the box lies to it.

Lin, Goyal, Girshick, He and Dollar 2017, "Focal loss for dense object detection", arXiv:1708.02002. Of a hundred
thousand anchors a handful holds an object; the focal loss keeps the others, which are easy, from drowning these.

Departs from the paper as torchvision's weights do: the coarsest maps are made of P5 (`extra="convolve_input"` is the
paper's and that of v2), boxes are learned by the L1 distance rather than its smooth form, anchors are rounded to whole
pixels and lie around the corners of places, and up to 300 objects are told. v2 has group norms in its heads and learns
boxes by their GIoU (Zhang et al. 2019, arXiv:1912.02424).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from foveal.detect.dense import DenseDetector, DenseSpec, extents, levels
from foveal.detect.detector import Candidates, to_learn
from foveal.detect.labels import COCO, SCENES
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, BoxLossName, deltas_from
from foveal.losses.detection import sigmoid_focal
from foveal.ops.anchors import anchor_shapes, grid_anchors
from foveal.ops.boxes import decode, iou
from foveal.ops.matching import BETWEEN, match
from foveal.structures import Batch
from foveal.system import Preprocess

OBJECT, BACKGROUND = 0.5, 0.4  # an anchor is an object from this IoU on, and background below that


def sizes_from(*smallest: int) -> tuple[tuple[int, ...], ...]:
    """For each map three sizes of anchors within an octave: s, 2^1/3 s, 2^2/3 s, in whole pixels."""
    return tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in smallest)


@dataclass(frozen=True)
class RetinaNetSpec(DenseSpec):
    """
    sizes:    of the anchors of each map, the finest first: roots of their areas, in pixels.
    ratios:   height over width of the anchors.
    """

    sizes: tuple[tuple[float, ...], ...] = sizes_from(32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    detections: int = 300
    box_loss: BoxLossName = field(default="l1", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ratios or len({len(row) for row in self.sizes}) != 1:
            raise InputError(f"every map has as many sizes of anchors, and there are ratios, not {self.sizes}")


@dataclass(frozen=True)
class RetinaNetOutputs:
    """
    scores:  (B, N, C) of each class, before a sigmoid.
    deltas:  (B, N, 4) from anchors to boxes.
    anchors: (N, 4), pixels of the prepared images.
    level:   (N,) int64, the map each is of.
    """

    scores: Tensor
    deltas: Tensor
    anchors: Tensor
    level: Tensor


class RetinaNet(DenseDetector):
    """Images (B, 3, H, W) of any size.

    class_loss: (scores, target), each (n, C) -> their losses, of the same shape.
    box_loss:   see losses/boxes.py; default as the spec names it.
    """

    spec: RetinaNetSpec

    def __init__(
        self,
        spec: RetinaNetSpec,
        *,
        class_loss: Callable[[Tensor, Tensor], Tensor] = sigmoid_focal,
        box_loss: BoxLoss | None = None,
    ) -> None:
        shapes = len(spec.ratios) * len(spec.sizes[0])
        super().__init__(spec, len(spec.sizes), {"deltas": 4}, shapes, bias=not spec.norm)
        self.class_loss, self.box_loss = class_loss, box_loss or BOX_LOSSES[spec.box_loss]

    def forward(self, images: Tensor) -> RetinaNetOutputs:
        maps = self.own_maps(images)  # (B, width, h, w) each, h = H / 8 ... H / 128
        scores, deltas = self.classes(maps)["scores"], self.boxes(maps)["deltas"]
        anchors = [
            # As published weights have it: strides are whole numbers.
            grid_anchors(shapes.to(images), (h, w), (images.shape[2] // h, images.shape[3] // w))
            for shapes, (h, w) in zip(self._shapes(), extents(maps), strict=True)
        ]
        level = levels([len(each) for each in anchors], images.device)
        return RetinaNetOutputs(scores, deltas, torch.cat(anchors), level)

    def _shapes(self) -> list[Tensor]:
        """The anchors (A, 4) at one place of each map."""
        return [anchor_shapes(sizes, self.spec.ratios, rounded=True) for sizes in self.spec.sizes]

    def candidates(self, outputs: RetinaNetOutputs) -> list[Candidates]:
        return [
            Candidates(decode(deltas, outputs.anchors)[:, None], scores.sigmoid(), outputs.level)
            for scores, deltas in zip(outputs.scores, outputs.deltas, strict=True)
        ]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """ "class" and "box": of each image the sum over its anchors, divided by how many hold an object; the mean over
        the images."""
        outputs = self(batch.images)
        anchors, terms = outputs.anchors, []
        for scores, deltas, truth in zip(outputs.scores, outputs.deltas, to_learn(batch.targets), strict=True):
            boxes = truth.boxes.to(anchors)
            matches = match(iou(boxes, anchors), OBJECT, BACKGROUND, keep_best=True)  # (N,)
            held = (matches >= 0).nonzero()[:, 0]
            wanted = torch.zeros_like(scores)
            wanted[held, truth.labels[matches[held]]] = 1
            clear = matches != BETWEEN
            by_class = self.class_loss(scores[clear], wanted[clear]).sum()
            by_box = self.box_loss(deltas[held], boxes[matches[held]], deltas_from(anchors[held])).sum()
            terms.append(torch.stack([by_class, by_box]) / max(1, len(held)))
        by_class, by_box = torch.stack(terms).mean(0)
        return {"class": by_class, "box": by_box}


PHOTOGRAPH = Preprocess((800, 1333), "bound", 1.0)
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 16}
RECIPE |= {"epochs": 26, "milestones": (16, 22), "schedule": "step", "flip": True}
RESNET50 = RetinaNetSpec(COCO, PHOTOGRAPH, RECIPE, backbone="resnet50", frozen_norm=True)

VARIANTS = {
    "retinanet_resnet50_fpn": RESNET50,
    "retinanet_resnet50_fpn_v2": replace(
        RESNET50, frozen_norm=False, extra="convolve_input", norm=True, box_loss="giou"
    ),
    "retinanet_efficientnet_lite0_fpn": RetinaNetSpec(
        COCO,
        Preprocess((512, 512), "fit", 1.0),
        {"epochs": 12, "batch_size": 8, "lr": 5e-4, "weight_decay": 1e-4, "clip": 5.0, "flip": True},
        backbone="tf_efficientnet_lite0",
        width=96,
        depth=2,
        norm=True,
        box_loss="giou",
    ),
    "retinanet_nano": RetinaNetSpec(
        SCENES,
        Preprocess((96, 96), "squash", 1.0),
        {"epochs": 16, "batch_size": 16, "lr": 2e-3, "warmup": 1, "clip": 5.0, "shift": 0.08},
        backbone="resnet10_nano",
        strides=(4, 8, 16),
        extra="none",
        width=48,
        depth=2,
        norm=True,
        sizes=sizes_from(12, 24, 48),
        box_loss="giou",
        score_threshold=0.02,
        detections=100,
    ),
}
