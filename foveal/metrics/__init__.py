"""How good a system is: one evaluator a task."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from foveal.metrics.classify import ClassifyEvaluator
from foveal.metrics.loss import LossEvaluator
from foveal.structures import Batch


class Evaluator(Protocol):
    """Collects over batches what `compute` needs.

    criteria: the figures that tell the best epoch, each with which is better, "max" or "min"; where the first is equal
              the next decides. Empty where no figure tells.
    """

    criteria: tuple[tuple[str, str], ...]

    def update(self, system: Any, batch: Batch, truths: Sequence[Any]) -> None:
        """Take in one prepared batch; `truths` are its targets in pixels of the original images."""

    def merge(self, other: Self) -> None:
        """Take in all that another evaluator of the same kind has taken in."""

    def compute(self) -> dict[str, float]:
        """The figures, by name, over all that was taken in."""


def evaluator(system: Any) -> Evaluator:
    """The evaluator for a system: that of its task, or else its own losses."""
    if system.task == "classify":
        return ClassifyEvaluator(len(system.labels))
    return LossEvaluator(tuple(system.players))
