"""How a step is run: memory layout, precision of the products, compiled or not. `auto` measures and takes the fastest.

Which way is fastest depends on the network, the size of its maps and the machine, by factors of three in either
direction; so it is measured on the batch that training begins with, never assumed. Plans differ in their last bits:
two runs are equal bit for bit where they have the same plan. A run keeps its plan when it resumes; runs too short for a
choice to matter take the plain one, so that they repeat without a thought.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from foveal.errors import InputError, nearest
from foveal.nn.taps import TapConv2d
from foveal.structures import Batch
from foveal.system import System
from foveal.train.config import TrainConfig

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Shorter runs are not worth measuring for, nor the minute that compiling takes.
WORTH_MEASURING = 600.0  # seconds
# A few percent are within the error of a short measurement, and no reason to leave the plainer way.
WORTH_LEAVING = 0.95  # of its time


@dataclass(frozen=True)
class Plan:
    """One way to run a step.

    channels_last: images, maps and kernels lie in memory with their channels together; then, on small maps, the
                   gradient of kernels is summed up tap by tap (nn/taps.py).
    precision:     of the products: "float32", or autocast to "bfloat16" or "float16"; weights stay float32.
    compile:       torch.compile of each player.
    """

    channels_last: bool = False
    precision: str = "float32"
    compile: bool = False

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """The plan that the settings name; where they leave a choice, its plain side."""
        words = [] if config.plan == "auto" else config.plan.split("+")
        for word in words:
            if word not in ("eager", "channels_last", "compile"):
                raise InputError(
                    f"unknown plan {word!r}{nearest(word, ('auto', 'eager', 'channels_last', 'compile'))}; "
                    "parts are joined by +, as in channels_last+compile"
                )
        if "eager" in words and "compile" in words:
            raise InputError("a plan is eager or compile, not both")
        precision = "float32" if config.precision == "auto" else config.precision
        return cls("channels_last" in words, precision, "compile" in words)

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{layout} {self.precision} {'compile' if self.compile else 'eager'}"

    def apply(self, system: System) -> None:
        """Lay out the parameters and wrap the players; what another plan did before is undone."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        system.to(memory_format=layout)
        by_taps = self.channels_last and not self.compile  # in other layouts their gradients would have to be copied
        for module in system.modules():
            if type(module) in (nn.Conv2d, TapConv2d):
                module.__class__ = TapConv2d if by_taps else nn.Conv2d
        for player in system.players.values():
            player.module._compiled_call_impl = None  # what nn.Module.compile sets
            if self.compile:
                player.module.compile()

    def batch(self, batch: Batch, device: torch.device) -> Batch:
        """A batch from the loader as this plan wants it."""
        batch = batch.to(device).float()
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return replace(batch, images=batch.images.contiguous(memory_format=layout))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass."""
        dtype = DTYPES[self.precision]
        return torch.autocast(device.type, dtype, enabled=dtype is not None)

    def evaluating(self) -> Any:
        """The context of an evaluation: nothing is compiled anew for its batches."""
        return torch.compiler.set_stance("force_eager") if self.compile else nullcontext()


def candidates(config: TrainConfig, *, compiling: bool) -> Iterator[Plan]:
    """The plans that the settings allow, the plainest first."""
    plain = Plan.of(config)
    precisions = ("float32", "bfloat16") if config.precision == "auto" else (plain.precision,)
    free = config.plan == "auto" and not config.shard
    layouts = (False, True) if free else (plain.channels_last,)
    ways = ((True,) if compiling else (False,)) if free else (plain.compile,)
    for precision, layout, way in itertools.product(precisions, layouts, ways):
        yield Plan(layout, precision, way)


def choose(config: TrainConfig, measure: Callable[[Plan], float], steps: int) -> tuple[Plan, dict[str, float]]:
    """The fastest plan that the settings allow, and the seconds of a step with each that was measured.

    measure: runs a few steps with a plan and gives the seconds of one; whatever it raises rules the plan out.
    steps:   of the whole run, which has to be long enough for a choice to pay.
    """
    plain = Plan.of(config)
    times = {plain: measure(plain)}
    if times[plain] * steps < WORTH_MEASURING:
        return plain, {str(plain): times[plain]}
    for plan in candidates(config, compiling=False):
        _try(plan, measure, times)
    best = min(times, key=lambda plan: times[plan])
    if config.plan == "auto" and not config.shard:
        for plan in candidates(config, compiling=True):
            if plan.precision == best.precision:
                _try(plan, measure, times)
        compiled = min(times, key=lambda plan: times[plan])
        best = compiled if times[compiled] < WORTH_LEAVING * times[best] else best
    best = best if times[best] < WORTH_LEAVING * times[plain] else plain
    return best, {str(plan): seconds for plan, seconds in times.items()}


def _try(plan: Plan, measure: Callable[[Plan], float], times: dict[Plan, float]) -> None:
    if plan in times:
        return
    with suppress(Exception):  # no compiler on this machine, an operation that lacks this layout: not a choice
        times[plan] = measure(plan)
