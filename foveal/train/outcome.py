"""What a run reports about its own result: whether it learned anything, and whether training was worth it."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from foveal.classify.classifier import Scorer
from foveal.classify.neighbors import Neighbors, NeighborsSpec
from foveal.data.dataset import Counted
from foveal.errors import InputError
from foveal.system import evaluating
from foveal.task import Task
from foveal.train.config import TrainConfig
from foveal.train.evaluate import evaluation_loader, measure
from foveal.train.prepare import Phase
from foveal.train.record import is_epoch
from foveal.train.state import State

NEIGHBORS = 10
PROBED = 20_000  # training images, of which all features are kept in memory
PROBE_SHARE = 0.05  # of the time of the run
RISEN = 1.01  # times the loss of the first epoch: less is noise


def frozen_accuracy(state: State, phase: Phase) -> float | None:
    """The val accuracy of nearest neighbours by cosine distance on the features that a classifier gives before its
    first step: what its starting weights are worth without training.

    None for other systems, without a val split, in several processes, above PROBED training images, and where one pass
    over the images would take more than PROBE_SHARE of the run.
    """
    system, config, images = state.system, state.config, len(phase.loader.dataset)
    if not isinstance(system, Scorer) or phase.val_loader is None or state.ranks.size > 1 or images > PROBED:
        return None
    passed = images + len(phase.val_loader.dataset)
    if passed > PROBE_SHARE * config.epochs * (passed + 2 * images):  # a backward pass takes as long as two forward
        return None
    k = max(1, min(NEIGHBORS, images // len(system.labels)))
    spec = NeighborsSpec(system.labels, system.preprocess, k=k, distance="cosine", features=system)
    loader = evaluation_loader(system, phase.loader.dataset, config.batch_size, config.workers)
    neighbors = Neighbors(spec).to(system.device)
    try:
        with state.plan.evaluating(), evaluating(neighbors), torch.random.fork_rng([]):
            neighbors.fit(batch.to(system.device).float() for batch in loader.epoch())
            return measure(neighbors, phase.val_loader).values["accuracy"]
    except InputError:  # it has no features
        return None


def warnings(
    task: str, config: TrainConfig, history: Sequence[dict[str, Any]], phase: Phase, frozen: float | None
) -> list[str]:
    """A line for each thing that is wrong with the result of a run, with what to try.

    history: the records of its epochs. phase: the one that chose the best of them. frozen: see `frozen_accuracy`.
    """
    epochs = [record for record in history if is_epoch(record, "train")]
    figures: dict[str, float] = next((record["val"] for record in reversed(epochs) if record["best"]), {})
    gentler = f"a lower lr (it was {config.lr:g}), a longer warmup or clip" if config.lr else "other settings"
    val_set = phase.val_loader.dataset if phase.val_loader else None
    lines = []
    chance = Task.of(task).chance
    if figures and chance and val_set and isinstance(val_set.targets, Counted):
        reason = chance(figures, val_set.class_counts())
        if reason:
            lines.append(f"val {reason}; try {gentler}, more images or epochs, and foveal check for wrong labels")
    losses = [record["train"].get("loss", math.nan) for record in epochs]
    if len(losses) > 1 and losses[-1] - losses[0] > (RISEN - 1) * abs(losses[0]):
        lines.append(
            f"the training loss rose from {losses[0]:.4g} in epoch 1 to {losses[-1]:.4g} in epoch {len(losses)}; "
            f"try {gentler}"
        )
    if frozen is not None and figures and figures["accuracy"] < frozen:
        lines.append(
            f"val accuracy {figures['accuracy']:.3f} is below the {frozen:.3f} that nearest neighbours have on the "
            f"features of the starting weights; try {gentler}, fewer trained layers (freeze), or knn on these features"
        )
    return lines
