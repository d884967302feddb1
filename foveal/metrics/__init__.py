"""How good a system is: one evaluator a task."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from foveal.metrics.detect import coco_map, precision_recall, voc_ap
from foveal.metrics.detection_errors import errors
from foveal.metrics.generate import GenerateEvaluator
from foveal.metrics.samples import frechet_distance
from foveal.structures import Batch

__all__ = [
    "Evaluator",
    "GenerateEvaluator",
    "coco_map",
    "errors",
    "frechet_distance",
    "precision_recall",
    "voc_ap",
]


class Evaluator(Protocol):
    """Collects over batches what `compute` needs.

    criteria: the figures that tell the best epoch, each with which is better, "max" or "min"; where the first is equal
              the next decides. Empty where no figure tells.
    """

    criteria: tuple[tuple[str, str], ...]

    def asks(self, truth: Any) -> bool:
        """Whether a truth holds something that the figures are computed from."""

    def update(self, system: Any, batch: Batch, truths: Sequence[Any]) -> None:
        """Take in one prepared batch; `truths` are its targets in pixels of the original images."""

    def merge(self, other: Self) -> None:
        """Take in all that another evaluator of the same kind has taken in."""

    def compute(self) -> dict[str, float]:
        """The figures, by name, over all that was taken in."""

    def per_class(self) -> list[dict[str, float]]:
        """The figures of each class, by name, in the order of the system's labels; empty where there are none. A figure
        that rests on nothing, as the recall of a class without images, is left out."""

    def basis(self) -> dict[str, tuple[int, str]]:
        """Of figures of classes or objects: how many images or objects they rest on, and the noun of these."""
