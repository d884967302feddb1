"""What stands before the loop: the splits, the loaders, the device."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from foveal.build import parts
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.errors import InputError
from foveal.system import System
from foveal.task import Task
from foveal.train.augment import BatchAugment, sample_pipeline
from foveal.train.config import TrainConfig
from foveal.train.defaults import FineTuning, Start
from foveal.train.depth import BATCH_NORMS
from foveal.train.distributed import ALONE, Ranks
from foveal.train.evaluate import check_truths, default_workers, evaluation_loader, suited
from foveal.train.record import read_record
from foveal.train.teacher import Teacher


@dataclass(frozen=True)
class Phase:
    """A stretch of a run, which begins with the weights that the run began with.

    name:       "train"; or "refit", which takes the validation images in as well.
    loader:     batches to learn from.
    augment:    what is done to them.
    val_loader: what is measured after each epoch.
    chooses:    what it leaves are the weights of its best epoch; else those of its last.
    steps:      of the optimizer in an epoch.
    """

    name: str
    loader: Loader
    augment: BatchAugment
    val_loader: Loader | None
    chooses: bool
    steps: int


def fine_tuning(system: System, dataset: Dataset, start: Start | None) -> FineTuning | None:
    """The fine-tuning recipe of a system that starts from trained weights; None for the others."""
    if start is None or system.can("fit"):
        return None
    images = len(dataset) if dataset.split else dataset.split_counts().get("train", 0)
    return FineTuning.of(system.task, system.spec.recipe, system.spec.finetune, images, start)


def start_of(system: System, config: TrainConfig) -> Start | None:
    """What of a system has trained weights: the whole, or the base alone. Other parts of a system are frozen, and say
    nothing of what is to be trained. For a run that is resumed it is what it was when the run began."""
    directory = Path(config.out or "")
    if config.resume and config.out and (directory / "run.json").is_file():
        return read_record(directory).get("start")
    inside = ", ".join(part.started_from for part in parts(system.spec) if part.started_from)
    if system.started_from not in (None, inside):
        return "whole"
    return "base" if system.base is not None and system.base.started_from else None


def training_phases(
    system: System, dataset: Dataset, config: TrainConfig, teacher: Teacher | None = None, ranks: Ranks = ALONE
) -> list[Phase]:
    """What a run goes through in turn. Raises InputError for data or settings that do not fit."""
    train_set, val_set = training_splits(system, dataset, config)
    views = {"train": train_set}
    if config.refit:
        views["refit"] = suited(system, dataset).select("train", "val")
    val_loader = evaluation_loader(system, val_set, config.batch_size, config.workers, ranks) if val_set else None
    phases = []
    for name, view in views.items():
        loader, chooses = training_loader(system, view, config, ranks), name == "train"
        steps = math.ceil(len(loader) / config.accumulate)
        measured = val_loader if chooses else None
        phases.append(Phase(name, loader, BatchAugment(config, view, teacher), measured, chooses, steps))
    return phases


def find_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raises InputError where it cannot be used."""
    if name is None:
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = "cpu, cuda and mps are known" if "device string" in str(error) else str(error).partition(". ")[0]
        raise InputError(f"cannot use the device {name!r}: {reason}") from None


def check_processes(system: System, config: TrainConfig, ranks: Ranks) -> None:
    """InputError where there are more processes than have an effect, or fewer."""
    if config.shard and ranks.size == 1:
        raise InputError("shard has no effect in one process: start several by torchrun --nproc-per-node N -m foveal")
    if system.can("fit") and ranks.size > 1:
        name = system.name or type(system).__name__
        raise InputError(f"{name} is fitted by a rule of its own, in one process: start it without torchrun")


def check_norms(system: System, origin: str) -> None:
    """InputError where the user sets something about batch norms of a system that has none."""
    if origin == "user" and not any(isinstance(module, BATCH_NORMS) for module in system.modules()):
        raise InputError(f"norm_statistics has no effect: {system.name or type(system).__name__} has no batch norms")


def training_splits(system: System, dataset: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The train and the val view, in the class order of the system; no val view where the data has none. Raises
    InputError for data or settings that do not fit."""
    if one := Task.of(dataset).unfit(dataset):
        raise InputError(one)
    dataset = suited(system, dataset)
    if dataset.split is not None:
        train_set, val_set = dataset, None
    else:
        train_set = dataset.select("train")
        val_set = dataset.select("val") if "val" in dataset.split_counts() else None
    if val_set is not None:
        check_truths(system, val_set)
    if config.patience and val_set is None:
        raise InputError(f"patience has no effect: {dataset.source} has no val split to stop by")
    if config.refit and val_set is None:
        raise InputError(f"refit has no effect: {dataset.source} has no val split to take in with the train split")
    return train_set, val_set


def training_loader(system: System, train_set: Dataset, config: TrainConfig, ranks: Ranks = ALONE) -> Loader:
    """Batches to learn from: drawn and augmented for a gradient, the images themselves in order for `fit`; of each
    batch the share of this process."""
    if config.optimizer == "lbfgs" and config.batch_size < len(train_set):
        raise InputError(
            f"lbfgs needs the whole training split in each step: set batch_size to {len(train_set)} or more, "
            "or take another optimizer"
        )
    if train_set.upright and (config.flip or config.trivial_augment):
        raise InputError(
            f"the classes of {train_set.source} are others when images are mirrored or turned: set flip and "
            "trivial_augment to false"
        )
    fits = system.can("fit")
    loader = Loader(
        train_set,
        Pipeline((Fit(system.preprocess),)) if fits else sample_pipeline(config, system, train_set),
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=not fits,
        workers=default_workers(train_set, ranks) if config.workers is None else config.workers,
        share=ranks.share,
        preprocess=system.preprocess,
    )
    if config.accumulate > max(1, len(loader)):
        raise InputError(
            f"accumulate {config.accumulate} takes more batches than the {len(loader)} of an epoch: set accumulate to "
            f"{max(1, len(loader))} or less, or batch_size lower"
        )
    return loader
