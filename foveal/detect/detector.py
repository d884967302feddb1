"""What all detectors share: candidate boxes in, a set of objects, their spec and an explainable score out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.classify.backbone import Backbone
from foveal.classify.classifier import Scorer
from foveal.errors import InputError
from foveal.losses.boxes import BoxLossName
from foveal.ops.boxes import clip, iou
from foveal.ops.nms import batched_nms
from foveal.structures import Batch, Objects
from foveal.system import Spec, System


@dataclass(frozen=True)
class DetectorSpec(Spec):
    """
    backbone:        the classifier whose maps are looked at: a name, a run or a checkpoint.
    strides:         which of its maps, by how many times smaller than the image they are.
    maps:            the names of its modules that make these maps, where that is not the end of a stage.
    frozen_norm:     its batch norms keep their statistics and affine terms.
    score_threshold: what is less probable is not told.
    nms_threshold:   of two boxes of one class with a higher IoU the less probable is not told.
    shortlist:       how many boxes of each map are looked at, the most probable ones.
    detections:      how many objects of an image are told, at most.
    box_loss:        the loss that boxes are learned by, by its name in losses/boxes.py.
    """

    backbone: System | str = "resnet50"
    strides: tuple[int, ...] = (4, 8, 16, 32)
    maps: tuple[str, ...] = field(default=(), kw_only=True)
    frozen_norm: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    shortlist: int = 1000
    detections: int = 100
    box_loss: BoxLossName = field(default="smooth_l1", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies between 0 and 1, not {getattr(self, name)}")
        for name in ("shortlist", "detections"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, not {getattr(self, name)}")

    def taken(self, parts: Sequence[System]) -> dict[str, Any]:
        """Colours are normalised as the backbone has it, which may have learned with that."""
        theirs = parts[0].preprocess
        return {"preprocess": replace(self.preprocess, mean=theirs.mean, std=theirs.std, grey=theirs.grey)}

    def build(self) -> Backbone:
        """The backbone."""
        if not isinstance(self.backbone, Scorer):
            raise InputError(f"{self.backbone} cannot be the backbone of a detector: that is a system to classify")
        return Backbone(self.backbone, self.strides, self.frozen_norm, self.maps)


@dataclass(frozen=True)
class Candidates:
    """What a detector says of each place it looks at in one image, before any choice.

    boxes:  (N, 1, 4), or (N, C, 4) where each class has its own box; pixels of the prepared image.
    scores: (N, C) probability of each class.
    level:  (N,) int64: which map each place is of; None where there is but one.
    """

    boxes: Tensor
    scores: Tensor
    level: Tensor | None = None


class Detector(System):
    """A system that answers with Objects. A family gives `candidates`."""

    answers = Objects
    accelerated: ClassVar[str | None] = "backbone.forward"
    spec: DetectorSpec

    @property
    def base(self) -> System | None:
        return self.spec.backbone if isinstance(self.spec.backbone, System) else None

    def needed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All but what batch norms count with, where they are frozen."""
        own = self.state_dict().keys()
        return {n: value for n, value in weights.items() if n in own or not n.endswith("num_batches_tracked")}

    def candidates(self, outputs: Any) -> list[Candidates]:
        """What `forward` gave -> the candidates of each image, differentiable."""
        raise self._cannot("name candidates")

    def near(self, images: Tensor, target: Objects) -> list[Candidates]:
        """The candidates of each image (B, 3, H, W) that may lie on one object: here all of them. A detector that reads
        regions one by one reads those near the object's box alone."""
        return self.candidates(self(images))

    def choose(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Row and class of the candidates that non-maximum suppression compares: in each map the `shortlist` most
        probable pairs above the threshold."""
        level = torch.zeros_like(found.scores[:, 0], dtype=torch.int64) if found.level is None else found.level
        rows, classes = [], []
        for number in level.unique().tolist():
            inside = (level == number).nonzero()[:, 0]
            scores = found.scores[inside].flatten()
            best = (scores > self.spec.score_threshold).nonzero()[:, 0]
            if len(best) > self.spec.shortlist:
                best = best[scores[best].topk(self.spec.shortlist).indices]
            rows.append(inside[best // found.scores.shape[1]])
            classes.append(best % found.scores.shape[1])
        if not rows:
            none = torch.zeros(0, dtype=torch.int64, device=found.scores.device)
            return none, none
        return torch.cat(rows), torch.cat(classes)

    def decode(self, outputs: Any, batch: Batch) -> list[Objects]:
        """Of each image the most probable objects, in its original pixels."""
        return [
            self._objects(found, affine, size)
            for found, affine, size in zip(self.candidates(outputs), batch.affines, batch.sizes, strict=True)
        ]

    def _objects(self, found: Candidates, affine: Tensor, size: Tensor) -> Objects:
        rows, classes = self.choose(found)
        boxes = found.boxes.expand(-1, found.scores.shape[1], 4)[rows, classes].float()
        scores = found.scores[rows, classes].float()
        scale, shift = affine.diagonal().repeat(2).to(boxes), affine[:, 2].repeat(2).to(boxes)
        boxes = clip((boxes - shift) / scale, size)
        seen = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]
        kept = seen[batched_nms(boxes[seen], scores[seen], classes[seen], self.spec.nms_threshold)]
        kept = kept[: self.spec.detections]
        return Objects(boxes[kept], classes[kept], scores[kept])

    def score(self, images: Tensor, target: str | Objects) -> Tensor:
        """How surely each image (B, 3, H, W) shows a class anywhere, by its name; or one object (its box in pixels of
        these images), which is the most that any candidate `near` it, cut to the image as detections are, has of IoU
        with its box times probability of its class (D-RISE, Petsiuk et al. 2020, arXiv:2006.03204)."""
        if isinstance(target, str):
            index = self.index(target)
            return torch.stack([_most(each.scores[:, index]) for each in self.candidates(self(images))])
        found = self.near(images, target)
        index = int(target.labels[0])
        scores = []
        for each in found:
            boxes = clip(each.boxes[:, index if each.boxes.shape[1] > 1 else 0], (images.shape[2], images.shape[3]))
            scores.append(_most(iou(boxes, target.boxes[:1].to(boxes))[:, 0] * each.scores[:, index]))
        return torch.stack(scores)


def _most(scores: Tensor) -> Tensor:
    """The largest of (N,), and of none zero, with a gradient all the same."""
    return scores.max() if len(scores) else scores.sum()


def to_learn(targets: Sequence[Objects]) -> list[Objects]:
    """The truths that a detector learns from: single objects that are not too difficult to ask for. Raises InputError
    where there are no targets."""
    if not targets:
        raise InputError(
            "a detector learns from the objects of each image, and the images of this batch have no targets"
        )
    kept = []
    for target in targets:
        wanted = torch.ones(len(target), dtype=torch.bool, device=target.boxes.device)
        for excluded in (target.crowd, target.ignored):
            if excluded is not None:
                wanted &= ~excluded
        kept.append(target[wanted])
    return kept
