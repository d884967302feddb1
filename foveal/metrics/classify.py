"""Figures of a classifier."""

from collections.abc import Sequence
from typing import Any

import torch

from foveal.structures import Batch, Label


class ClassifyEvaluator:
    """accuracy: share of images whose most probable class is right. top5: whose class is among the five most probable
    (from six classes on). balanced_accuracy: mean over the classes present of the share that is right. loss: mean of
    the system's own loss, where it has one.

    confusion: (C, C) int64, how often class i (row) was called class j (column).
    """

    criteria: tuple[tuple[str, str], ...] = (("accuracy", "max"), ("loss", "min"))

    def __init__(self, num_classes: int) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.in_top5 = self.count = 0
        self.total_loss: float | None = None

    def update(self, system: Any, batch: Batch, truths: Sequence[Label]) -> None:
        scores = system(batch.images)
        if system.can("loss"):
            self.total_loss = self.total_loss or 0.0
            self.total_loss += float(sum(system.losses(scores, batch).values())) * len(batch)
        truth = torch.stack([target.label for target in truths])
        predicted = torch.stack([label.label for label in system.decode(scores, batch)]).cpu()
        self.confusion += torch.bincount(
            truth * len(self.confusion) + predicted, minlength=self.confusion.numel()
        ).view_as(self.confusion)
        top5 = scores.topk(min(5, scores.shape[1])).indices.cpu()
        self.in_top5 += int((top5 == truth[:, None]).any(1).sum())
        self.count += len(batch)

    def compute(self) -> dict[str, float]:
        right, present = self.confusion.diagonal(), self.confusion.sum(1)
        figures = {
            "accuracy": float(right.sum() / self.count),
            "balanced_accuracy": float((right / present)[present > 0].mean()),
        }
        if self.total_loss is not None:
            figures["loss"] = self.total_loss / self.count
        if len(self.confusion) > 5:
            figures["top5"] = self.in_top5 / self.count
        return figures
