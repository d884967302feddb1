"""Training: one loop for every system."""

import time
from itertools import dropwhile, islice
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
from foveal.train.evaluate import measure
from foveal.train.fitting import Passes
from foveal.train.memory import check_memory, explain_failure
from foveal.train.optim import schedule
from foveal.train.outcome import frozen_accuracy, warnings
from foveal.train.plan import Plan
from foveal.train.prepare import (
    Phase,
    check_norms,
    check_processes,
    find_device,
    fine_tuning,
    start_of,
    training_phases,
)
from foveal.train.preview import preview
from foveal.train.run import Run
from foveal.train.screen import Meter, Screen
from foveal.train.state import Progress, State
from foveal.train.step import NonFinite, step
from foveal.train.stopping import StopRequests, stop_requests
from foveal.train.teacher import find_teacher
from foveal.train.track import tracker
from foveal.wording import counted


def train(system: System, dataset: Dataset, config: TrainConfig | None = None) -> Run:
    """All that `foveal.train` does, and tells of itself, but for the report (report/training.py)."""
    name, fits = system.name or type(system).__name__, system.can("fit")
    config = config or TrainConfig()
    start = start_of(system, config)
    tuning = fine_tuning(system, dataset, start)
    config, origins = resolve(config, system.spec.recipe, name, fits=fits, tuning=tuning)
    with joined() as ranks, frozen(system, config.freeze):
        check_processes(system, config, ranks)
        check_norms(system, origins["norm_statistics"])
        config = ranks.speaking(config)
        device = ranks.own(find_device(config.device))
        teacher = find_teacher(config, system, device)
        phases = training_phases(system, dataset, config, teacher, ranks)
        run = Run.open(system, dataset, config, origins, ranks, device, teacher)
        run.record["start"] = start
        learn = fit if fits else descend

        tracking = tracker(config.track, run.directory)
        with Screen(config) as screen, run.recorded(), tracking as track, stop_requests() as stop:
            saved = run.saved(phases) if config.resume else None
            progress = saved or Progress(epochs=config.epochs)
            left = [*dropwhile(lambda phase: phase.name != progress.phase, phases)]
            torch.manual_seed(ranks.seed(config.seed))
            state = State(system, config, schedule(config, left[0].steps, progress.epochs), ranks, device)
            state.progress = progress
            for line in check_memory(state, left[0].loader):
                screen.say(line)
            if saved:
                run.restore(state)
                screen.say(f"going on in {run.directory} after {saved.said}, step {saved.step}")
            else:
                for line in preview(state, phases):
                    screen.say(line)
                before = frozen_accuracy(state, phases[0]) if tuning else None
                run.record["frozen_accuracy"] = before
                if before is not None:
                    screen.say(f"val accuracy {before:.4g} of nearest neighbours on the features of these weights")
            run.begin(resume=config.resume)
            if not saved:
                run.save_start(state, phases)
                run.save_last(state)
            for phase in left:
                screen.begin(phase.val_loader)
                if phase.name != state.progress.phase:
                    screen.say(
                        f"{phase.name}: train and val together, {counted(state.progress.best_epoch, 'epoch')}, anew"
                    )
                    begin_again(state, phase, run)
                while not state.progress.over(config.patience):
                    if ranks.any(stop.requested)[0]:
                        raise run.interrupt()
                    meter = Meter(phase.loader)
                    learn(state, phase.loader, phase.augment, run, screen, meter, stop)
                    record: dict[str, Any] = {"event": "epoch", "phase": phase.name, "train": state.progress.means()}
                    record |= {"lr": state.learning_rate(), **meter.read()}
                    with state.averaged(), state.plan.evaluating():
                        figures = None
                        if phase.val_loader:
                            figures = measure(state.system, phase.val_loader, state.parallel, bar=screen)
                        record["val"] = figures.values if figures else {}
                        record |= {"few": figures.few} if figures and figures.few else {}
                        rank = figures.rank if figures else ()
                        better = state.progress.close_epoch(rank)
                        record["best"] = better and (phase.chooses or state.progress.over(None))
                        if record["best"]:
                            run.save_best(state, record["val"])
                        if system.can("sample") and phase.chooses:
                            run.save_samples(state)
                        if config.keep > 1 and phase.chooses and state.progress.keep(rank, config.keep):
                            run.save_epoch(state, record["val"])
                    record |= {"epoch": state.progress.epoch, "step": state.progress.step}
                    run.log(record)
                    run.note_unreadable(phase.loader, phase.val_loader)
                    run.save_last(state)
                    run.prune(state)
                    track(record)
                    screen.epoch(record, state.progress)
            Plan().apply(system)
            before = run.record.get("frozen_accuracy")
            run.record["warnings"] = warnings(system.task, config, run.history, phases[0], before)
            run.finish()
    return run


def begin_again(state: State, phase: Phase, run: Run) -> None:
    """Put the state back to where the run began, for another phase of as many epochs as were best in the one before."""
    epochs = state.progress.best_epoch
    run.load_start(state)
    torch.manual_seed(state.ranks.seed(state.config.seed))
    state.begin(schedule(state.config, phase.steps, epochs), Progress(phase.name, epochs, kept=state.progress.kept))
    run.save_last(state)


def descend(
    state: State, loader: Loader, augment: BatchAugment, run: Run, screen: Screen, meter: Meter, stop: StopRequests
) -> None:
    """The rest of the epoch under way, by the gradient of the system's loss."""
    system, config, progress = state.system, state.config, state.progress
    learning(system, config.norm_statistics == "keep")
    batches, saved = loader.epoch(progress.epoch, progress.batch), time.monotonic()
    while group := list(islice(batches, config.accumulate)):
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
