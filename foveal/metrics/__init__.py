"""How good a system is: one evaluator a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from foveal.metrics.chance import classify_chance, detect_chance
from foveal.metrics.classify import ClassifyEvaluator
from foveal.metrics.detect import DetectEvaluator, coco_map, precision_recall, voc_ap
from foveal.metrics.detection_errors import errors
from foveal.metrics.generate import GenerateEvaluator
from foveal.metrics.loss import LossEvaluator
from foveal.metrics.samples import frechet_distance
from foveal.structures import Batch

__all__ = [
    "CHANCE",
    "EVALUATORS",
    "THOROUGH",
    "Evaluator",
    "GenerateEvaluator",
    "coco_map",
    "errors",
    "evaluator",
    "frechet_distance",
    "precision_recall",
    "thorough_evaluator",
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


EVALUATORS: dict[str, Callable[[Any], Evaluator]] = {
    "classify": lambda system: ClassifyEvaluator(len(system.labels)),
    "detect": lambda system: DetectEvaluator(len(system.labels)),
}
# Why figures are no better than chance, or None, from the figures and the number of images or objects of each class.
CHANCE: dict[str, Callable[[Mapping[str, float], Mapping[str, int]], str | None]] = {
    "classify": classify_chance,
    "detect": detect_chance,
}

# What takes longer than can be spent after each epoch, from a system and a judge or None.
THOROUGH: dict[str, Callable[[Any, Any], Evaluator]] = {"generate": GenerateEvaluator}


def evaluator(system: Any) -> Evaluator:
    """The evaluator for a system: that of its task, or else its own losses."""
    make = EVALUATORS.get(system.task)
    return make(system) if make else LossEvaluator(tuple(system.players))


def thorough_evaluator(system: Any, judge: Any = None) -> Evaluator:
    """The evaluator that tells all there is to tell of a system. judge: a classifier that looks at images it makes."""
    make = THOROUGH.get(system.task)
    return make(system, judge) if make else evaluator(system)
