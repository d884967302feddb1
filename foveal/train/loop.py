"""Training: one loop for every system."""

import itertools
import math
import time
from typing import Any

import numpy as np
import torch

from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.system import System
from foveal.train.augment import BatchAugment
from foveal.train.config import TrainConfig, resolve
from foveal.train.depth import frozen, learning
from foveal.train.distributed import joined
from foveal.train.evaluate import evaluation_loader, measure
from foveal.train.fitting import Passes
from foveal.train.memory import explain_failure
from foveal.train.optim import schedule
from foveal.train.plan import Plan
from foveal.train.prepare import check_processes, find_device, training_loader, training_splits
from foveal.train.preview import preview
from foveal.train.run import Run
from foveal.train.screen import Meter, Screen
from foveal.train.state import State
from foveal.train.step import NonFinite, step
from foveal.train.stopping import StopRequests, stop_requests
from foveal.train.track import tracker


def train(system: System, dataset: Dataset, config: TrainConfig | None = None) -> Run:
    """Train a system on the train split, choose the best epoch by the val split, leave a run directory.

    A system with its own `fit` learns by that, in one epoch; the others by the gradient of their `loss`.
    On return the system has its best weights. Ctrl-C ends the step, saves the state and raises Interrupted.

    Under torchrun the processes share each batch, whose size stays that of all of them, and the first one writes.

    Raises InputError for data or settings that do not fit, before the first step.
    """
    name, fits = system.name or type(system).__name__, system.can("fit")
    config, origins = resolve(config or TrainConfig(), system.spec.recipe, name, fits=fits)
    train_set, val_set = training_splits(system, dataset, config)
    with joined() as ranks, frozen(system, config.freeze):
        check_processes(system, config, ranks)
        config = ranks.speaking(config)
        torch.manual_seed(ranks.seed(config.seed))
        device = ranks.own(find_device(config.device))
        loader = training_loader(system, train_set, config, ranks)
        val_loader = evaluation_loader(system, val_set, config.batch_size, config.workers, ranks) if val_set else None
        augment = BatchAugment(config, train_set)
        steps = math.ceil(len(loader) / config.accumulate)
        state = State(system, config, schedule(config, steps), ranks, device)
        run = Run.open(system, dataset, config, origins, ranks, device)
        learn = fit if fits else descend

        tracking = tracker(config.track, run.directory)
        with Screen(config) as screen, run.recorded(), tracking as track, stop_requests() as stop:
            if resumed := config.resume and run.restore(state):
                done = state.progress
                screen.say(f"going on in {run.directory} after epoch {done.epoch}, step {done.step}")
            else:
                for line in preview(state, loader, augment, val_loader):
                    screen.say(line)
            run.begin(resume=config.resume)
            if not resumed:
                run.save_last(state)
            while state.progress.epoch < config.epochs and not state.progress.stale(config.patience):
                meter = Meter(loader)
                learn(state, loader, augment, run, screen, meter, stop)
                record: dict[str, Any] = {"event": "epoch", "train": state.progress.means()}
                record |= {"lr": state.learning_rate(), **meter.read()}
                with state.averaged(), state.plan.evaluating():
                    figures = measure(state.system, val_loader, state.parallel) if val_loader else None
                    record["val"] = figures.values if figures else {}
                    record["best"] = state.progress.close_epoch(figures.rank if figures else ())
                    if record["best"]:
                        run.save_best(state, record["val"])
                record |= {"epoch": state.progress.epoch, "step": state.progress.step}
                run.log(record)
                run.note_unreadable(loader, val_loader)
                run.save_last(state)
                track(record)
                screen.epoch(record)
                if ranks.any(stop.requested)[0] and state.progress.epoch < config.epochs:
                    raise run.interrupt()
            Plan().apply(system)
            run.finish()
    return run


def descend(
    state: State, loader: Loader, augment: BatchAugment, run: Run, screen: Screen, meter: Meter, stop: StopRequests
) -> None:
    """The rest of the epoch under way, by the gradient of the system's loss."""
    system, config, progress = state.system, state.config, state.progress
    learning(system)
    batches, saved = loader.epoch(progress.epoch, progress.batch), time.monotonic()
    while group := list(itertools.islice(batches, config.accumulate)):
        state.keep_statistics()
        rng = np.random.default_rng([state.ranks.seed(config.seed), progress.epoch, progress.batch])
        try:
            terms = step(state, [augment(state.plan.batch(batch, system.device), rng) for batch in group])
        except NonFinite as error:
            run.dump(error, state, group, loader.dataset)  # raises unless the settings say to go on
            terms = None
        except Exception as error:
            raise explain_failure(error, state, group) from error
        progress.add(terms, len(group))
        meter.images += loader.batch_size * len(group)
        screen.step(progress, meter)
        due = time.monotonic() - saved > 60 * config.save_minutes
        stopping, saving = state.ranks.any(stop.requested, due)
        if stopping or saving:
            run.save_last(state)
            saved = time.monotonic()
        if stopping:
            raise run.interrupt()


def fit(
    state: State, loader: Loader, augment: BatchAugment, run: Run, screen: Screen, meter: Meter, stop: StopRequests
) -> None:
    """The whole of learning, by the system's own rule; what was saved before it is what a resumption begins with."""
    if stop.requested:
        raise run.interrupt()
    stop.at_once = run.interrupt
    try:
        state.system.fit(Passes(loader, screen, meter))
    finally:
        stop.at_once = None
