"""A forward pass, operation by operation: which module it belongs to, its cost, and what it sees of the image."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from itertools import groupby, repeat
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from foveal.ops.propagate import propagate
from foveal.ops.receptive_field import Field, joined

Module = TypeVar("Module", bound=nn.Module)


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
    attention_elements: entries of attention matrices: of weights made by a softmax, with which a matrix product sums.
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
    attention_elements: int = 0
    receptive_field: tuple[float, float] = (0, 0)
    stride: tuple[float, float] | None = None
    start: tuple[float, float] | None = None


def trace(network: nn.Module, images: Tensor) -> tuple[tuple[Layer, ...], tuple[float, float]]:
    """The layers of `network(images)` in order of execution, and the receptive field of its output.

    Hooks stay on the network: give a `twin`.
    """
    tracer = _Trace(network)
    tracer.note(images, Field.of_images(images.shape))
    with _countable(), tracer:
        output = network(images)
    return tracer.finish(), _largest([seen for seen in map(tracer.see, _tensors(output)) if seen])


def twin(network: Module, parameter: Callable[[nn.Parameter], Tensor], buffer: Callable[[Tensor], Tensor]) -> Module:
    """A copy of the modules with other parameters and buffers, so that nothing done to it is done to the network."""
    tensors: dict[int, Any] = {id(tensor): parameter(tensor) for tensor in network.parameters()}
    tensors |= {id(tensor): buffer(tensor) for tensor in network.buffers()}
    return copy.deepcopy(network, tensors)


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
    attention_elements: int = 0
    operations: list[str] = field(default_factory=list)
    output: list[Tensor] = field(default_factory=list)  # of its last operation


PRODUCTS = {"mm": "matmul", "bmm": "matmul", "addmm": "matmul", "baddbmm": "matmul"}
NICKNAMES = PRODUCTS | {
    "to_copy": "copy",
    "clone": "copy",
    "safe_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
}
SOFTMAX = ("_softmax", "_safe_softmax")
# Products with a vector, which flop_registry leaves out: name -> the argument that has an entry for each MAC.
VECTOR_PRODUCTS = {"mv": 0, "dot": 0, "vdot": 0, "addmv": 1}


class _Trace(TorchDispatchMode):
    """Sees each operation of a forward pass, and which module it belongs to."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._running = [_Run("", network, 0)]
        self._row: _Row | None = None
        self._started = 0
        self._count = 0
        # For each storage met, a weak reference, which keeps its address from being used again, the number of the
        # operation that made it, and what is known of the tensors that lie in it.
        self._born: dict[int, tuple[StorageWeakRef, int]] = {}
        self._fields: dict[int, dict[tuple[Any, ...], Field | None]] = {}
        # Storages of what a softmax made and no product has used so far.
        self._weights: set[int] = set()
        # Parameters that no operation has used so far: storage -> their owners. A shared one is its first owner's.
        self._unused: dict[int, list[tuple[str, nn.Module, int]]] = {}
        known: set[int] = set()
        for path, module in network.named_modules():
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in known:
                    known.add(id(parameter))
                    self._unused.setdefault(_storage(parameter), []).append((path, module, parameter.numel()))
            if module is not network:
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
        row.attention_elements += self._attention(func, given, output)
        row.params += sum(count for storage in storages for _, _, count in self._unused.pop(storage, []))
        if seen or not row.operations:
            row.output = output[:1]
        if seen:
            name = func.overloadpacket.__name__.strip("_").removeprefix("native_")
            row.operations.append(NICKNAMES.get(name, name))
        return result

    def _attention(self, operation: Any, given: Sequence[Tensor], output: Sequence[Tensor]) -> int:
        """How many weights of a softmax this operation sums with, those that none did before."""
        kind = operation.overloadpacket.__name__
        used = {_storage(tensor): tensor.numel() for tensor in given if _storage(tensor) in self._weights}
        if kind in PRODUCTS:
            self._weights -= used.keys()
            return sum(used.values())
        # Masked, scaled or copied they are weights still.
        made = output if kind in SOFTMAX else [tensor for tensor in output if tensor.numel() in used.values()]
        self._weights |= set(map(_storage, made))
        return 0

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
            attention_elements=row.attention_elements,
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
