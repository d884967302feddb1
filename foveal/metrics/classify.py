"""Figures of a classifier."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from foveal.structures import Batch, Label


def class_figures(truth: Tensor, predicted: Tensor, num_classes: int) -> list[dict[str, float]]:
    """Of each class, from true and predicted classes (N,) int64: `images`, how many are of it; `predicted`, how many
    are predicted to be; `correct`, how many are both. recall: correct / images; precision: correct / predicted; each
    left out where it has nothing to divide by."""
    images, guesses, right = (
        torch.bincount(labels, minlength=num_classes).tolist()
        for labels in (truth, predicted, truth[truth == predicted])
    )
    rows = []
    for count, guessed, correct in zip(images, guesses, right, strict=True):
        row = {"images": count, "predicted": guessed, "correct": correct}
        row |= {"recall": correct / count} if count else {}
        row |= {"precision": correct / guessed} if guessed else {}
        rows.append(row)
    return rows


class ClassifyEvaluator:
    """The figures of a classifier.

    accuracy:          share of images whose most probable class is right; NaN where a score is not finite.
    top5:              share whose class is among the five most probable; from six classes on.
    balanced_accuracy: mean over the classes present of the share that is right.
    loss:              mean of the system's own loss, where it has one.
    """

    criteria: tuple[tuple[str, str], ...] = (("accuracy", "max"), ("loss", "min"))

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.pairs: list[Tensor] = []
        self.in_top5 = 0
        self.finite = True  # all scores
        self.total_loss: float | None = None

    def asks(self, truth: Label) -> bool:
        return True

    def update(self, system: Any, batch: Batch, truths: Sequence[Label]) -> None:
        heads = system.heads(batch.images)
        scores = heads["class"]
        if system.can("loss"):
            self.total_loss = self.total_loss or 0.0
            self.total_loss += float(sum(system.losses(heads, batch).values())) * len(batch)
        self.finite = self.finite and bool(scores.isfinite().all())
        truth = torch.stack([target.label for target in truths])
        predicted = torch.stack([label.label for label in system.decode(scores, batch)]).cpu()
        self.pairs.append(torch.stack([truth, predicted]))
        top5 = scores.topk(min(5, scores.shape[1])).indices.cpu()
        self.in_top5 += int((top5 == truth[:, None]).any(1).sum())

    @property
    def answers(self) -> tuple[Tensor, Tensor]:
        """True and predicted class (N,) int64 of each image, in the order in which they were taken in."""
        truth, predicted = torch.cat(self.pairs, 1)
        return truth, predicted

    @property
    def confusion(self) -> Tensor:
        """(C, C) int64, how often class i (row) was called class j (column)."""
        truth, predicted = self.answers
        pairs = truth * self.num_classes + predicted
        return torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)

    def per_class(self) -> list[dict[str, float]]:
        return class_figures(*self.answers, self.num_classes)

    def merge(self, other: Self) -> None:
        self.pairs += other.pairs
        self.in_top5 += other.in_top5
        self.finite = self.finite and other.finite
        if other.total_loss is not None:
            self.total_loss = (self.total_loss or 0.0) + other.total_loss

    def basis(self) -> dict[str, tuple[int, str]]:
        return dict.fromkeys(("accuracy", "balanced_accuracy", "top5"), (len(self.answers[0]), "image"))

    def compute(self) -> dict[str, float]:
        truth, predicted = self.answers
        present = torch.bincount(truth, minlength=self.num_classes)
        right = torch.bincount(truth[truth == predicted], minlength=self.num_classes)
        figures = {
            "accuracy": float(right.sum() / len(truth)) if self.finite else math.nan,
            "balanced_accuracy": float((right / present)[present > 0].mean()),
        }
        if self.total_loss is not None:
            figures["loss"] = self.total_loss / len(truth)
        if self.num_classes > 5:
            figures["top5"] = self.in_top5 / len(truth)
        return figures
