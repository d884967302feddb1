"""What all classifiers share: class scores in, a loss, a label and an explainable score out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveal.errors import InputError, nearest
from foveal.losses.classification import cross_entropy, hinge, logistic, squared_error
from foveal.structures import Batch, Label
from foveal.system import Spec, System

Criterion = Callable[[Tensor, Tensor], Tensor]

CRITERIA: dict[str, Criterion] = {
    "cross_entropy": cross_entropy,
    "logistic": logistic,
    "hinge": hinge,
    "squared_error": squared_error,
}


@dataclass(frozen=True)
class ClassifierSpec(Spec):
    """
    criterion: what is minimised: softmax cross-entropy, a logistic loss for each class, the hinge loss of support
               vector machines, or the squared distance from a one for the class and zeros for the others.
    """

    criterion: Literal["cross_entropy", "logistic", "hinge", "squared_error"] = field(
        default="cross_entropy", kw_only=True
    )


class Scorer(System):
    """A system whose `forward` gives one score for each class, (B, C), before any softmax. As it stands, the base of
    classifiers that have a `fit` of their own."""

    task: ClassVar[str] = "classify"

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> the scores of all that is trained, each (B, C); under "class" those that `forward` gives."""
        return {"class": self(images)}

    def decode(self, outputs: Tensor, batch: Batch) -> list[Label]:
        probabilities = outputs.float().softmax(1)
        # The class is read off the scores: two probabilities can round to one number, two scores rarely do.
        return [Label(index, row) for index, row in zip(outputs.argmax(1), probabilities, strict=True)]

    def score(self, images: Tensor, target: str | Label) -> Tensor:
        """The unnormalised score of one class for each image."""
        return self(images)[:, self.index(target) if isinstance(target, str) else int(target.label)]

    def index(self, label: str) -> int:
        """Where a class name stands in the outputs."""
        if label not in self.labels:
            raise InputError(f"unknown class {label!r}{nearest(label, self.labels)}")
        return self.labels.index(label)

    def check_smallest(self, size: Sequence[int], side: int) -> None:
        """InputError where images of `size` (height, width) are not at least `side` pixels high and wide."""
        if min(size) < side:
            name = self.name or type(self).__name__.lower()
            raise InputError(
                f"{name} takes images of {side} x {side} pixels or more, not {size[0]} x {size[1]}; "
                "image_size sets the size that images are brought to"
            )


class Classifier(Scorer):
    """A scorer that learns by the gradient of a loss of its scores.

    criterion: (scores (B, C), target weights (B, C)) -> scalar, as the functions in losses/classification.py; default
               the one that the spec names, and cross-entropy for a spec that says nothing of it.
    """

    def __init__(self, spec: Spec, criterion: Criterion | None = None) -> None:
        super().__init__(spec)
        named = spec.criterion if isinstance(spec, ClassifierSpec) else "cross_entropy"
        self.criterion = criterion or CRITERIA[named]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        return self.losses(self.heads(batch.images), batch)

    def losses(self, heads: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, from the scores that `heads` gave."""
        return {"class": self.criterion(heads["class"], target_weights(batch.targets, heads["class"]))}


def target_weights(targets: Sequence[Label], like: Tensor) -> Tensor:
    """Labels as rows of class weights (B, C) of the type of `like`."""
    if targets[0].scores is not None:
        return torch.stack([target.scores for target in targets]).to(like)  # type: ignore[misc]
    index = torch.stack([target.label for target in targets])
    return torch.nn.functional.one_hot(index, like.shape[1]).to(like)


def filter_pictures(weight: Tensor) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """What `System.pictures` returns, for a first convolution's weight (N, 1 or 3, h, w): its filters.

    Mid-grey is zero; each filter has its own scale.
    """
    weight = weight.detach().float()
    filters = 0.5 + weight / (2 * weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
    return {"first filters": (filters.expand(-1, 3, -1, -1), tuple(str(n) for n in range(len(filters))))}
