"""Region proposal network: Ren, He, Girshick and Sun 2015, "Faster R-CNN", arXiv:1506.01497, section 3.1; on the maps
of a pyramid as in Lin et al. 2016, arXiv:1612.03144.

At each place of each map stand A anchors of several sizes and shapes. A small convolutional network says of each
whether it holds an object, whatever that is, and what moves the anchor onto it:

    p = sigmoid(o)      x = xa + dx wa,  y = ya + dy ha,  w = wa exp(dw),  h = ha exp(dh)

    L = mean over sampled anchors of BCE(o, is object) + sum over those that are of smooth_l1(d, d*) / sampled anchors

An anchor is to find the truth that overlaps it by 0.7, or that no other anchor overlaps more; it is background below
0.3; 256 anchors of an image are sampled, up to a half of them with an object.

Departs from the paper, as published weights do: anchors that reach beyond the image are kept, the terms have one weight
without its factor of 10, and beta of the smooth L1 is a ninth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from foveal.detect.detector import Candidates, Detector, DetectorSpec, to_learn
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, deltas_from
from foveal.nn.pyramid import FeaturePyramid
from foveal.ops.anchors import anchor_shapes, grid_anchors
from foveal.ops.boxes import clip, decode, iou
from foveal.ops.matching import match, sample_balanced
from foveal.ops.nms import batched_nms
from foveal.structures import ANYTHING, Batch, Objects
from foveal.system import Preprocess

SMALLEST = 1e-3  # pixels of the sides of a proposal


@dataclass(frozen=True)
class ProposalSpec(DetectorSpec):
    """
    width:         channels of the pyramid; 0 to look at the backbone's maps themselves.
    pyramid_norm:  batch norms in the pyramid.
    anchors:       for each map the sizes of its anchors, the root of their area in pixels.
    ratios:        height over width of the anchors.
    depth:         3x3 convolutions before it is said what an anchor holds.
    overlap:       of two proposals with a higher IoU the less probable goes.
    proposal_threshold: what is less probably an object is not proposed.
    proposals:     of each image, and of each of its maps before overlaps are removed, at most.
    learned_from:  the same while learning.
    objectness:    IoU from which an anchor is an object, and below which it is background.
    sampled:       anchors of an image that a step learns from.
    """

    width: int = 256
    pyramid_norm: bool = False
    anchors: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    depth: int = 1
    overlap: float = 0.7
    proposal_threshold: float = 0.0
    proposals: int = 1000
    learned_from: int = 2000
    objectness: tuple[float, float] = (0.7, 0.3)
    sampled: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        maps = self.looked_at + (self.width > 0)
        if len(self.anchors) != maps or not all(self.anchors) or not self.ratios:
            raise InputError(f"anchors give sizes for each of {maps} maps, not {self.anchors}, and ratios at least one")
        if min(self.depth, self.proposals, self.learned_from, self.sampled) < 1 or self.width < 0:
            raise InputError("depth, proposals, learned_from and sampled are at least 1, width at least 0")
        if len({len(sizes) for sizes in self.anchors}) > 1:
            raise InputError(f"each map has as many sizes of anchors as the others, not {self.anchors}")
        if not 0 <= self.proposal_threshold <= 1:
            raise InputError(f"proposal_threshold lies between 0 and 1, not {self.proposal_threshold}")

    @property
    def looked_at(self) -> int:
        """How many of the backbone's maps are looked at."""
        return len(self.strides)


@dataclass(frozen=True)
class Sightings:
    """What is said of the N anchors of all maps, for B images.

    anchors: (N, 4) in pixels of the prepared images.
    objects: (B, N), before the sigmoid.
    deltas:  (B, N, 4), from the anchors to boxes.
    counts:  anchors of each map.
    extent:  height and width of the images.
    """

    anchors: Tensor
    objects: Tensor
    deltas: Tensor
    counts: tuple[int, ...]
    extent: tuple[int, int]

    @property
    def level(self) -> Tensor:
        """(N,) which map each anchor is of."""
        device = self.anchors.device
        return torch.arange(len(self.counts), device=device).repeat_interleave(torch.tensor(self.counts, device=device))


class Proposals(nn.Module):
    """Maps (B, channels, h, w), all of as many channels -> Sightings; one small network for all of them.

    box_loss: see losses/boxes.py.
    """

    def __init__(self, spec: ProposalSpec, channels: int, *, box_loss: BoxLoss) -> None:
        super().__init__()
        self.spec, self.box_loss = spec, box_loss
        self.shapes = [anchor_shapes(sizes, spec.ratios, rounded=True) for sizes in spec.anchors]
        count = len(self.shapes[0])
        layers: list[nn.Module] = []
        for _ in range(spec.depth):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.object = nn.Conv2d(channels, count, 1)
        self.delta = nn.Conv2d(channels, count * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor], extent: tuple[int, int]) -> Sightings:
        anchors, objects, deltas = [], [], []
        for x, shapes in zip(maps, self.shapes, strict=True):
            hidden = self.hidden(x)  # (B, C, h, w)
            objects.append(self.object(hidden).permute(0, 2, 3, 1).flatten(1))  # (B, h w A)
            found = self.delta(hidden).permute(0, 2, 3, 1)  # (B, h, w, A 4)
            deltas.append(found.reshape(len(x), -1, 4))  # (B, h w A, 4)
            stride = extent[0] // x.shape[2], extent[1] // x.shape[3]
            anchors.append(grid_anchors(shapes.to(x.device), (x.shape[2], x.shape[3]), stride))
        counts = tuple(map(len, anchors))
        return Sightings(torch.cat(anchors).to(maps[0]), torch.cat(objects, 1), torch.cat(deltas, 1), counts, extent)

    @torch.no_grad()
    def propose(self, seen: Sightings, count: int) -> list[Tensor]:
        """Of each image the best boxes (K, 4), at most `count`, best first, without those that overlap a better one of
        their map too much. What comes after them learns as if they were given."""
        start, best = 0, []
        for several in seen.counts:
            inside = seen.objects[:, start : start + several]
            best.append(inside.topk(min(count, several), 1).indices + start)
            start += several
        chosen = torch.cat(best, 1)  # (B, K)
        boxes = decode(seen.deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), seen.anchors[chosen])
        boxes = clip(boxes, seen.extent)
        scores = seen.objects.gather(1, chosen).sigmoid().flatten()
        number = torch.arange(len(chosen), device=boxes.device)[:, None]
        group = (number * len(seen.counts) + seen.level[chosen]).flatten()
        image, boxes = number.expand_as(chosen).flatten(), boxes.view(-1, 4)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(1)
        rows = (large & (scores >= self.spec.proposal_threshold)).nonzero()[:, 0]
        rows = rows[batched_nms(boxes[rows], scores[rows], group[rows], self.spec.overlap)]
        return [boxes[rows[image[rows] == n][:count]] for n in range(len(chosen))]

    def loss(self, seen: Sightings, truths: Sequence[Objects]) -> dict[str, Tensor]:
        """Of what is seen in images with these truths."""
        said, wanted, moved, count = [], [], seen.deltas.sum() * 0, 0
        for objects, deltas, truth in zip(seen.objects, seen.deltas, truths, strict=True):
            boxes = truth.boxes.to(seen.anchors)
            matches = match(iou(boxes, seen.anchors), *self.spec.objectness, keep_best=True)
            some, none = sample_balanced(matches, self.spec.sampled, 0.5)
            count += len(some) + len(none)
            said += [objects[some], objects[none]]
            wanted += [torch.ones_like(objects[some]), torch.zeros_like(objects[none])]
            code = deltas_from(seen.anchors[some])
            moved = moved + self.box_loss(deltas[some], boxes[matches[some]], code).sum()
        objectness = binary_cross_entropy_with_logits(torch.cat(said), torch.cat(wanted), reduction="sum")
        return {"objectness": objectness / max(count, 1), "proposal_box": moved / max(count, 1)}


class Proposer(Detector):
    """Images -> maps -> proposals: what the region proposal network and what builds on it have in common."""

    spec: ProposalSpec
    accelerated = "own_maps"

    def __init__(self, spec: ProposalSpec, *, proposal_box_loss: BoxLoss) -> None:
        super().__init__(spec)
        self.backbone = spec.build()
        channels = self.backbone.channels[: spec.looked_at]
        self.pyramid: nn.Module = nn.Identity()
        if spec.width:
            self.pyramid = FeaturePyramid(channels, spec.width, "pool", spec.pyramid_norm)
        elif len(set(channels)) > 1:
            raise InputError(f"without a pyramid the maps have to have as many channels each, not {channels}")
        self.proposals = Proposals(spec, spec.width or channels[0], box_loss=proposal_box_loss)

    def own_maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the maps that proposals are made from."""
        found = self.backbone(self.normalize(images), self.spec.looked_at)
        return self.pyramid(found) if self.spec.width else [self.pyramid(x) for x in found]

    def seen(self, maps: Sequence[Tensor], images: Tensor) -> Sightings:
        """What is said of the anchors."""
        return self.proposals(maps, (images.shape[2], images.shape[3]))

    @property
    def explained_layer(self) -> str:
        # The coarsest map, which through the pyramid has a part in all of the others.
        return f"pyramid.lateral.{self.spec.looked_at - 1}" if self.spec.width else "pyramid"


@dataclass(frozen=True)
class RPNSpec(ProposalSpec):
    """Its one class is "object", whatever the data calls them."""

    labels: tuple[str, ...] = ANYTHING

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", ANYTHING)


class RPN(Proposer):
    """Images (B, 3, H, W) of any size -> Sightings. It finds objects and does not name them.

    box_loss: see losses/boxes.py; default as the spec names it.
    """

    def __init__(self, spec: RPNSpec, *, box_loss: BoxLoss | None = None) -> None:
        super().__init__(spec, proposal_box_loss=box_loss or BOX_LOSSES[spec.box_loss])

    def forward(self, images: Tensor) -> Sightings:
        return self.seen(self.own_maps(images), images)

    def candidates(self, outputs: Sightings) -> list[Candidates]:
        level = outputs.level
        return [
            Candidates(decode(deltas, outputs.anchors)[:, None], objects[:, None].sigmoid(), level)
            for objects, deltas in zip(outputs.objects, outputs.deltas, strict=True)
        ]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        return self.proposals.loss(self(batch.images), to_learn(batch.targets))


PHOTO = Preprocess((800, 1333), "bound", 1.0)
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.0025, "momentum": 0.9, "weight_decay": 1e-4}
RECIPE |= {"batch_size": 2, "epochs": 12, "flip": True, "clip": 10.0}

RESNET50_FPN = RPNSpec(ANYTHING, PHOTO, RECIPE, score_threshold=0.0, nms_threshold=0.7, shortlist=1000, detections=1000)

VARIANTS = {
    "rpn_resnet50_fpn": RESNET50_FPN,
    "rpn_nano": replace(
        RESNET50_FPN,
        preprocess=Preprocess((96, 96), "fit", 1.0),
        recipe={"epochs": 10, "lr": 0.002, "batch_size": 16},
        backbone="resnet10_nano",
        strides=(4, 8, 16),
        width=64,
        anchors=((16,), (28,), (48,), (80,)),
        detections=100,
    ),
}
