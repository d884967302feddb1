"""What a system costs: parameters, multiply-accumulates, memory, and how much of the image each layer sees.

    MACs = multiply-accumulates of convolutions and matrix products, FLOPs = 2 MACs

Normalisation, activation, pooling and biases are not counted. This is the convention of torchvision's published figures
and of torch.utils.flop_counter; timm's are about half a percent higher, because they count normalisation too.

One forward pass on torch's meta device, which has shapes but no numbers, takes a fraction of a second and no memory.
"""

import copy
import textwrap
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from dataclasses import fields as fields_of
from itertools import groupby, repeat
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from foveal.errors import InputError
from foveal.ops.receptive_field import Field, joined, propagate
from foveal.structures import Batch
from foveal.system import System
from foveal.verbs import make_callable


@dataclass(frozen=True)
class Layer:
    """One run of a module without submodules, or operations that a module with submodules does itself.

    path:             name of the module; empty for the system itself.
    type:             its class.
    operations:       what a module with submodules does itself, such as the sum of a residual block; else empty.
    shape:            of the output, with a batch of one; None for a module with parameters that a forward does not use.
    params:           parameters used here for the first time.
    macs:             multiply-accumulates.
    activation_bytes: memory of the output; zero where it is the changed input.
    receptive_field:  (height, width) in pixels that one output unit sees, infinite for the whole image, zero for what
                      does not depend on it. The statistics of normalisation layers are left out.
    stride:           pixels from one output unit to the next, down and across; None where there is no map.
    start:            where the first unit begins to see, negative in the padding: unit (i, j) of a convolution sees
                      receptive_field pixels from start + stride * (i, j); None where there is no such place.
    """

    path: str
    type: str
    operations: tuple[str, ...]
    shape: tuple[int, ...] | None
    params: int = 0
    macs: int = 0
    activation_bytes: int = 0
    receptive_field: tuple[float, float] = (0, 0)
    stride: tuple[float, float] | None = None
    start: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cost:
    """What one image costs. The sums are those of the layers.

    name:             of the system.
    size:             height and width of the image.
    params:           parameters, shared ones once.
    macs:             multiply-accumulates of a forward pass.
    activation_bytes: memory of the outputs of all layers.
    receptive_field:  (height, width) of the system's output, as in `Layer`.
    layers:           in order of execution.
    """

    name: str
    size: tuple[int, int]
    params: int
    macs: int
    activation_bytes: int
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
        head = ("layer", "type", "output", "params", "MACs", "memory", "sees", "stride")
        rows = [_cells(layer, self.name) for layer in (self.layers if depth is None else _folded(self.layers, depth))]
        sums = (f"{self.params:,}", _short(self.macs), _bytes(self.activation_bytes))
        total = ("total", "", "", *sums, _pair(self.receptive_field), "")
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
            "depends on, as a square's side or height x width. stride: pixels of the image from one output unit to the "
            "next. Types in lower case are operations that a module does itself, beside the modules inside it."
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
    with torch.inference_mode(False), torch.no_grad(), _random_numbers_kept(system.device):
        try:
            return _traced(system, (height, width), torch.device("meta"))
        except Exception:
            # Whatever a meta tensor cannot do. A fault of the system or the size will show again.
            return _traced_for_real(system, (height, width))


def training_bytes(system: System, batch: Batch, *, moments: int = 2, ema: bool = False) -> dict[str, int]:
    """Estimated peak memory, in bytes, of training on batches like this one: {"parameters": ..., ..., "total": ...}.

    moments: tensors that the optimizer keeps for each parameter: SGD 0, with momentum 1, Adam 2.
    ema:     an averaged copy of the system is kept.

    "activations" is measured: what one forward pass of the loss, in training mode, saves for its gradient, of the
    player that saves most; parameters and buffers are not among it. Within torch.autocast it is that of mixed
    precision. The working memory of single operations comes on top. The system, its statistics and the random numbers
    are left as they are. Raises InputError for a system without a loss.
    """
    batch = batch.to(system.device).float()
    with _random_numbers_kept(system.device), torch.inference_mode(False), torch.enable_grad():
        # A loss may change statistics, so the twin has its own; nothing changes parameters without an optimizer.
        twin = _twin(system, lambda parameter: parameter, torch.clone).train()
        fixed = {tensor.untyped_storage().data_ptr() for tensor in [*twin.parameters(), *twin.buffers()]}
        activations = max(_saved_bytes(twin, batch, player, fixed) for player in twin.players)
    parameters, buffers = _size_of(system.parameters()), _size_of(system.buffers())
    gradients = _size_of(parameter for parameter in system.parameters() if parameter.requires_grad)
    parts = {
        "parameters": parameters,
        "buffers": buffers,
        "gradients": gradients,
        "optimizer": moments * gradients,
        "ema": (parameters + buffers) if ema else 0,
        "activations": activations,
    }
    return parts | {"total": sum(parts.values())}


class _Saved:
    """A tensor that waits for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # the tensor itself would hold the graph that holds it


def _saved_bytes(system: System, batch: Batch, player: str, fixed: set[int]) -> int:
    waiting: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        waiting.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        terms = system.loss(batch, player)
    storages = {s.data_ptr(): s.nbytes() for s in (saved.tensor.untyped_storage() for saved in waiting)}
    del terms  # held the graph, and so the tensors, until here
    return sum(size for place, size in storages.items() if place not in fixed)


def _size_of(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _twin(system: System, parameter: Callable[[nn.Parameter], Tensor], buffer: Callable[[Tensor], Tensor]) -> System:
    """A copy of the modules with other parameters and buffers, so that nothing done to it is done to the system."""
    tensors: dict[int, Any] = {id(tensor): parameter(tensor) for tensor in system.parameters()}
    tensors |= {id(tensor): buffer(tensor) for tensor in system.buffers()}
    return copy.deepcopy(system, tensors)


def _traced(system: System, size: tuple[int, int], device: torch.device) -> Cost:
    """The cost of a forward pass on a device: the system's own, or "meta"."""
    if device.type == "meta":
        twin = _twin(system, lambda p: nn.Parameter(p.to("meta"), p.requires_grad), lambda tensor: tensor.to("meta"))
    else:
        twin = _twin(system, lambda parameter: parameter, torch.clone)
    images = torch.zeros(1, 3, *size, dtype=twin.pixel_mean.dtype, device=device)
    trace = _Trace(twin.eval())
    trace.note(images, Field.of_images(images.shape))
    with _countable(), trace:
        output = twin(images)
    layers = trace.finish()
    return Cost(
        name=system.name or type(system).__name__,
        size=size,
        params=sum(parameter.numel() for parameter in system.parameters()),
        macs=sum(layer.macs for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
        receptive_field=_largest([seen for seen in map(trace.see, _tensors(output)) if seen]),
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


@contextmanager
def _countable() -> Iterator[None]:
    """Attention and recurrence as the matrix products that they are, not as one kernel that cannot be looked into."""
    fast = torch.backends.mha.get_fastpath_enabled()
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [backend.enabled for backend in backends]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for backend in backends:
            backend.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for backend, before in zip(backends, enabled, strict=True):
            backend.enabled = before


def _random_numbers_kept(device: torch.device) -> Any:
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@dataclass
class _Run:
    """A module that is running."""

    path: str
    module: nn.Module
    started: int  # how many rows had been started when it began


@dataclass
class _Row:
    """A layer that is being filled: what one module does until another one does something."""

    run: _Run
    since: int  # number of its first operation
    params: int = 0
    macs: int = 0
    operations: list[str] = field(default_factory=list)
    output: list[Tensor] = field(default_factory=list)  # of its last operation


PRODUCTS = {"mm": "matmul", "bmm": "matmul", "addmm": "matmul", "baddbmm": "matmul"}
NICKNAMES = PRODUCTS | {
    "to_copy": "copy",
    "clone": "copy",
    "safe_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
}
# Products with a vector, which flop_registry leaves out: name -> the argument that has an entry for each MAC.
VECTOR_PRODUCTS = {"mv": 0, "dot": 0, "vdot": 0, "addmv": 1}


class _Trace(TorchDispatchMode):
    """Sees each operation of a forward pass, and which module it belongs to."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._running = [_Run("", system, 0)]
        self._row: _Row | None = None
        self._started = 0
        self._count = 0
        # For each storage met, a weak reference, which keeps its address from being used again, the number of the
        # operation that made it, and what is known of the tensors that lie in it.
        self._born: dict[int, tuple[StorageWeakRef, int]] = {}
        self._fields: dict[int, dict[tuple[Any, ...], Field | None]] = {}
        # Parameters that no operation has used so far: storage -> their owners. A shared one is its first owner's.
        self._unused: dict[int, list[tuple[str, nn.Module, int]]] = {}
        known: set[int] = set()
        for path, module in system.named_modules():
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in known:
                    known.add(id(parameter))
                    self._unused.setdefault(_storage(parameter), []).append((path, module, parameter.numel()))
            if module is not system:
                module.register_forward_pre_hook(self._entering(path))
                module.register_forward_hook(self._leaving)

    def see(self, tensor: Tensor) -> Field | None:
        """What a tensor sees of the image, if anything. Tensors that lie alike in one storage are the same."""
        return self._fields.get(_storage(tensor), {}).get(_place(tensor))

    def note(self, tensor: Tensor, seen: Field | None) -> None:
        """Remember what a tensor sees."""
        storage = _storage(tensor)
        self._born.setdefault(storage, (StorageWeakRef(tensor.untyped_storage()), self._count))
        self._fields.setdefault(storage, {})[_place(tensor)] = seen

    def finish(self) -> tuple[Layer, ...]:
        """The layers, with modules at the end whose parameters were not used."""
        self._close()
        unused = [owner for owners in self._unused.values() for owner in owners]
        for (path, module), group in groupby(unused, lambda owner: owner[:2]):
            count = sum(numbers for _, _, numbers in group)
            self.layers.append(Layer(path, type(module).__name__, (), None, params=count))
        return tuple(self.layers)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors([args, kwargs])
        # Looked up before the operation runs, since some change how their input lies in its storage.
        storages, fields = {_storage(tensor) for tensor in given}, {id(tensor): self.see(tensor) for tensor in given}
        for tensor in given:
            self._born.setdefault(_storage(tensor), (StorageWeakRef(tensor.untyped_storage()), -1))
        result = func(*args, **kwargs)
        self._count += 1
        output = _tensors(result)
        seen = propagate(func, args, kwargs, [tensor.shape for tensor in output], lambda t: fields[id(t)])
        in_place = func._schema.is_mutable
        for tensor, tensor_sees in zip(output, seen or repeat(None), strict=False):
            self.note(tensor, tensor_sees)
            if in_place and tensor_sees:
                self._spread(tensor, tensor_sees)
        if not in_place and all(_storage(tensor) in storages for tensor in output):
            return result  # a view, or a question about sizes
        row = self._current()
        row.macs += _macs(func, args, kwargs, result)
        row.params += sum(count for storage in storages for _, _, count in self._unused.pop(storage, []))
        if seen or not row.operations:
            row.output = output[:1]
        if seen:
            name = func.overloadpacket.__name__.strip("_").removeprefix("native_")
            row.operations.append(NICKNAMES.get(name, name))
        return result

    def _spread(self, changed: Tensor, seen: Field) -> None:
        """A tensor was changed in place: what lies in its storage in other ways may see the same now."""
        places = self._fields[_storage(changed)]
        for place, before in places.items():
            if place != _place(changed):
                after = seen.matched(place[1])
                places[place] = joined([before, after], place[1]) if before else after

    def _current(self) -> _Row:
        run = self._running[-1]
        if self._row is None or self._row.run is not run:
            self._close()
            self._started += 1
            self._row = _Row(run, self._count)
        return self._row

    def _close(self, alone: bool = False, output: Sequence[Tensor] = ()) -> None:
        """The row is complete; `alone` if it is all that the module did, and then with the module's output."""
        row, self._row = self._row, None
        if row is None or not (row.operations or row.macs or row.params):
            return  # constants, such as a grid of places
        tensors = output or row.output
        born = {_storage(t): self._born.get(_storage(t), (None, -1))[1] for t in tensors}
        fresh = {_storage(t): t.untyped_storage().nbytes() for t in tensors if born[_storage(t)] >= row.since}
        seen = [seen for seen in map(self.see, tensors) if seen]
        layer = Layer(
            path=row.run.path,
            type=type(row.run.module).__name__,
            operations=() if alone else tuple(name for name, _ in groupby(row.operations)),
            shape=tuple(tensors[0].shape) if tensors else (),
            params=row.params,
            macs=row.macs,
            activation_bytes=sum(fresh.values()),
            receptive_field=_largest(seen),
            stride=seen[0].stride if seen else None,
            start=seen[0].start if seen else None,
        )
        self.layers.append(layer)

    def _entering(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._running.append(_Run(path, module, self._started))

        return hook

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        run = self._running.pop()
        if self._row and self._row.run is run:
            alone = self._started == run.started + 1
            self._close(alone, _tensors(output) if alone else ())


def _macs(operation: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    packet = operation.overloadpacket
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=result) // 2
    vector = VECTOR_PRODUCTS.get(packet.__name__)
    return 0 if vector is None else args[vector].numel()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a structure."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in fields_of(value)]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []


def _largest(seen: Sequence[Field]) -> tuple[float, float]:
    return max((f.size[0] for f in seen), default=0), max((f.size[1] for f in seen), default=0)


def _folded(layers: Sequence[Layer], depth: int) -> Iterator[Layer]:
    """Neighbours within one module of this depth as one layer, with the output of the last."""
    for path, group in groupby(layers, lambda layer: ".".join(layer.path.split(".")[:depth])):
        inside = list(group)
        sums = {key: sum(getattr(layer, key) for layer in inside) for key in ("params", "macs", "activation_bytes")}
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
