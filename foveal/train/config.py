"""Every setting of a training run, and how its value is resolved: default, then recipe, then fine-tuning recipe of a
system that starts from trained weights, then user.

A setting that is not known, that contradicts another or that would have no effect is an error, never ignored.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from os import PathLike
from typing import Any, Literal, get_type_hints

from foveal.errors import InputError, nearest
from foveal.schema import check
from foveal.system import System
from foveal.train.defaults import (
    DEFAULTS,
    OF_OPTIMIZERS,
    OPTIMIZER_DEFAULTS,
    SCHEDULE_DEFAULTS,
    TEACHER_DEFAULTS,
    TUNED,
    FineTuning,
)
from foveal.train.kinds import check_kind

Optimizer = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs"]
Schedule = Literal["constant", "step", "cosine", "linear", "inverse_sqrt"]


class Unset(Enum):
    """What a setting is that nobody has set; None is a value, such as that of no clipping."""

    UNSET = "unset"


UNSET: Any = Unset.UNSET


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `foveal.train`. What is not set is decided by the system's recipe, or else by the default."""

    out: str | None = None
    """Run directory; default runs/NAME-DATA, with a number where that exists."""
    resume: bool = False
    """Go on with the run in `out`, to the same weights as if it had never stopped."""
    overwrite: bool = False
    """Replace the run in `out`."""
    seed: int = 0
    """Decides the order of images, augmentation and dropout; on the command line the first weights too."""

    epochs: int = UNSET
    """Passes over the training images; of few images a fine-tuning run takes more, so that it has enough steps."""
    batch_size: int = UNSET
    """Images that are in memory together."""
    accumulate: int = UNSET
    """Batches whose gradients are averaged into one step."""

    optimizer: Optimizer = UNSET
    """Rule of the update."""
    lr: float = UNSET
    """Learning rate, the highest of the schedule."""
    momentum: float = UNSET
    """Of sgd and rmsprop."""
    nesterov: bool = UNSET
    """Nesterov's form of momentum, of sgd."""
    betas: tuple[float, float] = UNSET
    """Decay of the running mean and mean square, of adam and adamw."""
    decay: float = UNSET
    """Decay of the running mean square, of rmsprop."""
    weight_decay: float = UNSET
    """Pull towards zero in the optimizer: decoupled in adamw, an L2 gradient in the others; not on biases and norms."""
    layer_decay: float | None = UNSET
    """Factor on the learning rate from each layer, or block, to the one before it, so that early ones change little."""
    freeze: str | None = None
    """Leave everything up to and with this module as it is; stages have names such as stem, stage3 or blocks.5."""
    norm_statistics: Literal["update", "keep"] = UNSET
    """keep: batch norms normalise by the running statistics that they start with; update: by those of each batch."""
    schedule: Schedule = UNSET
    """Course of the learning rate."""
    warmup: float = UNSET
    """Epochs in which the learning rate rises from zero."""
    milestones: tuple[int, ...] | None = None
    """Epochs at which the step schedule multiplies the rate by `gamma`; default at 1/2 and 3/4."""
    gamma: float = UNSET
    """Factor of the step schedule."""

    l1: float = UNSET
    """Weight of sum |w| in the loss."""
    l2: float = UNSET
    """Weight of sum w^2 / 2 in the loss."""
    clip: float | None = UNSET
    """Largest norm of the whole gradient."""
    keep: int = 1
    """How many of the best epochs stay in the run directory, as epoch-N.safetensors, where it is more than one."""
    ema: float | None = UNSET
    """Decay, per step, of the running mean of the weights, which is then what is evaluated and kept as best. The first
    steps have a lower one, (1 + step) / (10 + step)."""
    label_smoothing: float = UNSET
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = UNSET
    """balanced: rare classes weigh more, so that each class has the same say."""

    teacher: str | PathLike[str] | System | None = None
    """A trained classifier to learn from besides the labels: a run, a checkpoint, or a name with packaged weights."""
    distill: Literal["soft", "hard"] = UNSET
    """What is learned from the teacher: soft, all its probabilities; hard, its answer alone."""
    temperature: float = UNSET
    """Of soft: what scores are divided by, so that improbable classes are heard."""
    distill_weight: float = UNSET
    """Of the teacher in the loss; the labels have the rest."""

    crop_scale: tuple[float, float] | None = UNSET
    """Random resized crop: smallest and largest share of the area."""
    scale_jitter: tuple[float, float] | None = UNSET
    """Images with objects made smaller or larger by a factor between these two, then cut or padded."""
    object_crop: float = UNSET
    """Share of the images that are cropped at random around objects."""
    shift: float = UNSET
    """Random shift, as a share of height and width."""
    flip: bool = UNSET
    """Mirror half of the images left to right."""
    jitter: float = UNSET
    """Strength of random brightness, contrast and saturation."""
    trivial_augment: bool = UNSET
    """One random operation of random strength an image."""
    cutout: float = UNSET
    """Side of a square that is blanked out, as a share of the image's."""
    mixup: float = UNSET
    """Alpha of the mixing of pairs of images."""
    cutmix: float = UNSET
    """Alpha of the pasting of a part of one image into another."""
    mosaic: float = UNSET
    """Share of the images with objects that are made of parts of four."""
    transforms: tuple[Callable[..., Any], ...] = ()
    """Your own, before the others: any callable from a (3, H, W) uint8 tensor to one."""

    plan: str = UNSET
    """How a step is run: auto measures and takes the fastest; eager is the plain way; channels_last, compile."""
    precision: Literal["float32", "bfloat16", "float16", "auto"] = UNSET
    """Of the products in a step; weights stay float32. auto lets the plan choose bfloat16."""
    nonfinite: Literal["stop", "skip", "rollback"] = UNSET
    """On a loss that is not finite: stop; skip the batch; or go back to the weights saved last and on with the data."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    shard: bool = False
    """Split weights, gradients and optimizer state over the processes of torchrun, where no device can hold them."""
    workers: int | None = None
    """Processes that read images; default by the number of cores, 0 for data in memory."""
    memory: Literal["check", "ignore"] = "check"
    """check: estimate the memory of a step before the first one, and refuse a run that does not fit; ignore: start."""
    patience: int | None = None
    """Stop after this many epochs without a better result on the validation split."""
    refit: bool = False
    """In the end train anew on the training and validation images together, for as many epochs as were best."""
    save_minutes: float = UNSET
    """Also save within an epoch, this often."""
    track: Literal["none", "tensorboard"] = UNSET
    """Where metrics go besides metrics.jsonl."""
    report: bool = True
    """Write report.html when training ends."""
    quiet: bool = False
    """No progress on the screen."""


_FIELDS = tuple(field.name for field in fields(TrainConfig))
# What may differ between a run and its resumption and changes no more than the last bits of its result.
EXECUTION = frozenset(
    {"out", "resume", "overwrite", "device", "shard", "workers", "memory", "save_minutes", "track", "report", "quiet"}
)
# What has an effect on a system that is fitted by a rule of its own.
OF_A_FIT = EXECUTION - {"shard", "memory", "save_minutes"} | {"seed", "batch_size"}


def resolve(
    config: TrainConfig,
    recipe: Mapping[str, Any],
    owner: str,
    *,
    fits: bool = False,
    tuning: FineTuning | None = None,
) -> tuple[TrainConfig, dict[str, str]]:
    """The configuration with every value filled in, and the origin of each: "default", "recipe of NAME", "fine-tuning
    recipe" or "user".

    recipe, owner: the settings that suit a system, and its name.
    fits:          the system has its own `fit`, so that what belongs to a gradient has no effect.
    tuning:        of a system that starts from trained weights; it goes before the recipe.

    Raises InputError for values out of range, contradictions and settings without effect.
    """
    user = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
    if unknown := [n for n in (*recipe, *(tuning.settings if tuning else ())) if n not in _FIELDS]:
        raise InputError(f"recipe of {owner}: no setting {unknown[0]!r}{nearest(unknown[0], DEFAULTS)}")
    hints = get_type_hints(TrainConfig)
    for name, value in user.items():
        check_kind(name, value, hints[name])
    for name, choices in _CHOICES.items():
        if user.get(name, choices[0]) not in choices:
            raise InputError(f"unknown {name} {user[name]!r}{nearest(str(user[name]), choices)}")
    if fits:
        recipe = {**recipe, "epochs": 1}
    first = {**DEFAULTS, **recipe, **(tuning.settings if tuning else {}), **user}
    optimizer, schedule = first["optimizer"], first["schedule"]
    way = first.get("distill", "soft") if config.teacher is not None else "no teacher"
    choices = ((optimizer, OPTIMIZER_DEFAULTS), (schedule, SCHEDULE_DEFAULTS), (way, TEACHER_DEFAULTS))
    for chosen, table in choices:
        useless = [name for name in user for t in table.values() if name in t and name not in table.get(chosen, {})]
        if useless:
            if chosen == "no teacher":
                raise InputError(f"{useless[0]} has no effect without a teacher")
            raise InputError(
                f"{useless[0]} has no effect with {chosen}; it is a setting of {_owners(useless[0], table)}"
            )
    if fits and (useless := [name for name in user if name not in OF_A_FIT]):
        raise InputError(f"{useless[0]} has no effect: {owner} is fitted by a rule of its own")
    tables = {**DEFAULTS, **OPTIMIZER_DEFAULTS[optimizer], **SCHEDULE_DEFAULTS.get(schedule, {})}
    tables |= TEACHER_DEFAULTS[way]
    chosen = _chosen(recipe, owner, tuning, optimizer, schedule)
    for one, other in (("crop_scale", "shift"), ("shift", "crop_scale")):  # two ways to move the image
        if one in user and other not in user:
            chosen.pop(other, None)
    values = {name: value for name, (value, _) in chosen.items()}
    if tuning and "epochs" not in user:
        size = {**tables, **values, **user}
        values["epochs"] = tuning.epochs(size["epochs"], size["batch_size"], size["accumulate"])
        if values["epochs"] > size["epochs"]:
            chosen["epochs"] = (values["epochs"], TUNED)
    if "warmup" in values:  # which is for a run as long as the recipe's
        values["warmup"] = min(values["warmup"], (tables | values | user)["epochs"] / 2)
    unset = {name: None for name in _FIELDS if getattr(config, name) is UNSET}  # settings of other optimizers
    resolved = replace(config, **{**unset, **tables, **values, **user})
    _check(resolved, user)
    origins = {name: origin for name, (_, origin) in chosen.items()} | dict.fromkeys(user, "user")
    return resolved, {name: origins.get(name, "default") for name in _FIELDS}


def _chosen(
    recipe: Mapping[str, Any], owner: str, tuning: FineTuning | None, optimizer: str, schedule: str
) -> dict[str, tuple[Any, str]]:
    """The settings of a system's recipes that suit this optimizer and schedule, each with its origin."""
    # A recipe is tuned for its own optimizer: with another one, its rates mean nothing.
    keep = optimizer == recipe.get("optimizer", DEFAULTS["optimizer"])
    chosen = {
        name: (value, f"recipe of {owner}") for name, value in recipe.items() if keep or name not in OF_OPTIMIZERS
    }
    if schedule != "step" or tuning:  # milestones are epochs of a run from scratch
        chosen = {name: pair for name, pair in chosen.items() if name not in ("milestones", "gamma")}
    return chosen | {n: (v, TUNED) for n, v in (tuning.with_optimizer(optimizer) if tuning else {}).items()}


def check_resolved(values: Mapping[str, Any], place: str) -> None:
    """InputError where settings read from JSON are not what `resolve` gives: by type, by range, or as contradictions.

    A setting may be missing. Its text names the setting after `place`.
    """
    hints, defaults = get_type_hints(TrainConfig), {f.name: f.default for f in fields(TrainConfig)}
    for name, value in values.items():
        hint = hints.get(name, Any)
        # Settings of other optimizers have no value.
        unused = defaults.get(name) is UNSET and name not in DEFAULTS
        check(value, hint | None if unused and hint is not Any else hint, f"{place}.{name}")
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in hints}
    unset = {name: None for name, default in defaults.items() if default is UNSET}
    try:
        _check(replace(TrainConfig(), **{**unset, **DEFAULTS, **given}), {})
    except InputError as error:
        raise InputError(f"{place}.{error}") from None


def _owners(name: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    return " and ".join(owner for owner, table in tables.items() if name in table)


def _check(config: TrainConfig, user: Mapping[str, Any]) -> None:
    """Raise InputError for the first value that cannot be meant."""

    def number(name: str, low: float, high: float = float("inf"), *, above: bool = False, below: bool = False) -> None:
        """low <= value <= high; with `above`, `below` the limits themselves are out."""
        value = getattr(config, name)
        for part in value if isinstance(value, tuple) else (value,):
            if part is None:
                continue
            if (
                not math.isfinite(part)
                or part < low
                or part > high
                or (above and part == low)
                or (below and part == high)
            ):
                span = f"{'above' if above else 'at least'} {low}"
                upper = f" and {'below' if below else 'at most'} {high}" if math.isfinite(high) else ""
                raise InputError(f"{name} must be {span}{upper}, not {value}")

    for name in ("epochs", "batch_size", "accumulate", "patience", "keep"):
        number(name, 1)
    for name in ("lr", "clip", "save_minutes", "temperature", "scale_jitter"):
        number(name, 0, above=True)
    for name in ("weight_decay", "warmup", "l1", "l2", "jitter", "mixup", "cutmix", "workers"):
        number(name, 0)
    for name in ("momentum", "ema", "betas", "decay", "label_smoothing"):
        number(name, 0, 1, below=True)
    for name in ("shift", "cutout", "object_crop", "mosaic"):
        number(name, 0, 1)
    number("seed", 0, 2**64, below=True)
    for name in ("crop_scale", "layer_decay", "distill_weight"):
        number(name, 0, 1, above=True)
    contradictions = {
        "nesterov needs a momentum above 0": config.nesterov and not config.momentum,
        "resume and overwrite contradict each other: go on with the run, or replace it": config.resume
        and config.overwrite,
        "resume needs out, the directory of the run": config.resume and not config.out,
        f"warmup ({config.warmup} epochs) leaves nothing of {config.epochs} epochs": config.warmup >= config.epochs,
        f"weight_decay of {config.optimizer} and l2 are the same thing: set one of them": config.optimizer != "adamw"
        and config.l2
        and user.get("weight_decay"),
        f"crop_scale {config.crop_scale}: the smallest share comes first": config.crop_scale
        and config.crop_scale[0] > config.crop_scale[1],
        f"scale_jitter {config.scale_jitter}: the smallest factor comes first": config.scale_jitter
        and config.scale_jitter[0] > config.scale_jitter[1],
        "crop_scale and shift are two ways to move the image: set one of them": "crop_scale" in user
        and config.shift
        and "shift" in user,
        f"plan {config.plan} has no effect on shards, which are always eager and contiguous": config.shard
        and config.plan not in ("auto", "eager"),
        "lbfgs keeps its history in one piece: shard needs another optimizer": config.shard
        and config.optimizer == "lbfgs",
        "layer_decay has no effect with lbfgs, which has one learning rate": config.optimizer == "lbfgs"
        and config.layer_decay,
        "lbfgs searches along one direction, so gradients cannot be accumulated or clipped": config.optimizer == "lbfgs"
        and (config.accumulate > 1 or config.clip),
    }
    for text, holds in contradictions.items():
        if holds:
            raise InputError(text)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "optimizer": tuple(OPTIMIZER_DEFAULTS),
    "schedule": Schedule.__args__,  # type: ignore[attr-defined]
    "norm_statistics": ("update", "keep"),
    "class_weights": ("none", "balanced"),
    "distill": ("soft", "hard"),
    "precision": ("float32", "bfloat16", "float16", "auto"),
    "nonfinite": ("stop", "skip", "rollback"),
    "track": ("none", "tensorboard"),
    "memory": ("check", "ignore"),
}
