"""What a system costs: parameters, multiply-accumulates, memory, and how much of the image each layer sees.

    MACs = multiply-accumulates of convolutions and matrix products, FLOPs = 2 MACs

Normalisation, activation, pooling and biases are not counted. This is the convention of torchvision's published figures
and of torch.utils.flop_counter; timm's are about half a percent higher, because they count normalisation too.

One forward pass on torch's meta device, which has shapes but no numbers, takes a fraction of a second and no memory.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import inf
from typing import Any

import torch
from torch import nn

from foveal.errors import InputError
from foveal.nn.trace import Layer, trace, twin
from foveal.system import System
from foveal.verbs import make_callable


@dataclass(frozen=True)
class Cost:
    """What one image costs. The sums are those of the layers.

    name:             of the system.
    size:             height and width of the image.
    params:           parameters, shared ones once.
    macs:             multiply-accumulates of a forward pass.
    activation_bytes: memory of the outputs of all layers.
    attention_elements: entries of all attention matrices, heads x queries x keys of each layer, which have to be kept
                      for the backward pass where the device has no fused attention; not among the outputs.
    receptive_field:  (height, width) of the system's output, as in `Layer`.
    layers:           in order of execution.
    """

    name: str
    size: tuple[int, int]
    params: int
    macs: int
    activation_bytes: int
    attention_elements: int
    receptive_field: tuple[float, float]
    layers: tuple[Layer, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each MAC."""
        return 2 * self.macs

    def json(self) -> dict[str, Any]:
        """All figures as JSON values; a receptive field of a whole axis is "all"."""
        return _jsonable({**asdict(self), "flops": self.flops})

    def table(self, depth: int | None = None) -> str:
        """A table for people, at most 120 columns wide. With `depth`, one line for each module of this depth."""
        head: tuple[str, ...] = ("layer", "type", "output", "params", "MACs", "memory", "attention", "sees", "stride")
        rows = [_cells(layer, self.name) for layer in (self.layers if depth is None else _folded(self.layers, depth))]
        sums = (f"{self.params:,}", _short(self.macs), _bytes(self.activation_bytes), _short(self.attention_elements))
        total: tuple[str, ...] = ("total", "", "", *sums, _pair(self.receptive_field), "")
        if not self.attention_elements:
            column = head.index("attention")
            head, total, *rows = (cells[:column] + cells[column + 1 :] for cells in (head, total, *rows))
        widths = [max(map(len, column)) for column in zip(head, *rows, total, strict=True)]
        widths[0] = max(12, min(widths[0], 120 - 2 * (len(widths) - 1) - sum(widths[1:])))

        def line(cells: Sequence[str]) -> str:
            name = cells[0] if len(cells[0]) <= widths[0] else "~" + cells[0][1 - widths[0] :]
            cells = [name, *cells[1:]]
            padded = [c.ljust(w) if n < 3 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
            return "  ".join(padded).rstrip()

        rule = "-" * len(line(head))
        legend = (
            "MACs: multiply-accumulates of convolutions and matrix products (one is 2 FLOPs, so "
            f"{_short(self.flops)} FLOPs in all); normalisation, activation, pooling and biases are not counted. "
            "memory: of the layer's output. sees: the receptive field, the pixels of the image that one output unit "
            "depends on, as a square's side or height x width; all is the whole image. stride: pixels of the image "
            "from one output unit to the next. Types in lower case are operations that a module does itself, beside "
            "the modules inside it."
        )
        if self.attention_elements:
            legend += (
                " attention: entries of the layer's attention matrices, heads x queries x keys, a number each that "
                "training keeps, beside this memory, where the device has no fused attention."
            )
        lines = [f"{self.name}, one image of {self.size[0]} x {self.size[1]} pixels", "", line(head), rule]
        lines += [*map(line, rows), rule, line(total), "", *textwrap.wrap(legend, max(60, len(rule)))]
        return "\n".join(lines)


def cost(system: System, size: int | tuple[int, int] | None = None) -> Cost:
    """Parameters, MACs, memory and receptive fields for one image of `size` pixels, default the system's own.

    The system is left as it is. One that cannot run without numbers, since its operations depend on them, runs on a
    black image instead. Raises InputError where the system does not take images of this size.
    """
    own = system.preprocess.size
    height, width = (size, size) if isinstance(size, int) else size or own
    if min(height, width) < 1:
        raise InputError(f"an image has at least one pixel, not {height} x {width}")
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng([system.device] if system.device.type == "cuda" else []),
    ):
        try:
            return _traced(system, (height, width), torch.device("meta"))
        except Exception:
            # Whatever a meta tensor cannot do. A fault of the system or the size will show again.
            return _traced_for_real(system, (height, width))


def _traced(system: System, size: tuple[int, int], device: torch.device) -> Cost:
    """The cost of a forward pass on a device: the system's own, or "meta"."""
    if device.type == "meta":
        copy = twin(system, lambda p: nn.Parameter(p.to("meta"), p.requires_grad), lambda tensor: tensor.to("meta"))
    else:
        copy = twin(system, lambda parameter: parameter, torch.clone)
    images = torch.zeros(1, 3, *size, dtype=copy.pixel_mean.dtype, device=device)
    layers, seen = trace(copy.eval(), images)
    return Cost(
        name=system.name or type(system).__name__,
        size=size,
        params=sum(parameter.numel() for parameter in system.parameters()),
        macs=sum(layer.macs for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
        attention_elements=sum(layer.attention_elements for layer in layers),
        receptive_field=seen,
        layers=layers,
    )


def _traced_for_real(system: System, size: tuple[int, int]) -> Cost:
    """The cost of a forward pass that is really made."""
    try:
        return _traced(system, size, system.device)
    except InputError:
        raise
    except Exception as error:
        name, own = system.name or type(system).__name__, system.preprocess.size
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        if size == own:
            text = f"{name} does not run on an image of its own size, {own[0]} x {own[1]} pixels: {reason}"
        else:
            text = (
                f"{name} does not take images of {size[0]} x {size[1]} pixels ({reason}); its own size is "
                f"{own[0]} x {own[1]}, and foveal.create makes one for another with image_size=..."
            )
        raise InputError(text) from error


SUMMED = ("params", "macs", "activation_bytes", "attention_elements")


def _folded(layers: Sequence[Layer], depth: int) -> Iterator[Layer]:
    """Neighbours within one module of this depth as one layer, with the output of the last."""
    for path, group in groupby(layers, lambda layer: ".".join(layer.path.split(".")[:depth])):
        inside = list(group)
        sums = {key: sum(getattr(layer, key) for layer in inside) for key in SUMMED}
        alone = len(inside) == 1
        yield (
            inside[0] if alone else replace(inside[-1], path=path, type=f"{len(inside)} layers", operations=(), **sums)
        )


def _cells(layer: Layer, system: str) -> tuple[str, ...]:
    kind = ", ".join(dict.fromkeys(layer.operations)) or layer.type
    shape = "not used" if layer.shape is None else " x ".join(map(str, layer.shape[layer.shape[:1] == (1,) :]))
    return (
        layer.path or system,
        kind if len(kind) <= 24 else kind[:23] + "~",
        shape,
        f"{layer.params:,}" if layer.params else "-",
        _short(layer.macs),
        _bytes(layer.activation_bytes),
        _short(layer.attention_elements),
        _pair(layer.receptive_field),
        _pair(layer.stride or (0, 0)),
    )


def _pair(pixels: tuple[float, float]) -> str:
    height, width = ("all" if side == inf else f"{side:g}" if side else "-" for side in pixels)
    return height if height == width else f"{height} x {width}"


def _short(number: int) -> str:
    """Three or more digits and a unit of thousands."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number) if number else "-"


def _bytes(number: int) -> str:
    short = _short(number)
    return short if short == "-" else f"{short}B" if " " in short else f"{short} B"


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_jsonable(part) for part in value]
    if isinstance(value, dict):
        return {key: _jsonable(part) for key, part in value.items()}
    return "all" if value == inf else value


make_callable(__name__, __name__, "cost")
