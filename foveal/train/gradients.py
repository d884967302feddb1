"""Is the analytic gradient right? Compare it with differences of the loss."""

import copy
from dataclasses import replace

import torch

from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import System


def check_gradients(
    system: System, batch: Batch, *, player: str | None = None, entries: int = 8, step: float = 1e-6, seed: int = 0
) -> dict[str, float]:
    """For each parameter, how far backpropagation is from numeric differentiation of the loss on one batch.

    Both derivatives are taken along `entries` random single weights of the parameter, in float64, in evaluation mode:
        numeric (L(w + h) - L(w - h)) / 2h, h = step * max(1, |w|)
    What the loss draws at random is drawn alike each time. The figure is |analytic - numeric| / max(|analytic|,
    |numeric|) over these entries taken as vectors: below 1e-5 where the gradient is right, near 1 where it is not. A
    kink of a ReLU or a maximum within h can show as an error.

    Raises InputError where a parameter gets no gradient at all.
    """
    system = copy.deepcopy(system).double().eval()
    batch = replace(batch, images=batch.float().images.double())
    draw = torch.Generator().manual_seed(seed)

    def loss() -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return torch.stack(list(system.loss(batch.to(system.device), player).values())).sum()

    module = system if player is None else system.players[player]
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    errors = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            raise InputError(f"parameter {name} has no influence on the loss")
        chosen = torch.randperm(parameter.numel(), generator=draw)[:entries].tolist()
        flat, numeric = parameter.detach().view(-1), []
        with torch.no_grad():
            for entry in chosen:
                value = float(flat[entry])
                width = step * max(1.0, abs(value))
                flat[entry] = value + width
                above = float(loss())
                flat[entry] = value - width
                numeric.append((above - float(loss())) / (2 * width))
                flat[entry] = value
        analytic = gradient.reshape(-1)[chosen].cpu()
        difference = (analytic - torch.tensor(numeric, dtype=torch.float64)).norm()
        scale = max(float(analytic.norm()), float(torch.tensor(numeric).norm()))
        errors[name] = float(difference) / scale if scale > 1e-9 else 0.0
    return errors
