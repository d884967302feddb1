"""One class for each image."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from foveal.data.check_classify import check, only_class
from foveal.errors import InputError
from foveal.explain.aim import Aim
from foveal.metrics.chance import classify_chance
from foveal.metrics.classify import ClassifyEvaluator
from foveal.report.classify import sections
from foveal.report.draw import MOST_SHOWN, save_predictions
from foveal.structures import Batch, Label
from foveal.system import System
from foveal.task import Task


class Labels:
    """The most probable classes of each image, `top` of them; predictions.json, and one picture of the first images."""

    option: ClassVar[str] = "top"
    headings: ClassVar[tuple[str, ...]] = ("image", "class", "probability", "next")

    def __init__(self, system: System, folder: Path | None, setting: int | None) -> None:
        self.labels, self.folder, self.most = system.labels, folder, 3 if setting is None else setting
        self.shown: list[Tensor] = []
        self.style = None
        if self.most < 1:
            raise InputError(f"top must be at least 1, not {self.most}")

    def take(self, name: str, image: Tensor, prediction: Label) -> dict[str, Any]:
        if self.folder and len(self.shown) < MOST_SHOWN:
            self.shown.append(image)
        top = [{"label": label, "score": score} for label, score in prediction.top(self.labels, self.most)]
        return {"image": name, **top[0], "top": top}

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        others = ", ".join(f"{other['label']} {other['score']:.3f}" for other in entry["top"][1:])
        return entry["image"], entry["label"], f"{entry['score']:.3f}", others

    def save(self, document: dict[str, Any]) -> None:
        if self.folder:
            save_predictions(self.folder, document, self.shown, self.labels)


def aim(system: System, prediction: Label, batch: Batch, target: str | None, object: int | None) -> Aim:
    """At a class; default the one that is predicted."""
    name = system.name or type(system).__name__
    if object is not None:
        raise InputError(f"object has no effect: {name} names a class for the whole image and finds no objects")
    if prediction.scores is None:
        raise InputError(f"{name} gives no probabilities, and there is nothing to explain without")
    index = int(prediction.label) if target is None else system.index(target)
    return Aim(system.labels[index], system.labels[index], float(prediction.scores[index]))


LABEL = Task(
    "classify",
    Label,
    evaluator=lambda system: ClassifyEvaluator(len(system.labels)),
    chance=classify_chance,
    answers=Labels,
    aim=aim,
    sections=sections,
    check=check,
    unfit=only_class,
    settings=frozenset({"mixup", "cutmix", "label_smoothing", "class_weights", "crop_scale"}),
    # Measured by recipes/fine_tuning.py.
    fine_tuning={
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.02,
        "layer_decay": 0.85,
        "norm_statistics": "keep",
        "schedule": "cosine",
        "warmup": 1.0,
        "batch_size": 32,
        "epochs": 10,
    },
    fewest_steps=150,
)
