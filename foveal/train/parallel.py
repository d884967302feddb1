"""How a system lies on the processes: whole in the only one, a replica in each (DDP), or in shards (FSDP2).

Both of torch's ways hang on the forward of a module, and gradients are met on the way back from it. What is asked of a
system has other names, such as `loss`; so `Call` is a module whose forward is a call of any function.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import System
from foveal.train import checkpoint
from foveal.train.depth import units
from foveal.train.distributed import ALONE, Ranks
from foveal.train.plan import Plan


class Call(nn.Module):
    """A module whose forward calls a function. parameters: an nn.Module that has those that are in play."""

    def __init__(self, parameters: nn.Module) -> None:
        super().__init__()
        self.of = parameters

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class Whole:
    """A system in one process. The classes below do the same for several.

    pieces: in how many each parameter lies.
    """

    def __init__(self, system: System, ranks: Ranks = ALONE, pieces: int = 1) -> None:
        self.system, self.ranks, self.pieces = system, ranks, pieces

    def follow(self, plan: Plan) -> None:
        """Run the steps from now on by this plan."""
        plan.apply(self.system)

    def loss(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """The terms of a player's loss on this process's share of a batch; its gradient is that of the whole batch."""
        return self.system.loss(batch, player)

    def gathering(self, player: str, last: bool) -> AbstractContextManager[Any]:
        """The context of a forward and backward pass, the last of those whose gradients are added up or not."""
        return nullcontext()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's value; whatever it asks of the system will work."""
        return function(*arguments)

    def load(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Full weights into the system. Raises InputError where they do not fit."""
        checkpoint.restore(self.system, weights, path)

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A full tensor as one that lies as a parameter of this shape does."""
        return torch.empty_like(parameter).copy_(value)

    def full(self, value: Tensor) -> Tensor:
        """A tensor that may lie in shards as a whole."""
        return value

    def collect(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Full tensors, to be written by the first process."""
        return tensors

    def local(self, tensors: list[Tensor]) -> list[Tensor]:
        """The part of each tensor that lies here."""
        return tensors


class Replicated(Whole):
    """A replica in each process, gradients averaged by DistributedDataParallel: one for each player, of its parameters.

    A part that takes no part in some batch is looked for in each step. It costs a walk through the graph, but a system
    may do so at any time; and buckets stay as they are, so that a resumed run adds in the same order.
    """

    def __init__(self, system: System, ranks: Ranks) -> None:
        super().__init__(system, ranks)
        ranks.agree(system)
        self._players: dict[str, DistributedDataParallel] = {}

    def follow(self, plan: Plan) -> None:
        super().follow(plan)
        self._players.clear()  # buckets are laid out like the parameters

    def loss(self, batch: Batch, player: str) -> dict[str, Tensor]:
        return self._player(player)(self.system.loss, batch, player)

    def gathering(self, player: str, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._player(player).no_sync()

    def _player(self, name: str) -> DistributedDataParallel:
        if name not in self._players:
            # A list of parameters has no buffers, which torch would send around before each forward pass. The last one
            # takes part in nothing: where all do, torch warns that it looks in vain.
            parameters = [*self.system.players[name].parameters(), nn.Parameter(torch.zeros(1).to(self.system.device))]
            self._players[name] = DistributedDataParallel(
                Call(nn.ParameterList(parameters)), find_unused_parameters=True
            )
        return self._players[name]


class Sharded(Whole):
    """Weights, gradients and optimizer state split over the processes by fully_shard, one unit at a time in one piece.

    The units are those of depth.py, the blocks of a network; what is left is one more. The system that was given stays
    as it is, where it is; `system` is a copy.
    """

    def __init__(self, system: System, ranks: Ranks, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        ranks.agree(system)
        super().__init__(copy.deepcopy(system), ranks, ranks.size)
        self._root = Call(self.system)
        mesh = init_device_mesh(device.type, (ranks.size,))
        try:
            for unit in units(self.system):
                fully_shard(unit, mesh=mesh)
            fully_shard(self._root, mesh=mesh, reshard_after_forward=True)
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"{system.name or type(system).__name__} cannot be sharded: {error}") from None

    def follow(self, plan: Plan) -> None:
        pass  # eager and contiguous, as config.py sees to; the precision is that of `autocast`

    def loss(self, batch: Batch, player: str) -> dict[str, Tensor]:
        return self._root(self.system.loss, batch, player)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._root(function, *arguments)

    def load(self, weights: Mapping[str, Tensor], path: Path) -> None:
        own = self.system.state_dict()
        super().load({name: self.like(v, own[name]) if name in own else v for name, v in weights.items()}, path)

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(value, DTensor):
            return value
        if not isinstance(parameter, DTensor):
            return super().like(value, parameter)
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    def full(self, value: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return value.full_tensor() if isinstance(value, DTensor) else value

    def collect(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():  # one whole tensor at a time on a device
            whole = self.full(tensor.detach())
            if self.ranks.first:
                found[name] = whole.cpu()
        return found

    def local(self, tensors: list[Tensor]) -> list[Tensor]:
        from torch.distributed.tensor import DTensor

        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def spread(system: System, ranks: Ranks, device: torch.device | None, shard: bool) -> Whole:
    """The system on its device, or over those of all processes."""
    if shard and device is not None:
        return Sharded(system, ranks, device)
    if device is not None:
        system.to(device)
    return Replicated(system, ranks) if ranks.size > 1 else Whole(system, ranks)
