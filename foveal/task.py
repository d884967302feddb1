"""Kinds of answers: all that follows from the type of a system's targets, as one record a type (`tasks/`).

The rest of foveal asks `Task.of(system)` or `Task.of(dataset)` and names no task. A kind of answer that foveal does not
bring is one call of `register`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from foveal.structures import Target

# The records that foveal brings, by the name of their task: each is imported when it is first needed.
BUILT_IN = {"classify": "tasks.label:LABEL", "detect": "tasks.objects:OBJECTS", "generate": "tasks.picture:PICTURE"}
_RECORDS: dict[str, "Task"] = {}


@dataclass(frozen=True)
class Task:
    """What a target type brings. What is None or empty is left out: without an evaluator a system is measured by its
    own losses, without answers `predict` refuses it, without a check `foveal check` does, and so on.

    name:         the verb of the task, as in `foveal list --task`, in records and in errors.
    target:       the type of the targets.
    noun:         what its class counts count.
    any_images:   images of any data serve, with their classes where each has one.
    evaluator:    (system) -> an Evaluator (metrics/), after each epoch.
    thorough:     (system, judge or None) -> an Evaluator, for what takes longer than an epoch may be kept waiting.
    chance:       (figures, images or objects of each class) -> why these figures are no better than chance, or None.
    answers:      Answers (report/answers.py): JSON, rows, pictures and files of predictions.
    save_measured: (folder, evaluator, view, items, system) -> the file with all that was predicted while measuring.
    aim:          (system, prediction, batch, class name or None, number of the object or None) -> an Aim
                  (explain/aim.py), for explanations.
    sections:     (system, view, batch size, workers) -> sections of a report.
    check:        (dataset, bar, labels that are judged at most) -> Findings (data/findings.py).
    unfit:        (dataset) -> why nothing can be trained on it, or None.
    settings:     those settings of TrainConfig that only some tasks have an effect for, and this one has.
    fine_tuning:  settings of TrainConfig for a run that starts from trained weights, in place of the family's.
    fewest_steps: optimizer steps that such a run has at least.
    """

    name: str
    target: type[Target] = Target
    noun: str = "image"
    any_images: bool = False
    evaluator: Callable[[Any], Any] | None = None
    thorough: Callable[[Any, Any], Any] | None = None
    chance: Callable[[Mapping[str, float], Mapping[str, int]], str | None] | None = None
    answers: Any = None
    save_measured: Callable[..., Any] | None = None
    aim: Callable[..., Any] | None = None
    sections: Callable[[Any, Any, int, int | None], Any] | None = None
    check: Callable[[Any, Any, int], Any] | None = None
    unfit: Callable[[Any], str | None] = lambda dataset: None
    settings: frozenset[str] = frozenset({"crop_scale"})
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    fewest_steps: int = 0

    @staticmethod
    def of(what: Any) -> "Task":
        """The record for a system, a data set, or the name of a task; one that says nothing for an unknown name."""
        name = what if isinstance(what, str) else what.task
        if name not in _RECORDS and name in BUILT_IN:
            module, _, record = BUILT_IN[name].partition(":")
            _RECORDS[name] = getattr(import_module(f"foveal.{module}"), record)
        return _RECORDS.get(name) or Task(name)


def register(task: Task) -> None:
    """Make a kind of answer known, or replace one."""
    _RECORDS[task.name] = task


def registered() -> list[Task]:
    """The records of all kinds of answers."""
    return [Task.of(name) for name in dict.fromkeys([*BUILT_IN, *_RECORDS])]
