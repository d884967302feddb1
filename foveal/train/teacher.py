"""A teacher: a trained classifier whose answers another one learns besides the labels.

It sees the very images that its student sees, after all augmentation and mixing: the whole of each, brought to the
teacher's own size, aspect ratio lost, and normalised as the teacher was trained. What it says travels with the targets.
"""

import hashlib
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch

from foveal.build import trained
from foveal.classify.classifier import Classifier, Scorer, Teaching
from foveal.errors import InputError, few
from foveal.nn.frozen import Frozen
from foveal.structures import Batch
from foveal.system import System, shown
from foveal.train.config import TrainConfig


class Teacher:
    """A transform of batches: gives each target the teacher's scores of its image.

    system: the teacher, of which a copy is kept: it may be the student itself.
    said:   what it is called in the settings of a run.

    Raises InputError where the two are not classifiers, or the teacher does not know all classes of the student.
    """

    def __init__(self, system: System, student: System, said: str, device: torch.device) -> None:
        if not isinstance(system, Scorer):
            raise InputError(f"{said} cannot teach: it is a system to {system.task}, not to classify")
        if not isinstance(student, Classifier):
            raise InputError(f"teacher has no effect on {student.name or type(student).__name__}: it learns otherwise")
        if unknown := [label for label in student.labels if label not in system.labels]:
            raise InputError(f"the teacher {said} does not know {few(unknown, 5)}")
        self.said = said
        self.record = {"name": system.name, "digest": digest(system)}
        self.system = Frozen(system).to(device)
        self.columns = torch.tensor([system.labels.index(label) for label in student.labels], device=device)

    @torch.no_grad()
    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        scores = self.system(shown(batch.images, self.system.module))[:, self.columns]  # (B, C)
        targets = zip(batch.targets, scores, strict=True)
        return replace(batch, targets=tuple(replace(target, teacher=row) for target, row in targets))


def find_teacher(config: TrainConfig, student: System, device: torch.device) -> Teacher | None:
    """The teacher that the settings name, if they do, and the student told how to learn from it. Raises InputError."""
    if config.teacher is None:
        return None
    teacher = Teacher(_system(config.teacher), student, said(config.teacher), device)
    assert isinstance(student, Classifier)
    kept = {"temperature": config.temperature} if config.distill == "soft" else {}
    student.teaching = Teaching(config.distill, weight=config.distill_weight, **kept)
    return teacher


def said(teacher: str | PathLike[str] | System) -> str:
    """A teacher in words: where it is, or what."""
    return teacher.name or type(teacher).__name__ if isinstance(teacher, System) else fspath(teacher)


def _system(teacher: str | PathLike[str] | System) -> Any:
    return teacher if isinstance(teacher, System) else trained(teacher)


def digest(system: System) -> str:
    """A fingerprint of what a system answers: its weights, class names and preprocessing."""
    sum = hashlib.sha256(repr((system.labels, system.preprocess)).encode())
    for name, value in sorted(system.state_dict().items()):
        sum.update(name.encode())
        sum.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sum.hexdigest()
