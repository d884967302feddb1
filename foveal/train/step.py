"""One step of training: forward, loss, gradient, update, for each player in turn."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.structures import Batch
from foveal.train.optim import penalty
from foveal.train.state import State


class NonFinite(InputError):
    """A loss or a gradient is infinite or not a number. The weights are still those before the step."""


def step(state: State, batches: Sequence[Batch]) -> dict[str, float]:
    """Update each player once, by the mean gradient over the batches; the terms of its loss, and their sum as "loss".

    With several players a term carries the player's name. Raises NonFinite.
    """
    means: dict[str, float] = {}
    for name, optimizer in state.optimizers.items():
        # Every optimizer takes a closure; L-BFGS calls it more than once.
        optimizer.step(partial(gradient, state, name, batches, means))  # type: ignore[arg-type]
        state.schedules[name].step()
        if state.scaler.is_enabled():
            state.scaler.update()
    state.update_average()
    return means


def gradient(state: State, name: str, batches: Sequence[Batch], means: dict[str, float]) -> Tensor:
    """Leave the mean gradient of a player's loss in its parameters, note the terms in `means`; the loss."""
    system, config, player = state.system, state.config, state.system.players[name]
    system.zero_grad()
    sums: dict[str, Tensor] = {}
    for batch in batches:
        with state.plan.autocast(system.device):
            terms = {**system.loss(batch, name), **penalty(player, config)}
        total = torch.stack([term.float() for term in terms.values()]).sum()
        state.scaler.scale(total / len(batches)).backward()
        for term, value in (*terms.items(), ("loss", total)):
            sums[term] = sums.get(term, 0) + value.detach() / len(batches)
    prefix = f"{name}_" if len(state.optimizers) > 1 else ""
    means.update({prefix + term: float(value) for term, value in sums.items()})
    if not torch.isfinite(sums["loss"]):
        raise NonFinite(f"the loss of the {name} is {float(sums['loss'])}")
    if config.clip or state.scaler.is_enabled():
        state.scaler.unscale_(state.optimizers[name])
        norm = torch.nn.utils.clip_grad_norm_(player.parameters(), config.clip or float("inf"))
        if not torch.isfinite(norm):
            if not state.scaler.is_enabled():
                raise NonFinite(f"the gradient of the {name} is not finite")
            system.zero_grad()  # the loss scale was too high; without gradients the optimizer does nothing
    return sums["loss"]
