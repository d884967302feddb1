"""Transforms of a float batch, on any device: they mix images or reweight labels, as rows of class weights (B, C)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foveal.classify.classifier import target_weights
from foveal.data.transforms import check_range
from foveal.errors import InputError
from foveal.structures import Batch, Label

BatchTransform = Callable[[Batch, np.random.Generator], Batch]


@dataclass(frozen=True)
class MixUp:
    """Each image blended with the one before it (Zhang et al. 2017, arXiv:1710.09412).

    x = l x_i + (1 - l) x_j,  t = l t_i + (1 - l) t_j,  l ~ Beta(alpha, alpha), one l a batch
    """

    alpha: float
    num_classes: int

    def __post_init__(self) -> None:
        check_range("alpha of mixup", self.alpha, 1e-6, math.inf)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "mixup")
        share = float(rng.beta(self.alpha, self.alpha))
        images = torch.lerp(batch.images.roll(1, 0), batch.images, share)
        return with_rows(replace(batch, images=images), torch.lerp(rows.roll(1, 0), rows, share))


@dataclass(frozen=True)
class CutMix:
    """A box of each image replaced by that of the one before it (Yun et al. 2019, arXiv:1905.04899).

    The box has 1 - l of the area, l ~ Beta(alpha, alpha), and its centre anywhere; it is the same for the whole batch.
    Labels are mixed by the areas that are seen in the end, after the box is clipped to the image.
    """

    alpha: float
    num_classes: int

    def __post_init__(self) -> None:
        check_range("alpha of cutmix", self.alpha, 1e-6, math.inf)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "cutmix")
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        spans = []
        for extent in batch.images.shape[2:]:
            start = int(rng.integers(extent)) - int(extent * side) // 2
            spans.append(slice(max(0, start), max(0, start + int(extent * side))))
        images = batch.images.clone()
        box = images[:, :, spans[0], spans[1]]
        box.copy_(batch.images.roll(1, 0)[:, :, spans[0], spans[1]])
        share = 1 - box[0, 0].numel() / images[0, 0].numel()
        return with_rows(replace(batch, images=images), torch.lerp(rows.roll(1, 0), rows, share))


@dataclass(frozen=True)
class LabelSmoothing:
    """t' = (1 - epsilon) t + epsilon sum(t) / C (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""

    epsilon: float
    num_classes: int

    def __post_init__(self) -> None:
        check_range("the label smoothing", self.epsilon, 0, 1)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "label_smoothing")
        return with_rows(batch, torch.lerp(rows, rows.mean(1, keepdim=True).expand_as(rows), self.epsilon))


@dataclass(frozen=True, eq=False)
class ClassWeights:
    """t'_c = w_c t_c, with weights (C,). After LabelSmoothing, which would spread the weights over the classes."""

    weights: Tensor

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, len(self.weights), "class_weights")
        return with_rows(batch, rows * self.weights.to(rows))


def class_rows(batch: Batch, num_classes: int, name: str) -> Tensor:
    """The labels of a batch as rows of class weights (B, C). Raises InputError where its targets are no labels."""
    if not batch.targets or not isinstance(batch.targets[0], Label):
        kind = type(batch.targets[0]).__name__.lower() if batch.targets else "images without targets"
        raise InputError(f"{name} has no effect on {kind}; it takes one label for each image")
    return target_weights(batch.targets, torch.empty(0, num_classes, device=batch.images.device))


def with_rows(batch: Batch, rows: Tensor) -> Batch:
    """The batch with rows (B, C) as the class weights of its labels."""
    targets = zip(batch.targets, rows, strict=True)
    return replace(batch, targets=tuple(replace(target, scores=row) for target, row in targets))
