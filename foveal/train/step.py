"""One step of training: forward, loss, gradient, update, for each player in turn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.structures import Batch
from foveal.train.optim import penalty
from foveal.train.state import State


class NonFinite(InputError):
    """A loss or a gradient is infinite or not a number. The weights are still those before the step; where there are
    several players, those who came before the one that the line names have taken it."""


def step(state: State, batches: Sequence[Batch]) -> dict[str, float]:
    """Update each player whose turn it is once, by the mean gradient over the batches; the terms of its loss, and their
    sum as "loss".

    With several players a term carries the player's name. Raises NonFinite.
    """
    means: dict[str, float] = {}
    batches = [replace(batch, step=state.progress.step) for batch in batches]
    for name, optimizer in state.optimizers.items():
        if state.progress.step % state.players[name].every == 0:
            # Every optimizer takes a closure; L-BFGS calls it more than once.
            optimizer.step(partial(gradient, state, name, batches, means))  # type: ignore[arg-type]
            if state.scaler.is_enabled():
                state.scaler.update()
        state.schedules[name].step()
    state.ranks.unite_statistics(state.system)
    state.update_average()
    return means


def gradient(state: State, name: str, batches: Sequence[Batch], means: dict[str, float]) -> Tensor:
    """Leave the mean gradient of a player's loss in its parameters, note the terms in `means`; the loss."""
    system, config, player = state.system, state.config, state.players[name]
    system.zero_grad()
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, 1):
        with state.parallel.gathering(name, last=number == len(batches)):
            with state.plan.autocast(system.device):
                terms = state.parallel.loss(batch, name)
            for term, value in _backward(state, terms, len(batches)).items():
                sums[term] = sums.get(term, 0) + value / len(batches)
    if config.l1 or config.l2:  # of the weights alone, so once; shards have their own, which add up
        penalties = penalty(state.parallel.local([*player.parameters()]), config)
        for term, value in _backward(state, penalties, 1).items():
            sums[term] = sums.get(term, 0) + value * state.parallel.pieces
    loss = sums.pop("loss")
    values = state.ranks.mean([float(value) for value in (*sums.values(), loss)])
    prefix = f"{name}_" if len(state.optimizers) > 1 else ""
    means.update({prefix + term: value for term, value in zip((*sums, "loss"), values, strict=True)})
    if not math.isfinite(values[-1]):
        raise NonFinite(f"the loss of the {name} is {values[-1]}")
    if config.clip or state.scaler.is_enabled():
        state.scaler.unscale_(state.optimizers[name])
        norm = torch.nn.utils.clip_grad_norm_(player.parameters(), config.clip or float("inf"))
        norm = state.parallel.full(norm)
        if not torch.isfinite(norm):
            if not state.scaler.is_enabled():
                raise NonFinite(f"the gradient of the {name} is not finite")
            system.zero_grad()  # the loss scale was too high; without gradients the optimizer does nothing
    return torch.tensor(values[-1])


def _backward(state: State, terms: Mapping[str, Tensor], parts: int) -> dict[str, Tensor]:
    """Add the gradient of one of so many parts of a mean to those of the parameters; the terms, and their sum."""
    total = torch.stack([term.float() for term in terms.values()]).sum()
    state.scaler.scale(total / parts).backward()
    return {name: value.detach() for name, value in (*terms.items(), ("loss", total))}
