"""What detectors share that look at given regions one by one: sampling of regions, their head, losses and candidates.

Girshick 2015, "Fast R-CNN", arXiv:1504.08083: a region shows the truth that overlaps it by half or more, else
background; of those of an image some are sampled, up to a quarter with an object;

    L = mean over sampled regions of cross-entropy + sum over those with an object of smooth_l1(d, d*) / sampled regions

d* moves the region onto the truth, in units of its usual size: 10 dx, 10 dy, 5 dw, 5 dh.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foveal.detect.detector import Candidates, Detector, DetectorSpec, to_learn
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, deltas_from
from foveal.nn.init import init_for_relu
from foveal.ops.boxes import decode, iou
from foveal.ops.matching import match, sample_balanced
from foveal.ops.regions import propose_regions
from foveal.structures import Batch, Objects

WEIGHTS = 10.0, 10.0, 5.0, 5.0  # of the deltas of regions
Source = Callable[[Tensor, int], Tensor]  # an image (3, H, W) and the most boxes that are wanted -> (N, 4)
REMEMBERED = 2**22  # boxes: 64 MB
# IoU with the box of an object from which on a region counts for the object's score. A head learns to move regions that
# overlap an object by a half; a region below a fifth is background to it.
NEAR = 0.2


@dataclass(frozen=True)
class Regions:
    """What is said of regions: R of all B images together.

    boxes:   of each image (R_i, 4), pixels of the prepared images.
    classes: (R, C + 1) before the softmax, background last.
    deltas:  (R, C, 4), from the region to the box of each class; None where boxes stay as they are.
    """

    boxes: tuple[Tensor, ...]
    classes: Tensor
    deltas: Tensor | None


def box_head(channels: int, side: int, hidden: int, layers: int, convolutions: int = 0) -> nn.Sequential:
    """(R, channels, side, side) -> (R, hidden): 3x3 convolutions with batch norms, then fully connected layers."""
    head = nn.Sequential()
    for n in range(1, convolutions + 1):
        head.add_module(f"conv{n}", nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        head.add_module(f"norm{n}", nn.BatchNorm2d(channels))
        head.add_module(f"relu{n}", nn.ReLU())
    head.add_module("flatten", nn.Flatten())
    features = channels * side**2
    for n in range(1, layers + 1):
        head.add_module(f"fc{n}", nn.Linear(features, hidden))
        head.add_module(f"relu_fc{n}", nn.ReLU())
        features = hidden
    init_for_relu(head)
    return head


class PlaceMean(nn.Module):
    """The mean over the places of each region: (R, C, h, w) -> (R, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def near_regions(boxes: Sequence[Tensor], target: Objects) -> list[Tensor]:
    """Of regions (R_i, 4) of each image those that overlap the target's box by `NEAR` or more."""
    return [each[iou(each, target.boxes[:1].to(each))[:, 0] >= NEAR] for each in boxes]


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
    boxes: Sequence[Tensor], classes: Tensor, deltas: Tensor | None, weights: Sequence[float] = WEIGHTS
) -> list[Candidates]:
    """Of each image (R_i, 4) regions, with scores (R, C + 1) and deltas (R, C, 4) of all together."""
    given = torch.cat(list(boxes))[:, None]
    moved = given if deltas is None else decode(deltas, given, weights)
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
    deltas: Tensor | None,
    regions: Sequence[Tensor],
    labels: Tensor,
    wanted: Tensor,
    box_loss: BoxLoss,
    weights: Sequence[float] = WEIGHTS,
    beta: float = 1 / 9,
) -> dict[str, Tensor]:
    """The terms for regions with scores (S, C + 1) and deltas (S, C, 4) that `sample_regions` drew.

    beta: of the deltas (losses.boxes.Code)."""
    count = max(len(labels), 1)
    terms = {"class": cross_entropy(classes, labels, reduction="sum") / count}
    if deltas is None:
        return terms
    objects = (labels < deltas.shape[1]).nonzero()[:, 0]
    code = deltas_from(torch.cat(list(regions))[objects], weights, beta)
    moved = box_loss(deltas[objects, labels[objects]], wanted[objects], code)
    return terms | {"box": moved.sum() / count}


@dataclass(frozen=True)
class RegionSpec(DetectorSpec):
    """
    regions: of an image that are looked at, at most.
    sampled: regions of an image that a step learns from.
    lowest:  IoU with a truth below which a region is too easy to learn from, where the image has objects.
    """

    regions: int = 2000
    sampled: int = 64
    lowest: float = 0.0
    shortlist: int = 20000  # all there are, as of Faster R-CNN

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.regions, self.sampled) < 1 or not 0 <= self.lowest < 0.5:
            raise InputError("regions and sampled are at least 1, lowest at least 0 and below 0.5")


class Remembered:
    """A source that remembers what it gave for the images seen last: an image has the same regions in every epoch, and
    selective search takes longer than a step of a small network.

    most: boxes that are remembered.
    """

    def __init__(self, source: Source, most: int = REMEMBERED) -> None:
        self.source = source
        self.most = most
        self.boxes: dict[bytes, Tensor] = {}  # those asked for last are at the end
        self.count = 0

    def __call__(self, image: Tensor, most: int) -> Tensor:
        pixels = image.detach().float().cpu().numpy()
        key = blake2b(f"{pixels.shape} {most}".encode(), digest_size=16)
        key.update(pixels.tobytes())
        found = self.boxes.pop(key.digest(), None)
        if found is None:
            found = self.source(image, most).cpu()
            self.count += len(found)
        self.boxes[key.digest()] = found
        while self.count > self.most:
            self.count -= len(self.boxes.pop(next(iter(self.boxes))))
        return found.to(image, copy=True)


class RegionDetector(Detector):
    """Images (B, 3, H, W) of any size -> Regions. A family gives `look`.

    source:   what proposes regions, (image (3, H, W), most) -> (N, 4), the same for the same image.
    box_loss: see losses/boxes.py; default as the spec names it.
    beta:     of the deltas (losses.boxes.Code).
    """

    spec: RegionSpec
    beta: ClassVar[float] = 1 / 9

    def __init__(self, spec: RegionSpec, *, source: Source = propose_regions, box_loss: BoxLoss | None = None) -> None:
        super().__init__(spec)
        self.source = Remembered(source)
        self.box_loss = box_loss or BOX_LOSSES[spec.box_loss]

    def regions(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> boxes (R_i, 4) in each image that may hold an object."""
        return [self.source(image, self.spec.regions) for image in images]

    def look(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """What regions (R_i, 4) of each image show: scores (R, C + 1), background last, and deltas (R, C, 4)."""
        raise self._cannot("look at regions")

    def forward(self, images: Tensor) -> Regions:
        boxes = self.regions(images)
        return Regions(tuple(boxes), *self.look(images, boxes))

    def class_major(self, name: str) -> bool:
        return name.startswith("predictor.delta.")

    def candidates(self, outputs: Regions) -> list[Candidates]:
        return class_candidates(outputs.boxes, outputs.classes, outputs.deltas)

    def near(self, images: Tensor, target: Objects) -> list[Candidates]:
        boxes = near_regions(self.regions(images), target)
        return class_candidates(boxes, *self.look(images, boxes))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        truths, count = to_learn(batch.targets), len(self.labels)
        found = zip(self.regions(batch.images), truths, strict=True)
        boxes = [torch.cat([each, truth.boxes.to(each)]) for each, truth in found]
        sampled, labels, wanted = sample_regions(boxes, truths, count, self.spec.sampled, 0.25, self.spec.lowest)
        looked = self.look(batch.images, sampled)
        return region_loss(*looked, sampled, labels, wanted, self.box_loss, beta=self.beta)
