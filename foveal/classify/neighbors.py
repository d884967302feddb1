"""Nearest neighbours: an image is what the training images most like it are. Fix and Hodges 1951, Cover and Hart 1967.

    share_c = sum over the k nearest x_i of class c of w_i / sum over all k of w_i        scores = log share

w_i is 1, or 1 / distance (Dudani 1976); where some are at no distance at all, these alone vote. Of classes with equal
shares the first is named, and of equal distances the image that came first is nearer. What is compared are normalised
pixels, or the `features` of any classifier that was trained before. Learning is remembering; the search is exact
(ops/nearest.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveal.classify.classifier import Scorer, label_indices
from foveal.classify.labels import DIGITS
from foveal.classify.linear import PIXELS
from foveal.errors import InputError
from foveal.nn.fitted import UNBOUNDED, Fitted
from foveal.ops.nearest import nearest
from foveal.structures import Batch, Label
from foveal.system import Spec, System, shown


@dataclass(frozen=True)
class NeighborsSpec(Spec):
    """
    k:         how many neighbours vote.
    distance:  "l2", "l1", or "cosine", which is 1 - the cosine of the angle between two vectors.
    weighting: "uniform", or "distance": a vote is worth one over the neighbour's distance.
    features:  a trained classifier whose features are compared, a run or checkpoint of one, or a name whose weights a
               package brings; without it pixels are. It is part of the checkpoint and learns nothing.
    """

    k: int = 5
    distance: Literal["l2", "l1", "cosine"] = "l2"
    weighting: Literal["uniform", "distance"] = "uniform"
    features: System | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k must be at least 1, not {self.k}")
        if self.features is not None and not isinstance(self.features, Scorer):
            raise InputError(f"features are those of a system to classify, not of one to {self.features.task}")


class Neighbors(Scorer):
    """Keeps the vectors of all training images (N, D) and their classes (N,)."""

    spec: NeighborsSpec

    def __init__(self, spec: NeighborsSpec) -> None:
        super().__init__(spec)
        self.extractor = spec.features
        self.known = Fitted(points="N F", classes="N integers")

    def vectors(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D): features of the other system, or normalised pixels."""
        if self.extractor is None:
            return self.normalize(images).flatten(1)
        return self.extractor.features(shown(images, self.extractor))  # type: ignore[operator]

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D): what is compared."""
        return self.vectors(images)

    @torch.no_grad()
    def fitted_limits(self) -> dict[str, int | range]:
        blank = torch.zeros(1, 3, *self.preprocess.size, device=self.device)
        width = self.vectors(blank).shape[1]
        return {"F": width, "N": range(self.spec.k, UNBOUNDED), "classes": range(len(self.labels))}

    def fit(self, data: Iterable[Batch]) -> None:
        self.remember(*self.collect(data))

    @torch.no_grad()
    def collect(self, data: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """The vectors (N, D) of all images, and their classes (N,)."""
        pairs = [(self.vectors(batch.images.to(self.device)), label_indices(batch)) for batch in data]
        vectors, classes = zip(*pairs, strict=True)
        return torch.cat(vectors), torch.cat(classes).to(self.device)

    def remember(self, points: Tensor, classes: Tensor) -> None:
        """Take these as what is known from now on."""
        if self.spec.k > len(points):
            raise InputError(f"k = {self.spec.k} neighbours are more than the {len(points)} training images")
        self.known.keep(points=points, classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.known.empty:
            raise self._cannot("answer yet: it knows no images; train it first")
        with torch.no_grad():  # votes change in steps
            points, classes = self.known.get_buffer("points"), self.known.get_buffer("classes")
            distances, indices = nearest(self.features(images), points, self.spec.k, self.spec.distance)
            shares = vote(distances, classes.to(indices.device)[indices], len(self.labels), self.spec.weighting)
        # Few votes leave classes without any; -inf would be no score.
        shares = shares.to(images.dtype).to(images.device)
        return shares.clamp(min=torch.finfo(images.dtype).tiny).log()

    def score(self, images: Tensor, target: str | Label) -> Tensor:
        if images.requires_grad:
            raise self._cannot("be explained by gradients, since its votes change in steps; occlusion needs none")
        return super().score(images, target)


def vote(distances: Tensor, classes: Tensor, count: int, weighting: str) -> Tensor:
    """Distances and classes (B, k) of neighbours -> each class's share (B, count) of their votes."""
    weights = torch.ones_like(distances)
    if weighting == "distance":
        same = distances == 0
        weights = torch.where(same.any(1, keepdim=True), same.to(distances), 1 / distances)
    shares = weights.new_zeros(len(weights), count)
    for rank in range(weights.shape[1]):  # one after another, nearest first: the sum of floats depends on the order
        shares.scatter_add_(1, classes[:, rank : rank + 1], weights[:, rank : rank + 1])
    return shares / shares.sum(1, keepdim=True)


VARIANTS = {"knn": NeighborsSpec(DIGITS, PIXELS)}
