"""What a run will cost, measured before its first step."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from foveal.data.loader import Loader
from foveal.structures import Batch
from foveal.train.augment import BatchAugment
from foveal.train.memory import training_bytes
from foveal.train.screen import duration
from foveal.train.state import State
from foveal.train.step import step

TIMED_STEPS = 3


def preview(state: State, loader: Loader, augment: BatchAugment, val_loader: Loader | None) -> list[str]:
    """Lines that say parameters, peak memory, step time and time of the whole run. The state stays as it was."""
    system, config = state.system, state.config
    parameters = sum(parameter.numel() for parameter in system.parameters())
    val_images = len(val_loader.dataset) if val_loader else 0
    line = f"{system.name or type(system).__name__}: {parameters:,} parameters, {len(system.labels)} classes"
    lines = [f"{line}, {len(loader.dataset):,} training and {val_images:,} validation images"]
    first = next(loader.epoch(), None)
    if not state.optimizers or first is None:
        return lines
    batch = augment(first.to(system.device).float(), np.random.default_rng(config.seed))
    seconds, moments = measure_step(state, [batch] * config.accumulate)
    memory = training_bytes(system, batch, moments=moments, ema=config.ema is not None)["total"]
    # An image that is only looked at takes about a third of the time of one that is learned from.
    per_image = seconds / (len(batch) * config.accumulate)
    whole = config.epochs * per_image * (len(loader) * len(batch) + val_images / 3)
    lines.append(
        f"estimated peak memory {memory / 2**20:,.0f} MiB, {1000 * seconds:.3g} ms a step, "
        f"{duration(whole)} for {config.epochs} epochs if the images come as fast"
    )
    return lines


def measure_step(state: State, batches: Sequence[Batch]) -> tuple[float, int]:
    """(seconds of one step, tensors that the optimizer keeps for each parameter), from steps that are then undone."""
    system = state.system.train()
    weights = {name: value.detach().clone() for name, value in system.state_dict().items()}
    record, tensors = state.capture()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    times = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        step(state, batches)
        if system.device.type == "cuda":
            torch.cuda.synchronize(system.device)
        times.append(time.perf_counter() - started)
    kept = sum(t.numel() for o in state.optimizers.values() for t in _tensors(o.state_dict()["state"]))
    parameters = sum(parameter.numel() for parameter in system.parameters() if parameter.requires_grad)
    system.zero_grad()
    system.load_state_dict(weights)
    state.restore(record, tensors)
    return min(times), round(kept / parameters)


def _tensors(tree: object) -> list[torch.Tensor]:
    if isinstance(tree, dict):
        return [tensor for value in tree.values() for tensor in _tensors(value)]
    if isinstance(tree, list):
        return [tensor for value in tree for tensor in _tensors(value)]
    return [tree] if isinstance(tree, torch.Tensor) else []
