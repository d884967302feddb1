"""Transforms of a float batch, on any device: they mix images with their labels, as rows of class weights (B, C), or
objects; or they reweight labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.classify.classifier import target_weights
from foveal.data.transforms import check_range, matrix, visible_share
from foveal.errors import InputError
from foveal.structures import Batch, Label, Masks, Objects

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
class Mosaic:
    """Four images in one (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4), each with probability `p`.

    The tiles meet at a point in the middle three fifths of the image. One is a part of the image itself, the others are
    of the three before it in the batch. All keep their scale: to change it is for ScaleJitter.

    min_visible: objects of whose box a tile shows less than this share are gone.
    """

    p: float
    min_visible: float = 0.2

    def __post_init__(self) -> None:
        check_range("the probability of a mosaic", self.p, 0, 1)
        check_range("the visible share of a mosaic", self.min_visible, 0, 1)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        if not batch.targets or not isinstance(batch.targets[0], Objects):
            raise InputError("mosaic has no effect on images without objects")
        images, targets = batch.images.clone(), list(batch.targets)
        affines, sizes = batch.affines.clone(), batch.sizes.clone()
        for i in np.flatnonzero(rng.random(len(batch)) < self.p).tolist():
            parts = []
            for k, (rows, columns) in enumerate(_tiles(images.shape[2], images.shape[3], rng)):
                height, width = rows.stop - rows.start, columns.stop - columns.start
                top = int(rng.integers(images.shape[2] - height + 1))
                left = int(rng.integers(images.shape[3] - width + 1))
                j = (i - k) % len(batch)
                images[i, :, rows, columns] = batch.images[j, :, top : top + height, left : left + width]
                tile, place = matrix(1, 0, -left, 0, 1, -top), matrix(1, 0, columns.start, 0, 1, rows.start)
                objects = batch.targets[j]
                objects = objects[visible_share(objects.boxes, tile, (height, width)) >= self.min_visible]
                # First into the tile, which cuts what lies beyond it, then with the tile to its place.
                parts.append(objects.warp(tile, (height, width)).warp(place, (images.shape[2], images.shape[3])))
            targets[i] = _joined(parts)
            # What a mosaic is made of has no one place in it: it is an original of its own, without padding.
            affines[i] = torch.eye(2, 3, device=affines.device)
            sizes[i] = sizes.new_tensor(images.shape[2:])
        return replace(batch, images=images, targets=tuple(targets), affines=affines, sizes=sizes)


def _tiles(height: int, width: int, rng: np.random.Generator) -> list[tuple[slice, slice]]:
    """Rows and columns of the four parts that meet at a random point, in a random order."""
    y, x = (min(max(1, round(side * rng.uniform(0.2, 0.8))), max(1, side - 1)) for side in (height, width))
    tiles = [(rows, columns) for rows in (slice(0, y), slice(y, height)) for columns in (slice(0, x), slice(x, width))]
    return [tiles[k] for k in rng.permutation(4)]


def _joined(parts: list[Objects]) -> Objects:
    """Objects of one image from those of its parts. A flag that only some have is false for the others; of all else
    that only some have nothing is known."""
    values: dict[str, Any] = {}
    for name, _ in parts[0].tensors():
        columns = [getattr(part, name) for part in parts]
        known = [column for column in columns if column is not None]
        if known and name in ("crowd", "ignored"):
            known = [known[0].new_zeros(len(p)) if c is None else c for p, c in zip(parts, columns, strict=True)]
        values[name] = _together(known) if len(known) == len(columns) else None
    return replace(parts[0], **values)


def _together(columns: list[Any]) -> Any:
    """Tensors, or masks that are yet to be drawn, one after the other."""
    if all(isinstance(column, Tensor) for column in columns):
        return torch.cat(columns)
    return Masks(
        tuple((column, row) for column in columns for row in range(len(column))), _of_part, columns[0].sizes[-1:]
    )


def _of_part(shape: tuple[Any, int], size: tuple[int, int]) -> Tensor:
    masks, row = shape
    return masks[row]


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
