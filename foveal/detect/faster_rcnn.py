"""Faster R-CNN: Ren, He, Girshick and Sun 2015, arXiv:1506.01497; with a feature pyramid (FPN) as in Lin et al. 2016,
arXiv:1612.03144, or on the fourth maps of a ResNet alone (C4) as in He et al. 2015, arXiv:1512.03385.

The region proposal network (proposals.py) says where objects are; a second network looks at each of these regions,
brought to one size by RoI align, and says what is there and how the region moves onto it:

    image -> maps -> proposals -> RoI align -> head -> softmax over C classes and background, C boxes

    L = L of the proposals + mean over sampled regions of cross-entropy + sum over those with an object of
        smooth_l1(d, d*) / sampled regions

A region shows the truth that overlaps it by half or more, else background; 512 regions of an image are sampled, up to a
quarter with an object; the truths themselves are among them. The deltas are in units of their usual size: 10 dx, 10 dy,
5 dw, 5 dh.

Departs from the paper, as published weights do: all parts learn together, and no gradient goes through the corners of
the regions; RoI align takes the place of RoI pooling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foveal.detect.detector import Candidates, to_learn
from foveal.detect.labels import COCO, SCENES
from foveal.detect.proposals import PHOTO, RECIPE, ProposalSpec, Proposer, Sightings
from foveal.detect.regions import (
    PlaceMean,
    RegionPredictor,
    Regions,
    box_head,
    class_candidates,
    near_regions,
    region_loss,
    sample_regions,
)
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, BoxLossName
from foveal.nn.regions import RegionAlign
from foveal.structures import Batch, Objects
from foveal.system import Preprocess


@dataclass(frozen=True)
class FasterRCNNSpec(ProposalSpec):
    """
    last_stage:     the backbone's module that is the head (C4), which then makes the last of its maps; without one the
                    head has layers of its own.
    region:         side of what a region is brought to.
    aligned:        RoI align with pixels that begin at (0, 0), as many samples as a bin has pixels.
    convolutions:   3x3 convolutions of the head, each with a batch norm.
    hidden:         units in each of its fully connected layers.
    layers:         how many of these there are.
    sampled_regions: regions of an image that a step learns from.
    proposal_box_loss: as box_loss, of the proposals.
    """

    last_stage: str = ""
    region: int = 7
    aligned: bool = False
    convolutions: int = 0
    hidden: int = 1024
    layers: int = 2
    sampled_regions: int = 512
    # 1,000 proposals cannot have more pairs with a class above the threshold: all of them are looked at.
    shortlist: int = 20000
    proposal_box_loss: BoxLossName = "smooth_l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.region, self.hidden, self.layers, self.sampled_regions) < 1 or self.convolutions < 0:
            raise InputError("region, hidden, layers and sampled_regions are at least 1, convolutions at least 0")

    @property
    def looked_at(self) -> int:
        return len(self.strides) - bool(self.last_stage)


@dataclass(frozen=True)
class Found(Regions):
    """What is said of the proposals, and what the region proposal network says.

    seen: of the anchors.
    """

    seen: Sightings


class FasterRCNN(Proposer):
    """Images (B, 3, H, W) of any size -> Found.

    box_loss, proposal_box_loss: see losses/boxes.py; default as the spec names them.
    """

    spec: FasterRCNNSpec

    def __init__(
        self, spec: FasterRCNNSpec, *, box_loss: BoxLoss | None = None, proposal_box_loss: BoxLoss | None = None
    ) -> None:
        super().__init__(spec, proposal_box_loss=proposal_box_loss or BOX_LOSSES[spec.proposal_box_loss])
        self.box_loss = box_loss or BOX_LOSSES[spec.box_loss]
        strides = spec.strides[: spec.looked_at]
        self.align = RegionAlign(strides, spec.region, 0 if spec.aligned else 2, spec.aligned)
        features = self.backbone.channels[-1] if spec.last_stage else spec.hidden
        self.head: nn.Module = PlaceMean()
        if not spec.last_stage:
            self.head = box_head(spec.width, spec.region, spec.hidden, spec.layers, spec.convolutions)
        self.predictor = RegionPredictor(features, len(spec.labels))

    def forward(self, images: Tensor) -> Found:
        maps = self.own_maps(images)
        seen = self.seen(maps, images)
        boxes = self.proposals.propose(seen, self.spec.proposals)
        return Found(tuple(boxes), *self.look(maps, boxes), seen)

    def look(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the head says of regions (R_i, 4) of each image: scores (R, C + 1) and deltas (R, C, 4)."""
        x = self.align(maps[: len(self.align.strides)], boxes)
        if self.spec.last_stage:
            x = self.backbone.network.get_submodule(self.spec.last_stage)(x)
        return self.predictor(self.head(x))

    def class_major(self, name: str) -> bool:
        return name.startswith("predictor.delta.")

    def candidates(self, outputs: Found) -> list[Candidates]:
        return class_candidates(outputs.boxes, outputs.classes, outputs.deltas)

    def near(self, images: Tensor, target: Objects) -> list[Candidates]:
        maps = self.own_maps(images)
        boxes = near_regions(self.proposals.propose(self.seen(maps, images), self.spec.proposals), target)
        return class_candidates(boxes, *self.look(maps, boxes))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        truths, maps = to_learn(batch.targets), self.own_maps(batch.images)
        seen = self.seen(maps, batch.images)
        terms = self.proposals.loss(seen, truths)
        boxes = self.proposals.propose(seen, self.spec.learned_from)
        boxes = [torch.cat([each, truth.boxes.to(each)]) for each, truth in zip(boxes, truths, strict=True)]
        regions, labels, wanted = sample_regions(boxes, truths, len(self.labels), self.spec.sampled_regions, 0.25)
        return terms | region_loss(*self.look(maps, regions), regions, labels, wanted, self.box_loss)


RESNET50_FPN = FasterRCNNSpec(COCO, PHOTO, RECIPE)
# Its norms have eps=1e-5, as timm's network has, not the 1e-3 of torchvision's own classifier.
MOBILENET_FPN = replace(
    RESNET50_FPN,
    backbone="mobilenetv3_large_100",
    strides=(32, 32),
    maps=("stage6.0", "head"),
    anchors=((32, 64, 128, 256, 512),) * 3,
    proposal_threshold=0.05,
)
FINE_TUNING = {"lr": 2e-4, "batch_size": 4, "epochs": 12, "flip": True, "clip": 10.0, "warmup": 0.5}

VARIANTS = {
    "fasterrcnn_resnet50_fpn": RESNET50_FPN,
    "fasterrcnn_resnet50_fpn_v2": replace(RESNET50_FPN, pyramid_norm=True, depth=2, convolutions=4, layers=1),
    "fasterrcnn_resnet50_c4": replace(
        RESNET50_FPN,
        strides=(16, 32),
        width=0,
        anchors=((32, 64, 128, 256, 512),),
        last_stage="stage4",
        region=14,
        aligned=True,
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": MOBILENET_FPN,
    "fasterrcnn_mobilenet_v3_large_320_fpn": replace(
        MOBILENET_FPN, preprocess=Preprocess((320, 640), "bound", 1.0), proposals=150
    ),
    "fasterrcnn_efficientnet_lite0_fpn": replace(
        RESNET50_FPN,
        preprocess=Preprocess((512, 512), "fit", 1.0),
        recipe=FINE_TUNING,
        backbone="tf_efficientnet_lite0",
        width=128,
        hidden=256,
        frozen_norm=True,
    ),
    "faster_rcnn_nano": replace(
        RESNET50_FPN,
        labels=SCENES,
        preprocess=Preprocess((96, 96), "fit", 1.0),
        recipe={"epochs": 10, "lr": 0.002, "batch_size": 16, "clip": 10.0, "warmup": 0.5},
        backbone="resnet10_nano",
        strides=(4, 8, 16),
        width=64,
        anchors=((16,), (28,), (48,), (80,)),
        hidden=128,
        proposals=100,
        learned_from=200,
        sampled=64,
        sampled_regions=64,
    ),
}
