"""Several processes that train one system: who they are, and what they tell each other.

`torchrun` starts the same program several times. What the loop asks of `Ranks` is the same text for one process and for
many: one alone has nobody to talk to, and each method gives back what it was given. `Processes` talk over gloo, on the
CPU, whatever the device: no message makes a GPU wait. Gradients and shards of weights go their own ways (parallel.py).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from foveal.errors import InputError
from foveal.train.config import TrainConfig
from foveal.train.stopping import Interrupted

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """The one process there is.

    rank, size: the number of this process and how many there are.
    neighbours: how many of them are on this machine.
    """

    rank: int = 0
    size: int = 1
    neighbours: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which images of each batch are those of this process: as slice(*share)."""
        return self.rank, self.size

    def seed(self, seed: int) -> int:
        """The seed of this process for draws that are not a function of the image: the first has the run's own."""
        return seed if self.first else int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0])

    def speaking(self, config: TrainConfig) -> TrainConfig:
        """The settings for this process: only the first shows and tracks what goes on."""
        return config if self.first else replace(config, quiet=True, track="none")

    def own(self, device: torch.device) -> torch.device:
        """The device that was found, as one that this process may have. Raises InputError where it is another's."""
        return device

    def gather(self, value: Value) -> list[Value]:
        """The value of each process, in the order of their numbers."""
        return [value]

    def once(self, function: Callable[[], Value]) -> Value:
        """What the function returns in the first process, which alone calls it. Its InputError is raised in all."""
        return function()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is up in some process."""
        return flags

    def mean(self, values: list[float]) -> list[float]:
        """For each number its mean over the processes."""
        return values

    def agree(self, system: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first."""

    def unite_statistics(self, system: nn.Module) -> None:
        """Give all processes the mean of the running statistics that each found on its own images."""

    def abreast(self, batches: Iterator[Value]) -> Iterator[tuple[Value, bool]]:
        """Equally many batches in each process, each with whether it counts: one that has no more while others do
        gets copies of theirs."""
        return ((batch, True) for batch in batches)

    def failure(self, error: Exception) -> Exception:
        """The error to end with: that of this process, which the others are told; or theirs, where one has gone."""
        return error


ALONE = Ranks()


@dataclass(frozen=True)
class Processes(Ranks):
    """One of several.

    local:   its number on this machine, which is that of its GPU.
    control: the process group of its messages.
    store:   what outlives a process: where each can say what it died of.
    """

    local: int = 0
    control: Any = None
    store: Any = None

    def own(self, device: torch.device) -> torch.device:
        if device.type == "cuda" and self.local >= torch.cuda.device_count():
            raise InputError(
                f"{self.neighbours} processes on a machine with {torch.cuda.device_count()} GPUs: start as many as "
                "there are GPUs, or set device to cpu"
            )
        if device.type not in ("cpu", "cuda") or device.index not in (None, self.local):
            raise InputError(
                f"the device {device} is one for all processes: set device to cuda or cpu, or leave it out"
            )
        return device

    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def send(self, value: Value, source: int) -> Value:
        """The value that the process `source` has."""
        values = [value]
        distributed.broadcast_object_list(values, distributed.get_global_rank(self.control, source), self.control)
        return values[0]

    def once(self, function: Callable[[], Value]) -> Value:
        outcome: Any = None
        if self.first:
            try:
                outcome = function(), None
            except InputError as error:
                outcome = None, str(error)
        result, failure = self.send(outcome, 0)
        if failure is not None:
            raise InputError(failure)
        return result

    def any(self, *flags: bool) -> tuple[bool, ...]:
        found = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self.control)
        return tuple(found.bool().tolist())

    def mean(self, values: list[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self.control)
        return (sums / self.size).tolist()

    def agree(self, system: nn.Module) -> None:
        for tensor in (*system.parameters(), *system.buffers()):
            value = tensor.detach()
            raw = value.contiguous().view(-1).view(torch.uint8)  # not every backend knows every type
            distributed.broadcast(raw, distributed.get_global_rank(self.control, 0), self._group(raw))
            value.copy_(raw.view(value.dtype).view(value.shape))

    def unite_statistics(self, system: nn.Module) -> None:
        kept = system.state_dict(keep_vars=True).values()  # buffers that are not kept are constants
        statistics = [v for v in kept if v.is_floating_point() and not isinstance(v, nn.Parameter)]
        if statistics:
            # In float64 the mean of equal values is that value.
            row = torch.cat([value.reshape(-1).double() for value in statistics])
            distributed.all_reduce(row, group=self._group(row))
            means = (row / self.size).split([value.numel() for value in statistics])
            for value, mean in zip(statistics, means, strict=True):
                value.copy_(mean.view(value.shape))

    def abreast(self, batches: Iterator[Value]) -> Iterator[tuple[Value, bool]]:
        while True:
            batch = next(batches, None)
            present = self.gather(batch is not None)
            if not any(present):
                return
            copy: Any = batch if all(present) else self.send(batch, present.index(True))
            yield (copy, False) if batch is None else (batch, True)

    def failure(self, error: Exception) -> Exception:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            self.store.set("foveal/failure", str(error) if isinstance(error, InputError) else repr(error))
            return error
        if self.store.check(["foveal/failure"]):
            return InputError(self.store.get("foveal/failure").decode())
        return InputError(f"another process of this run has ended; go on with --resume ({str(error).strip()[:200]})")

    def _group(self, tensor: Tensor) -> Any:
        return self.control if tensor.device.type == "cpu" else None


@contextmanager
def joined(*, quietly: bool = False) -> Iterator[Ranks]:
    """Inside the block the processes that torchrun has started, if it has, are one group, each with its own GPU.

    quietly: for a command, which prints its errors: one that another process has come out with first ends this one
             without a word.

    A process group that the caller has made is used, and left as it is. Raises InputError where the environment is not
    that of torchrun, and where another process has failed.
    """
    made = distributed.is_available() and distributed.is_initialized()
    if not made and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    if not made:
        _make_group()
    rank, size = distributed.get_rank(), distributed.get_world_size()
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    store = distributed.distributed_c10d._get_default_store()
    ranks = Processes(rank, size, neighbours, local, distributed.new_group(backend="gloo"), store)
    ends_well = False
    try:
        yield ranks
        ends_well = True
    except Exception as error:
        failure = ranks.failure(error)
        if quietly and isinstance(failure, InputError) and store.add("foveal/told", 1) > 1:
            raise SystemExit(2) from None
        if failure is error:
            raise
        raise failure from error
    except Interrupted:
        ends_well = True
        if quietly and not ranks.first:
            raise SystemExit(130) from None
        raise
    finally:
        if ends_well and not made:  # else the others may be waiting in the middle of a message
            distributed.destroy_process_group()


def _make_group() -> None:
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise InputError(f"WORLD_SIZE is set, but not {', '.join(sorted(missing))}: torchrun sets them all")
    base, rank, size = next(iter(distributed.rendezvous("env://")))
    # One program can train several times: the n-th group of one process is the n-th of the others.
    store = distributed.PrefixStore(f"foveal/{base.add(f'foveal/groups of {rank}', 1)}", base)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
