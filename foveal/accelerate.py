"""The fastest way to have a trained system answer, found by measuring on this machine."""

import copy
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.errors import InputError, nearest
from foveal.nn.fold import fold_batch_norm
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
    """The system in the fastest of the ways to run its `forward` on batches of a size.

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
    with torch.no_grad():
        expected = _plain(system)(images)
        if not isinstance(expected, Tensor):
            name = system.name or type(system).__name__
            raise InputError(f"{name} cannot be accelerated: its forward gives several tensors; leave out plan auto")
        allowed = {"float32": TOLERANCE}
        if precision != "float32":
            rounded = _typed(_plain(system), precision)(images)
            allowed[precision] = TOLERANCE + TIMES * _error(rounded, expected)
        for way in ways or WAYS:
            for kind in ("float32", precision) if precision != "float32" else ("float32",):
                name = f"{way} {kind}"
                try:
                    made[name] = WAYS[way](system, images, kind)
                    if not (error := _error(made[name](images), expected)) <= allowed[kind]:  # or no number at all
                        raise ArithmeticError(f"its answers are {error:.1g} away from the plain ones")
                    seconds[name] = _seconds(made[name], images)
                except Exception as error:  # no compiler here, a package that is not there or lacks an operation
                    reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if not seconds:
        name, reason = next(iter(reasons.items()))
        raise InputError(f"{system.name or type(system).__name__} cannot be run as {name}: {reason}")
    best = min(seconds, key=lambda name: seconds[name])
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
    compiled.forward = torch.compile(compiled.forward, options={"freezing": True})
    return compiled


def _openvino(system: System, images: Tensor, kind: str) -> System:
    """A model for each size of a batch, since those that are made for one size are faster."""
    if system.device.type != "cpu":
        raise InputError(f"openvino runs on a CPU, not on {system.device.type}")
    answering = _plain(system)
    models: dict[tuple[int, ...], Callable[[np.ndarray], np.ndarray]] = {}

    def forward(images: Tensor) -> Tensor:
        shape = tuple(images.shape)
        if shape not in models:
            models[shape] = openvino_model(_plain(system), images, kind)
        return torch.from_numpy(models[shape](images.numpy()))

    answering.forward = forward
    return answering


def openvino_model(network: nn.Module, images: Tensor, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a model of OpenVINO, compiled for batches like `images` and "float32" or "bfloat16" on a CPU.

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

    def answer(images: np.ndarray, weights: Any = traced) -> np.ndarray:  # the model reads weights that stay torch's
        return compiled(images, share_inputs=True)[0]

    return answer


WAYS: dict[str, Callable[[System, Tensor, str], System]] = {
    "eager": _eager,
    "folded": _folded,
    "channels_last": _channels_last,
    "compile": _compile,
    "openvino": _openvino,
}


def _typed(system: System, kind: str, layout: torch.memory_format = torch.contiguous_format) -> System:
    """The system with its numbers in a type, images brought to it and answers back from it."""
    system = system.to(DTYPES[kind])
    answer = system.forward

    def forward(images: Tensor) -> Tensor:
        return answer(images.to(DTYPES[kind], memory_format=layout)).float()

    system.forward = forward
    return system


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


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
