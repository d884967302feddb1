"""Measure a system on data."""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from foveal.build import trained
from foveal.catalog import variant
from foveal.data.dataset import ALL, Dataset
from foveal.data.foreign import as_dataset
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.errors import InputError
from foveal.metrics import Evaluator
from foveal.metrics.loss import LossEvaluator
from foveal.progress import SILENT, Silent
from foveal.structures import Label
from foveal.system import System, evaluating
from foveal.task import Task
from foveal.train.distributed import ALONE, Ranks
from foveal.train.origin import measured_view
from foveal.train.parallel import Whole
from foveal.weights.packages import PACKAGED, available
from foveal.wording import counted

FEW = 10  # images or objects under which a figure is marked


def evaluate(
    system: System,
    dataset: Any,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    judge: System | str | None = None,
) -> dict[str, float]:
    """The figures of the system's task, by name, on the view that `dataset` is: `dataset.select("test")`, or "all". Of
    a whole data set the test split, else val, else all; but of data that is not the system's training data, and that
    names no splits, all images (train/origin.py), as the command does.

    Size, normalisation and class order are the system's own; images that do not decode are left out.

    judge: the classifier that looks at what a system makes that generates, or a run, a checkpoint, or a name with
           packaged weights; default one that knows the classes of the data, if a package has one.

    Raises InputError for data of another task, with classes that the system does not know, or with nothing to measure.
    """
    dataset = as_dataset(dataset, system.labels)
    loader = evaluation_loader(system, measured_view(system, dataset).dataset, batch_size, workers)
    check_truths(system, loader.dataset)
    return measure(system, loader, evaluators=judged(system, dataset, judge)).values


def evaluator(system: System) -> Evaluator:
    """The evaluator for a system: that of its task, or else its own losses."""
    make = Task.of(system).evaluator
    return make(system) if make else LossEvaluator(tuple(system.players))


def judged(system: System, dataset: Dataset, judge: System | str | None = None) -> Callable[[], Evaluator]:
    """What makes the evaluators that tell all of a system, with the judge that `evaluate` takes."""
    thorough = Task.of(system).thorough
    if thorough is None:
        if judge is not None:
            name = system.name or type(system).__name__
            raise InputError(f"judge has no effect: {name} is a system to {system.task}, and makes no images")
        return partial(evaluator, system)
    if judge is None:
        known = [name for name in PACKAGED if set(dataset.labels) <= set(variant(name).labels) and available(name)]
        judge = known[0] if dataset.labels and known else None
    found: Any = trained(judge).to(system.device) if isinstance(judge, str) else judge
    if found is not None and getattr(found, "task", None) != Label.task:
        name = getattr(found, "name", None) or (judge if isinstance(judge, str) else type(found).__name__)
        what = f"a system to {found.task}" if isinstance(found, System) else "no system"
        raise InputError(f"judge {name} is {what}: take a classifier, or a run of one")
    return partial(thorough, system, found)


def evaluation_loader(
    system: System, dataset: Dataset, batch_size: int, workers: int | None, ranks: Ranks = ALONE
) -> Loader:
    """A view of a data set in its own order, as this system sees it; of each batch the share of this process."""
    dataset = suited(system, dataset)
    pipeline = Pipeline((Fit(system.preprocess),))
    workers = default_workers(dataset, ranks) if workers is None else workers
    return Loader(
        dataset, pipeline, batch_size=batch_size, workers=workers, share=ranks.share, preprocess=system.preprocess
    )


@dataclass(frozen=True)
class Measured:
    """What was found. values: the figures by name. rank: of two results the better has the higher one; empty where no
    figure tells. evaluator: what the figures were computed from. few: what a figure rests on, where that is almost
    nothing."""

    values: dict[str, float]
    rank: tuple[float, ...]
    evaluator: Evaluator
    few: dict[str, str] = field(default_factory=dict)


def measure(
    system: System,
    loader: Loader,
    parallel: Whole | None = None,
    evaluators: Callable[[], Evaluator] | None = None,
    bar: Silent = SILENT,
) -> Measured:
    """The figures of the system's task over all batches of the loader, and of those of the other processes, if it is
    over these that the system is `parallel`; or what `evaluators` makes computes. Raises InputError where one is not
    finite."""
    parallel = parallel or Whole(system)
    make = evaluators or partial(evaluator, system)
    figures, passed_over = make(), make()
    seen = False
    with evaluating(system):
        for batch, counts in bar.track(parallel.ranks.abreast(loader.epoch()), "measuring", len(loader)):
            seen = True
            indices = [] if loader.dataset.targets is None else batch.indices.tolist()
            truths = [loader.dataset.target(index) for index in indices]
            update = (figures if counts else passed_over).update
            parallel.call(update, system, batch.to(system.device).float(), truths)
    if not seen:
        raise InputError(f"{loader.dataset.source}: not one image can be read")
    figures, *others = parallel.ranks.gather(figures)
    for other in others:
        figures.merge(other)
    bar.stage("computing the figures")
    with evaluating(system):
        values = figures.compute()
    if wrong := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
        raise InputError(
            f"{wrong[0]} on {loader.dataset.source}: the weights of {system.name or type(system).__name__} have run "
            "away; a lower lr, a warmup or clip may help where it is trained"
        )
    signs = {"max": 1, "min": -1}
    rank = tuple(signs[better] * values[name] for name, better in figures.criteria if name in values)
    few = {
        name: counted(count, noun) for name, (count, noun) in figures.basis().items() if name in values and count < FEW
    }
    return Measured(values, rank, figures, few)


def suited(system: System, dataset: Dataset) -> Dataset:
    """The data as it serves the system's task, in the order of its classes. Raises InputError where it does not."""
    name = system.name or type(system).__name__
    if system.task != dataset.task and not Task.of(system).any_images:
        raise InputError(f"{name} is a system to {system.task}, but {dataset.source} is data to {dataset.task}")
    serving = dataset.serving(system.task)
    if system.labels and serving.targets is None:
        raise InputError(f"{name} learns of which class an image is, and {dataset.source} has no class for each image")
    return serving.relabel(system.labels)


def check_truths(system: System, dataset: Dataset) -> None:
    """InputError where no figure can be computed on a view: of a detector, where no image shows an object."""
    judge = evaluator(system)
    if not any(judge.asks(dataset.target(index)) for index in range(len(dataset))):
        which = "it" if dataset.split in (None, ALL) else f"the {dataset.split} split"
        raise InputError(
            f"{dataset.source}: no image of {which} shows an object to be found, which {system.task} is measured by: "
            "put images with objects there, or leave it out"
        )


def default_workers(dataset: Dataset, ranks: Ranks = ALONE) -> int:
    """No worker for images in memory; else one for each core that the processes here leave free, at most eight."""
    # What this process may use, which is what torch warns above of.
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores = allowed // ranks.neighbours
    wanted = max(1, cores - 1, torch.get_num_threads() // 2)
    return 0 if dataset.in_memory else min(8, wanted, max(1, allowed))
