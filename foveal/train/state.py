"""All that a training run is at one moment: what `last.safetensors` holds and what a resumption brings back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.nn.frozen import frozen_modules
from foveal.schema import Between, Count, check
from foveal.system import System
from foveal.train.captured import SCHEDULE, check_tree, fitting_optimizer_state, saved_players
from foveal.train.checkpoint import flatten, unflatten
from foveal.train.config import TrainConfig
from foveal.train.distributed import ALONE, Ranks
from foveal.train.optim import build_optimizer
from foveal.train.parallel import spread
from foveal.train.plan import Plan

PHASES = ("train", "refit")  # in the order in which a run goes through them


@dataclass
class Progress:
    """Where a run stands: plain numbers, stored as JSON.

    phase:        one of PHASES.
    epochs:       how many epochs the phase has.
    epoch, batch: the epoch of it under way and how many of its batches are done.
    step:         optimizer steps done in the phase.
    totals:       sums of each loss term over the steps of the epoch under way, and their number as "steps".
    counts:       in how many of these steps each term was; players may rest, and losses leave terms out.
    skipped:      steps left out because their loss was not finite.
    best, best_epoch: the highest rank so far; None before the first evaluation.
    kept:         rank and number of the best epochs, best first.
    """

    phase: str = "train"
    epochs: Count = 0
    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Annotated[int, Between(1)]] = field(default_factory=dict)
    skipped: Count = 0
    best: list[float] | None = None
    best_epoch: Count = 0
    kept: list[tuple[list[float], Count]] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The phase and its last whole epoch, in words."""
        return f"epoch {self.epoch}" if self.phase == "train" else f"{self.phase} epoch {self.epoch}"

    def add(self, terms: Mapping[str, float] | None, batches: int) -> None:
        """One step more, over so many batches; without terms it was left out."""
        for name in terms or ():  # a run that was saved before there were counts had each term in every step
            before = self.totals["steps"] if name in self.totals else 0
            self.counts[name] = self.counts.get(name, int(before)) + 1
        for name, value in (*terms.items(), ("steps", 1)) if terms else ():
            self.totals[name] = self.totals.get(name, 0) + value
        self.skipped += terms is None
        self.batch += batches
        self.step += 1

    def means(self) -> dict[str, float]:
        """Each loss term, mean over those steps of the epoch under way that it was in."""
        steps = self.totals.get("steps", 0)
        return {n: total / self.counts.get(n, steps) for n, total in self.totals.items() if n != "steps"}

    def close_epoch(self, rank: Sequence[float]) -> bool:
        """Count the epoch as done; whether it is the best so far: of the highest rank, without ranks the latest."""
        self.epoch, self.batch, self.totals, self.counts = self.epoch + 1, 0, {}, {}
        if rank and self.best is not None and list(rank) <= self.best:
            return False
        self.best, self.best_epoch = list(rank), self.epoch
        return True

    def keep(self, rank: Sequence[float], count: int) -> bool:
        """Whether the epoch closed last is one of so many best, which are `kept`; the earlier of equal ones."""
        self.kept = [*self.kept, (list(rank), self.epoch)]
        self.kept.sort(key=lambda kept: (kept[0], -kept[1] if rank else kept[1]), reverse=True)
        del self.kept[count:]
        return self.epoch in [number for _, number in self.kept]

    def over(self, patience: int | None) -> bool:
        """Whether the phase has all its epochs, or as many as `patience` have passed without a better one."""
        return self.epoch >= self.epochs or (patience is not None and self.epoch - self.best_epoch >= patience)


def check_progress(captured: Any, epochs: int, phases: Mapping[str, tuple[int, int]]) -> Progress:
    """The progress in the JSON part of `State.capture`, read from a file.

    epochs: those of the run. phases: batches and steps in an epoch of each phase, by its name.

    Raises InputError where it has other types, or is no place in such a run.
    """
    if not isinstance(captured, dict) or not isinstance(captured.get("progress"), dict) or "tree" not in captured:
        raise InputError("it has no training state")
    saved = captured["progress"]
    check(saved, Progress, "progress")
    if unknown := sorted(saved.keys() - {field.name for field in fields(Progress)}):
        raise InputError(f"progress has no {unknown[0]!r}")
    progress = Progress(**{"epochs": epochs, **saved})
    if progress.phase not in phases:
        raise InputError(f"progress.phase is {progress.phase!r}; the phases of this run are {', '.join(phases)}")
    batches, steps = phases[progress.phase]
    refit = progress.phase != next(iter(phases))
    limits = {
        "epochs": (1 if refit else epochs, epochs),
        "epoch": (0, progress.epochs),
        "batch": (0, batches),
        "step": (0, progress.epochs * steps),
        "best_epoch": (min(1, progress.epoch), progress.epoch),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(progress, name) <= high:
            raise InputError(f"progress.{name} has to be from {low} to {high}, not {getattr(progress, name)}")
    if progress.totals and not progress.totals.get("steps", 0) > 0:
        raise InputError("progress.totals.steps has to be above 0")
    return progress


class State:
    """A system with its optimizers, loss scale, averaged weights, plan and progress.

    parallel: how the system lies on the processes.
    system:   what is trained; where it is sharded, a copy of the one given.
    """

    def __init__(
        self,
        system: System,
        config: TrainConfig,
        schedule: Callable[[int], float],
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
    ) -> None:
        self.ranks, self.parallel = ranks, spread(system, ranks, device, config.shard)
        self.system, self.config = self.parallel.system, config
        self.plan, self.players = Plan.of(config), self.system.players
        self.statistics: list[Tensor] = []
        self.begin(schedule, Progress())

    def begin(self, schedule: Callable[[int], float], progress: Progress) -> None:
        """Stand before the first step, with the weights that the system has."""
        self.progress, self.schedule = progress, schedule
        self._build_optimizers()
        self.scaler = torch.amp.GradScaler(self.system.device.type, enabled=self.plan.precision == "float16")
        self.average: dict[str, Tensor] | None = None
        if self.config.ema is not None:
            self.average = {name: value.detach().clone() for name, value in _floats(self.system)}

    def _build_optimizers(self) -> None:
        self.optimizers = {name: build_optimizer(player, self.config) for name, player in self.players.items()}
        schedules = [(n, torch.optim.lr_scheduler.LambdaLR(o, self.schedule)) for n, o in self.optimizers.items()]
        self.schedules = dict(schedules)

    def follow(self, plan: Plan) -> None:
        """Run the steps from now on by this plan."""
        self.plan = plan
        self.parallel.follow(plan)

    def keep_statistics(self) -> None:
        """Remember the buffers, such as running means, which a forward pass changes before its loss is known."""
        if self.config.nonfinite != "stop":
            self.statistics = [buffer.clone() for buffer in self.system.buffers()]

    def restore_statistics(self) -> None:
        """The buffers as they were remembered."""
        for buffer, kept in zip(self.system.buffers(), self.statistics, strict=True):
            buffer.copy_(kept)

    def learning_rate(self) -> float | None:
        """Of the last step, in the layer that learns fastest; None where nothing is optimised."""
        rates = [group["initial_lr"] for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        return max(rates) * self.schedule(max(0, self.progress.step - 1)) if rates else None

    def update_average(self) -> None:
        """average <- decay * average + (1 - decay) * weights, for parameters and running statistics.

        After n steps the decay is min(ema, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: in short
        runs the average would else be mostly the random weights that it began with.
        """
        if self.average is not None and self.config.ema is not None:
            values = self.parallel.local([value.detach() for _, value in _floats(self.system)])
            decay = min(self.config.ema, (1 + self.progress.step) / (10 + self.progress.step))
            torch._foreach_lerp_(self.parallel.local(list(self.average.values())), values, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the system has its averaged weights, where the run keeps an average."""
        if self.average is None:
            yield
            return
        own = {name: value.detach().clone() for name, value in _floats(self.system)}
        _assign(self.system, self.average)
        try:
            yield
        finally:
            _assign(self.system, own)

    def capture(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(JSON, tensors) of the whole training state but for the weights; tensors are not copied."""
        tensors: dict[str, Tensor] = {}
        device = self.system.device
        random = self.ranks.gather(
            {
                "cpu": torch.get_rng_state(),
                "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            }
        )
        tree = {
            "plan": vars(self.plan).copy(),
            "players": {name: player.settings() for name, player in self.players.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "random": random[0],
            "random of the others": random[1:],
        }
        return {"progress": vars(self.progress).copy(), "tree": flatten(tree, "state", tensors)}, tensors

    def restore(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restore the result of `capture`; weights are restored apart from it.

        Raises InputError where it is not the state of such a system and configuration.
        """
        self.progress = replace(self.progress, **record["progress"])
        try:
            tree = unflatten(record["tree"], tensors)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"the training state is no nest of lists and tensors: {error!r}") from None
        players = saved_players(tree, self.players)
        if players != self.players:  # a run goes on with the settings that it began with
            self.players = players
            self._build_optimizers()
        check_tree(tree, self)
        self.follow(Plan(**tree["plan"]))
        for name, optimizer in self.optimizers.items():
            saved = fitting_optimizer_state(tree["optimizers"][name], optimizer, self.config)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, kept in saved["state"].items():
                for key, value in kept.items():
                    if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                        kept[key] = self.parallel.like(value, parameters[number])
            optimizer.load_state_dict(saved)
            moved = {key: tree["schedules"][name][key] for key in SCHEDULE}
            self.schedules[name].load_state_dict(self.schedules[name].state_dict() | moved)
        self.scaler.load_state_dict(tree["scaler"])
        if self.average is not None:
            self.average = {name: self.parallel.like(tree["average"][name], v) for name, v in self.average.items()}
        own = [tree["random"], *tree.get("random of the others", [])][self.ranks.rank]
        try:
            torch.set_rng_state(own["cpu"])
        except RuntimeError as error:
            raise InputError(f"the state of the random numbers: {error}") from None
        if own["device"] is not None and self.system.device.type == "cuda":
            torch.cuda.set_rng_state(own["device"], self.system.device)


def _floats(system: System) -> list[tuple[str, Tensor]]:
    """Parameters and buffers that training may change."""
    frozen = {f"{place}.{name}" for place, part in frozen_modules(system) for name in part.state_dict()}
    values = system.state_dict(keep_vars=True).items()
    return [(name, value) for name, value in values if value.is_floating_point() and name not in frozen]


def _assign(system: System, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _floats(system):
            value.copy_(values[name])
