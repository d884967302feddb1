"""The values of settings that neither the user nor the recipe of a system sets, and the recipe of fine-tuning.

A system that starts from trained weights needs other settings than one that starts from scratch: rates at which the
weights are not lost, lower ones for early layers, gentle crops. Each task has a table of them (`Task.fine_tuning`);
a family changes single entries by `Spec.finetune`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from foveal.task import Task

DEFAULTS: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 32,
    "accumulate": 1,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 0.0,
    "layer_decay": None,
    "norm_statistics": "update",
    "l1": 0.0,
    "l2": 0.0,
    "clip": None,
    "ema": None,
    "crop_scale": None,
    "scale_jitter": None,
    "object_crop": 0.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "shift": 0.0,
    "flip": False,
    "jitter": 0.0,
    "trivial_augment": False,
    "cutout": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mosaic": 0.0,
    "plan": "auto",
    "precision": "float32",
    "nonfinite": "stop",
    "save_minutes": 10.0,
    "track": "none",
}
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
    "adagrad": {"lr": 0.01, "weight_decay": 0.0},
    "rmsprop": {"lr": 0.001, "momentum": 0.0, "decay": 0.99, "weight_decay": 0.0},
    "adam": {"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 0.0},
    "adamw": {"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 0.01},
    "lbfgs": {"lr": 1.0},
}
TEACHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "soft": {"distill": "soft", "distill_weight": 0.5, "temperature": 3.0},
    "hard": {"distill": "hard", "distill_weight": 0.5},
    "no teacher": {},
}
SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {"step": {"milestones": None, "gamma": 0.1}}

# What of a system has trained weights: all of it, but perhaps its head; or the system that it is built upon.
Start = Literal["whole", "base"]
TUNED = "fine-tuning recipe"  # the origin of its settings
SAME_OPTIMIZER = 1 / 3  # times the rate of the family's recipe, where that is for the same optimizer
OTHER_OPTIMIZER = 0.1  # times the rate from scratch, of an optimizer that the user has chosen
# In place of what the family's recipe has of these, for that is meant for long runs on many images.
GENTLE: dict[str, Any] = {"crop_scale": (0.5, 1.0), "mixup": 0.0, "cutmix": 0.0}
MOST_EPOCHS = 100  # where a task asks for more steps of few images
OF_OPTIMIZERS = frozenset(name for table in OPTIMIZER_DEFAULTS.values() for name in table)


@dataclass(frozen=True)
class FineTuning:
    """The settings of a run that starts from trained weights.

    settings: by name, with the optimizer that they are for.
    scratch:  optimizer and rate of the family's recipe.
    steps:    optimizer steps that a run has at least, by its number of epochs.
    images:   training images; None where the data is unknown, as in the help text.
    """

    settings: Mapping[str, Any]
    scratch: tuple[str, float]
    steps: int = 0
    images: int | None = None

    @classmethod
    def of(
        cls,
        task: str,
        recipe: Mapping[str, Any],
        own: Mapping[str, Any],
        images: int | None = None,
        start: Start = "whole",
    ) -> Self:
        """recipe: of the family, from scratch. own: `Spec.finetune`. start: what has weights; where that is the base
        alone, most parts are new, so that the family's rate and number of epochs stay."""
        optimizer = recipe.get("optimizer", DEFAULTS["optimizer"])
        rate = recipe.get("lr", OPTIMIZER_DEFAULTS[optimizer]["lr"])
        of_task = Task.of(task)
        settings = dict(of_task.fine_tuning or {"optimizer": optimizer})
        if optimizer == settings["optimizer"]:
            settings["lr"] = SAME_OPTIMIZER * rate if start == "whole" else rate
            settings.pop("norm_statistics", None)  # which have to follow weights that move this fast
        if start == "base":
            settings.pop("epochs", None)
        if "clip" in settings and recipe.get("clip"):
            settings["clip"] = min(recipe["clip"], settings["clip"])
        if of_task.fine_tuning:
            settings |= {name: value for name, value in GENTLE.items() if recipe.get(name)}
        return cls({**settings, **own}, (optimizer, rate), of_task.fewest_steps, images)

    def with_optimizer(self, optimizer: str) -> dict[str, Any]:
        """The settings for a run with this optimizer, which may be the user's choice."""
        if optimizer == self.settings["optimizer"]:
            return dict(self.settings)
        kept = {name: value for name, value in self.settings.items() if name not in OF_OPTIMIZERS | {"optimizer"}}
        if optimizer == "lbfgs":  # which has one rate, and searches along a line for the step
            return {name: value for name, value in kept.items() if name not in ("layer_decay", "clip", "warmup")}
        own, rate = self.scratch
        scratch = rate if optimizer == own else OPTIMIZER_DEFAULTS[optimizer]["lr"]
        return {**kept, "lr": OTHER_OPTIMIZER * scratch}

    def epochs(self, epochs: int, batch_size: int, accumulate: int) -> int:
        """So many epochs, or more where these would be too few steps."""
        if self.images is None:
            return epochs
        steps = -(-max(1, self.images // batch_size) // accumulate)  # of an epoch
        return max(epochs, min(MOST_EPOCHS, -(-self.steps // steps)))
