"""The fastest way to have a trained system answer, found by measuring on this machine."""

import copy
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.errors import InputError, nearest
from foveal.nn.fold import fold_batch_norm, tensors_of
from foveal.system import System, wait
from foveal.verbs import make_callable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# |answer - plain answer| / |plain answer| above which a way is not one: in float32 this, as rounding adds up through a
# hundred layers; in bfloat16 so many times what torch's own rounding makes of this system.
TOLERANCE, TIMES = 1e-3, 2.0


@dataclass(frozen=True)
class Accelerated:
    """system: answers as the one that was given does; it is not for training, saving or explaining. way: how it runs.
    seconds: of one batch, for each way that was measured."""

    system: System
    way: str
    seconds: dict[str, float]

    def __str__(self) -> str:
        times = ", ".join(f"{way} {1000 * seconds:.3g} ms" for way, seconds in self.seconds.items())
        return f"{self.way}, the fastest of {times}" if len(self.seconds) > 1 else self.way


def accelerate(
    system: System, batch_size: int = 1, precision: str = "float32", ways: tuple[str, ...] = ()
) -> Accelerated:
    """The system in the fastest of the ways to run its `forward` on batches of a size. Of a detector the maps are
    accelerated (System.accelerated); its heads, its proposals and the suppression of boxes stay as they are.

    precision: "float32"; or "bfloat16", which also tries that and keeps two or three digits of a score.
    ways:      which to try; default all that this machine has:
               "eager", as it is; "folded", batch norms in their convolutions; "channels_last", folded and with channels
               together in memory; "compile", by torch.compile; "openvino", by that package, if the `export` extra
               has brought it, on a CPU.

    Raises InputError for an unknown precision or way, or one that cannot run this system.
    """
    if precision not in DTYPES:
        raise InputError(f"unknown precision {precision!r}{nearest(precision, DTYPES)}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    for way in ways:
        if way not in WAYS:
            raise InputError(f"unknown way {way!r}{nearest(way, WAYS)}")
    images = torch.rand(batch_size, 3, *system.preprocess.size, generator=torch.Generator().manual_seed(0))
    images = images.to(system.device)
    made: dict[str, System] = {}
    seconds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    name = system.name or type(system).__name__
    if system.accelerated is None:
        raise InputError(
            f"{name} cannot be accelerated: its images differ in their number of crops; leave out plan auto"
        )
    inside = system.normalize(images) if system.accelerated == "backbone.forward" else images
    with torch.no_grad():
        expected = _part(_plain(system))(inside)
        if system.accelerated == "forward" and not isinstance(expected, Tensor):
            raise InputError(f"{name} cannot be accelerated: its forward gives several tensors; leave out plan auto")
        allowed = {"float32": TOLERANCE}
        if precision != "float32":
            rounded = _part(_typed(_plain(system), precision))(inside)
            allowed[precision] = TOLERANCE + TIMES * _error(rounded, expected)
        for way in ways or WAYS:
            for kind in ("float32", precision) if precision != "float32" else ("float32",):
                key = f"{way} {kind}"
                try:
                    made[key] = WAYS[way](system, images, kind)
                    if (
                        not (error := _error(_part(made[key])(inside), expected)) <= allowed[kind]
                    ):  # or no number at all
                        raise ArithmeticError(f"its answers are {error:.1g} away from the plain ones")
                    seconds[key] = _seconds(made[key], images)
                except Exception as error:  # no compiler here, a package that is not there or lacks an operation
                    reasons[key] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if not seconds:
        way, reason = next(iter(reasons.items()))
        raise InputError(f"{name} cannot be run as {way}: {reason}")
    best = min(seconds, key=lambda key: seconds[key])
    return Accelerated(made[best], best, seconds)


def _plain(system: System) -> System:
    return copy.deepcopy(system).eval()


def _eager(system: System, images: Tensor, kind: str) -> System:
    return _typed(_plain(system), kind)


def _folded(system: System, images: Tensor, kind: str) -> System:
    return _typed(fold_batch_norm(system, images), kind)


def _channels_last(system: System, images: Tensor, kind: str) -> System:
    folded = fold_batch_norm(system, images).to(memory_format=torch.channels_last)
    return _typed(folded, kind, torch.channels_last)


def _compile(system: System, images: Tensor, kind: str) -> System:
    compiled = _typed(fold_batch_norm(system, images), kind)
    return _replaced(compiled, torch.compile(_part(compiled), options={"freezing": True}))


def _openvino(system: System, images: Tensor, kind: str) -> System:
    """A model for each size of a batch, since those that are made for one size are faster."""
    if system.device.type != "cpu":
        raise InputError(f"openvino runs on a CPU, not on {system.device.type}")
    answering = _plain(system)
    models: dict[tuple[int, ...], Callable[[np.ndarray], Any]] = {}

    def forward(images: Tensor) -> Any:
        shape = tuple(images.shape)
        if shape not in models:
            models[shape] = openvino_model(_Part(_plain(system)), images, kind)
        answer = models[shape](images.numpy())
        return [*map(torch.from_numpy, answer)] if isinstance(answer, tuple) else torch.from_numpy(answer)

    return _replaced(answering, forward)


def openvino_model(network: nn.Module, images: Tensor, precision: str) -> Callable[[np.ndarray], Any]:
    """A network as a model of OpenVINO, compiled for batches like `images` and "float32" or "bfloat16" on a CPU.

    The model gives an array, or a tuple of them where the network gives several tensors.

    Raises InputError where OpenVINO is not installed.
    """
    if not find_spec("openvino"):
        raise InputError("openvino is not installed: pip install 'foveal[export]'")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # nothing here reports to anybody
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    reader = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings(action="ignore"):  # tracing warns of sizes that are fixed here by intent
        traced = TorchScriptPythonDecoder(network, example_input=images)
        model = reader.convert(reader.load(traced))
    model.reshape(list(images.shape))
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def answer(images: np.ndarray, weights: Any = traced) -> Any:  # the model reads weights that stay torch's
        found = compiled(images, share_inputs=True)
        return found[0] if len(found) == 1 else tuple(found[number] for number in range(len(found)))

    return answer


WAYS: dict[str, Callable[[System, Tensor, str], System]] = {
    "eager": _eager,
    "folded": _folded,
    "channels_last": _channels_last,
    "compile": _compile,
    "openvino": _openvino,
}


def _typed(system: System, kind: str, layout: torch.memory_format = torch.contiguous_format) -> System:
    """The system with the numbers of its accelerated part in a type, images brought to it and answers back from it."""
    if system.accelerated == "forward":
        system = system.to(DTYPES[kind])
        whole = _part(system)
        return _replaced(system, lambda images: whole(images.to(DTYPES[kind], memory_format=layout)).float())
    part = _part(system)

    def forward(images: Tensor) -> list[Tensor]:
        # The rest of the system keeps its type, so the weights that it shares with this part do too.
        with torch.autocast(images.device.type, DTYPES[kind], enabled=kind != "float32"):
            return [x.float() for x in part(images.to(memory_format=layout))]

    return _replaced(system, forward)


def _part(system: System) -> Callable[[Tensor], Any]:
    """The part of a system that is accelerated."""
    assert system.accelerated is not None
    return attrgetter(system.accelerated)(system)


def _replaced(system: System, part: Callable[[Tensor], Any]) -> System:
    """The system with another function for that part."""
    assert system.accelerated is not None
    owner, _, name = system.accelerated.rpartition(".")
    setattr(system.get_submodule(owner), name, part)
    return system


class _Part(nn.Module):
    """That part as a network of its own."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, images: Tensor) -> Any:
        found = _part(self.system)(images)
        return found if isinstance(found, Tensor) else tuple(found)


def _error(found: Any, expected: Any) -> float:
    """The largest distance of a tensor from the one expected, as a share of the latter's norm."""
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    errors = [(one - other).norm() / other.norm().clamp(min=1e-30) for one, other in pairs]
    return float(torch.stack(errors).max())  # no number if one is none


def _seconds(system: System, images: Tensor, budget: float = 0.5) -> float:
    """The shortest of several runs within a budget of time, after two to warm up."""
    times: list[float] = []
    for _ in range(2):
        system(images)
    while sum(times) < budget and len(times) < 50:
        wait(images.device)
        started = time.perf_counter()
        system(images)
        wait(images.device)
        times.append(time.perf_counter() - started)
    return min(times)


make_callable(__name__, __name__, "accelerate")
