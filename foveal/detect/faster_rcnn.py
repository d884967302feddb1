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
from torch.nn.functional import cross_entropy

from foveal.detect.detector import Candidates, to_learn
from foveal.detect.labels import COCO, SCENES
from foveal.detect.proposals import PHOTO, RECIPE, BoxLoss, ProposalSpec, Proposer, Sightings
from foveal.errors import InputError
from foveal.losses.regression import smooth_l1
from foveal.nn.init import init_for_relu
from foveal.nn.regions import RegionAlign
from foveal.ops.boxes import decode, encode, iou
from foveal.ops.matching import match, sample_balanced
from foveal.structures import Batch, Objects
from foveal.system import Preprocess

WEIGHTS = 10.0, 10.0, 5.0, 5.0  # of the deltas of regions


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.region, self.hidden, self.layers, self.sampled_regions) < 1 or self.convolutions < 0:
            raise InputError("region, hidden, layers and sampled_regions are at least 1, convolutions at least 0")

    @property
    def looked_at(self) -> int:
        return len(self.strides) - bool(self.last_stage)


@dataclass(frozen=True)
class Regions:
    """What is said of the proposals: R of all B images together.

    seen:    what the region proposal network says.
    boxes:   of each image (R_i, 4), pixels of the prepared images.
    classes: (R, C + 1) before the softmax, background last.
    deltas:  (R, C, 4), from the proposal to the box of each class.
    """

    seen: Sightings
    boxes: tuple[Tensor, ...]
    classes: Tensor
    deltas: Tensor


def box_head(spec: FasterRCNNSpec) -> nn.Sequential:
    """(R, width, region, region) -> (R, hidden)."""
    layers = nn.Sequential()
    for n in range(1, spec.convolutions + 1):
        layers.add_module(f"conv{n}", nn.Conv2d(spec.width, spec.width, 3, padding=1, bias=False))
        layers.add_module(f"norm{n}", nn.BatchNorm2d(spec.width))
        layers.add_module(f"relu{n}", nn.ReLU())
    layers.add_module("flatten", nn.Flatten())
    channels = spec.width * spec.region**2
    for n in range(1, spec.layers + 1):
        layers.add_module(f"fc{n}", nn.Linear(channels, spec.hidden))
        layers.add_module(f"relu_fc{n}", nn.ReLU())
        channels = spec.hidden
    init_for_relu(layers)
    return layers


class PlaceMean(nn.Module):
    """The mean over the places of each region: (R, C, h, w) -> (R, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class RegionPredictor(nn.Module):
    """Features of regions (R, D) -> scores (R, C + 1), background last, and deltas (R, C, 4)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, classes + 1)
        self.delta = nn.Linear(features, classes * 4)
        for layer, deviation in ((self.score, 0.01), (self.delta, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.delta(x).unflatten(1, (-1, 4))


def class_candidates(
    boxes: Sequence[Tensor], classes: Tensor, deltas: Tensor, weights: Sequence[float] = WEIGHTS
) -> list[Candidates]:
    """Of each image (R_i, 4) regions, with scores (R, C + 1) and deltas (R, C, 4) of all together."""
    moved = decode(deltas, torch.cat(list(boxes))[:, None], weights)
    counts = [len(each) for each in boxes]
    probabilities = classes.softmax(1)[:, :-1]
    pairs = zip(moved.split(counts), probabilities.split(counts), strict=True)
    return [Candidates(each, scores) for each, scores in pairs]


@torch.no_grad()
def sample_regions(
    boxes: Sequence[Tensor], truths: Sequence[Objects], classes: int, count: int, share: float, low: float = 0.0
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Regions to learn from, of each image (S_i, 4); of all together the class of each (S,), `classes` where it is
    background; and the boxes (S, 4) that they are to move onto, with no meaning for background.

    low: what overlaps every truth by less is not learned from.
    """
    regions, labels, wanted = [], [], []
    for each, truth in zip(boxes, truths, strict=True):
        overlap = iou(truth.boxes.to(each), each)
        matches = match(overlap, 0.5, 0.5, keep_best=False)
        if low and len(truth):
            matches = matches.masked_fill(overlap.amax(0) < low, -2)
        chosen = torch.cat(sample_balanced(matches, count, share))
        matches = matches[chosen]
        regions.append(each[chosen])
        padded = torch.cat([truth.labels, truth.labels.new_full((1,), classes)])  # the last one is background
        labels.append(padded[matches])
        wanted.append(torch.cat([truth.boxes.to(each), each.new_zeros(1, 4)])[matches])
    return regions, torch.cat(labels), torch.cat(wanted)


def region_loss(
    classes: Tensor,
    deltas: Tensor,
    regions: Sequence[Tensor],
    labels: Tensor,
    wanted: Tensor,
    box_loss: BoxLoss,
    weights: Sequence[float] = WEIGHTS,
) -> dict[str, Tensor]:
    """The terms for regions with scores (S, C + 1) and deltas (S, C, 4) that `sample_regions` drew."""
    count = max(len(labels), 1)
    objects = (labels < deltas.shape[1]).nonzero()[:, 0]
    targets = encode(wanted[objects], torch.cat(list(regions))[objects], weights)
    moved = box_loss(deltas[objects, labels[objects]], targets)
    return {"class": cross_entropy(classes, labels, reduction="sum") / count, "box": moved / count}


class FasterRCNN(Proposer):
    """Images (B, 3, H, W) of any size -> Regions.

    box_loss, proposal_box_loss: (deltas (K, 4), those wanted (K, 4)) -> their sum.
    """

    spec: FasterRCNNSpec

    def __init__(
        self, spec: FasterRCNNSpec, *, box_loss: BoxLoss = smooth_l1, proposal_box_loss: BoxLoss = smooth_l1
    ) -> None:
        super().__init__(spec, proposal_box_loss=proposal_box_loss)
        self.box_loss = box_loss
        strides = spec.strides[: spec.looked_at]
        self.align = RegionAlign(strides, spec.region, 0 if spec.aligned else 2, spec.aligned)
        self.head = PlaceMean() if spec.last_stage else box_head(spec)
        features = self.backbone.channels[-1] if spec.last_stage else spec.hidden
        self.predictor = RegionPredictor(features, len(spec.labels))

    def forward(self, images: Tensor) -> Regions:
        maps = self.maps(images)
        seen = self.seen(maps, images)
        boxes = self.proposals.propose(seen, self.spec.proposals)
        return Regions(seen, tuple(boxes), *self.look(maps, boxes))

    def look(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the head says of regions (R_i, 4) of each image: scores (R, C + 1) and deltas (R, C, 4)."""
        x = self.align(maps[: len(self.align.strides)], boxes)
        if self.spec.last_stage:
            x = self.backbone.network.get_submodule(self.spec.last_stage)(x)
        return self.predictor(self.head(x))

    def candidates(self, outputs: Regions) -> list[Candidates]:
        return class_candidates(outputs.boxes, outputs.classes, outputs.deltas)

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        truths, maps = to_learn(batch.targets), self.maps(batch.images)
        seen = self.seen(maps, batch.images)
        terms = self.proposals.loss(seen, truths)
        boxes = self.proposals.propose(seen, self.spec.learned_from)
        boxes = [torch.cat([each, truth.boxes.to(each)]) for each, truth in zip(boxes, truths, strict=True)]
        regions, labels, wanted = sample_regions(boxes, truths, len(self.labels), self.spec.sampled_regions, 0.25)
        return terms | region_loss(*self.look(maps, regions), regions, labels, wanted, self.box_loss)


RESNET50_FPN = FasterRCNNSpec(COCO, PHOTO, RECIPE)
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
