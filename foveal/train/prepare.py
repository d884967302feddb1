"""What stands before the loop: the splits, the loader, the device."""

import torch

from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.errors import InputError
from foveal.system import System
from foveal.train.augment import sample_pipeline
from foveal.train.config import TrainConfig
from foveal.train.distributed import ALONE, Ranks
from foveal.train.evaluate import check_task, default_workers


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


def training_splits(system: System, dataset: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The train and the val view, in the class order of the system; no val view where the data has none."""
    check_task(system, dataset)
    dataset = dataset.relabel(system.labels)
    if dataset.split is not None:
        train_set, val_set = dataset, None
    else:
        train_set = dataset.select("train")
        val_set = dataset.select("val") if "val" in dataset.split_counts() else None
    if config.patience and val_set is None:
        raise InputError(f"patience has no effect: {dataset.source} has no val split to stop by")
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
    return Loader(
        train_set,
        Pipeline((Fit(system.preprocess),)) if fits else sample_pipeline(config, system),
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=not fits,
        workers=default_workers(train_set, ranks) if config.workers is None else config.workers,
        share=ranks.share,
    )
