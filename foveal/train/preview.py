"""What a run will cost, measured before its first step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from foveal.data.dataset import Counted, Dataset
from foveal.data.splits import absent_notes
from foveal.structures import Batch
from foveal.system import wait
from foveal.task import Task
from foveal.train.depth import learning
from foveal.train.memory import OPTIMIZER_TENSORS, explain_failure, training_bytes
from foveal.train.plan import Plan, choose
from foveal.train.prepare import Phase
from foveal.train.state import State
from foveal.train.step import NonFinite, step
from foveal.wording import counted, duration

TIMED_STEPS = 3


def preview(state: State, phases: Sequence[Phase]) -> list[str]:
    """Lines that say parameters, peak memory, step time and time of the whole run. The state stays as it was."""
    system, config = state.system, state.config
    loader, augment, val_loader = phases[0].loader, phases[0].augment, phases[0].val_loader
    parameters = sum(parameter.numel() for parameter in system.parameters())
    val_images = len(val_loader.dataset) if val_loader else 0
    line = f"{system.name or type(system).__name__}: {parameters:,} parameters"
    line += f", {counted(len(system.labels), 'class', 'classes')}" if system.labels else ""
    lines = [f"{line}, {len(loader.dataset):,} training and {counted(val_images, 'validation image')}"]
    if left := loader.unused:
        lines.append(
            f"an epoch has {counted(len(loader), 'whole batch', 'whole batches')}; "
            f"{counted(left, 'image')} of the last one are left out, others each time"
        )
    lines += _absent(loader.dataset)
    if augment.teacher:
        way = config.distill if config.distill == "hard" else f"{config.distill}, temperature {config.temperature:g}"
        lines.append(f"taught by {augment.teacher.said} ({way}), with {config.distill_weight:g} of the loss")
    if system.started_from:
        lines.append(f"from the weights of {system.started_from}")
    first = next(loader.epoch(), None)
    if not state.optimizers or first is None:
        return lines

    def measure(plan: Plan) -> float:
        state.follow(plan)
        rng = np.random.default_rng(config.seed)
        batch = augment(plan.batch(first, system.device), rng)
        seconds = measure_step(state, [batch] * config.accumulate)
        if augment.teacher:  # who is asked anew for each batch
            seconds += config.accumulate * timed(partial(augment.teacher, batch, rng), system.device)
        return state.ranks.once(lambda: seconds)  # all processes choose by the same times

    steps = config.epochs * sum(phase.steps for phase in phases)
    try:
        plan, times = choose(config, measure, steps)
    except NonFinite:  # the run will meet it again, and say where
        return lines
    except Exception as error:
        raise explain_failure(error, state, [first] * config.accumulate) from error
    state.follow(plan)
    if len(times) > 1:
        measured = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items())
        lines.append(f"plan: {plan}, the fastest of {measured} a step")
    batch, seconds = first.to(system.device).float(), times[str(plan)]
    kept = OPTIMIZER_TENSORS[config.optimizer]
    line = f"{duration(seconds)} a step"
    if not config.shard:  # what lies in shards cannot be copied, as the estimate does
        with plan.evaluating(), plan.autocast(system.device):
            memory = training_bytes(system, batch, moments=kept, ema=config.ema is not None)["total"]
        line = f"estimated peak memory {memory / 2**20:,.0f} MiB, {line}"
    # An image that is only looked at takes about a third of the time of one that is learned from.
    per_image = seconds / (loader.batch_size * config.accumulate)
    epochs = [per_image * len(phase.loader) * phase.loader.batch_size for phase in phases]
    validation = per_image * val_images / 3
    whole = config.epochs * (sum(epochs) + validation) + (validation if config.report else 0)
    again = " and as many of the refit" if len(phases) > 1 else ""
    others = " and ".join(["validation"] * bool(val_images) + ["report"] * config.report)
    also = f", {others} included," if others else ""
    lines.append(
        f"{line}, {duration(whole)} for {counted(config.epochs, 'epoch')}{again}{also} if the images come as fast"
    )
    return lines


def _absent(view: Dataset) -> list[str]:
    """Which classes a split lacks, of the data that a view shows a part of."""
    whole = replace(view, split=None, items=None)
    if not isinstance(view.targets, Counted):
        return []
    counts = {split: whole.select(split).class_counts() for split in whole.split_counts()}
    return absent_notes(counts, Task.of(view).noun, 5)


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a function takes, with what it leaves for the device to do."""
    started = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - started


def measure_step(state: State, batches: Sequence[Batch]) -> float:
    """Seconds of one step, from a few that are then undone."""
    system = state.system
    learning(system, state.config.norm_statistics == "keep")
    weights = {name: value.detach().clone() for name, value in system.state_dict().items()}
    record, tensors = state.capture()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    times = []
    try:
        for _ in range(TIMED_STEPS + 1):  # the first one warms up
            times.append(timed(partial(step, state, batches), system.device))
    finally:
        system.zero_grad()
        system.load_state_dict(weights)
        state.restore(record, tensors)
    return min(times[1:])
