"""Many images that differ from one image in a rectangle each, and what a network makes of them, where it differs alone.

Behind a small window the first maps of a convolutional network change in a small rectangle only; the rest is known from
the image without the window. From layer to layer the rectangle grows by the reach of the convolution, until the whole
map is no slower. The numbers are those of ordinary forward passes. The idea: Nakandala, Nagrecha, Kumar and
Papakonstantinou 2020, "Incremental and Approximate Computations for Accelerating Deep CNN Inference".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
WORTHWHILE = 0.8  # share of a map up to which a rectangle is faster than all of it


class Patched(Tensor):
    """(N, C, H, W): N times the map `whole` (1, C, H, W), in each a rectangle `part` (N, C, h, w) at its own place.

    corners: (N, 2) int64, row and column of each rectangle's upper left entry.

    Convolution, pooling, normalisation and arithmetic give Patched again, anything else an ordinary tensor. For use
    without gradients, and not in inference mode, in which operations do not come apart into those of `RULES`.
    """

    whole: Tensor
    part: Tensor
    corners: Tensor

    @staticmethod
    def __new__(cls, whole: Tensor, part: Tensor, corners: Tensor) -> "Patched":
        shape = (len(part), *whole.shape[1:])
        make: Any = Tensor._make_wrapper_subclass
        made = make(cls, shape, dtype=whole.dtype, device=whole.device)
        made.whole, made.part, made.corners = whole, part, corners
        return made

    def cut(self, corners: Tensor, size: tuple[int, int], fill: float = 0.0) -> Tensor:
        """Rectangles (N, C, *size) at these corners, `fill` outside the map. The channels of an entry lie together."""
        (height, width), (own_height, own_width), device = self.shape[-2:], self.part.shape[-2:], corners.device
        count, channels = len(corners), self.shape[1]
        rows = corners[:, 0, None] + torch.arange(size[0], device=device)  # (N, h)
        columns = corners[:, 1, None] + torch.arange(size[1], device=device)  # (N, w)
        v, u = rows - self.corners[:, :1], columns - self.corners[:, 1:]  # within the own rectangle
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        changed = ((v >= 0) & (v < own_height))[:, :, None] & ((u >= 0) & (u < own_width))[:, None, :]
        # One list of all entries there are, of `whole`, of `part` and `fill`, is read at one place for each.
        entries = torch.cat(
            [
                self.whole[0].permute(1, 2, 0).reshape(-1, channels),
                self.part.permute(0, 2, 3, 1).reshape(-1, channels),
                self.whole.new_full((1, channels), fill),
            ]
        )
        known = rows[:, :, None] * width + columns[:, None, :]  # (N, h, w)
        first = height * width + own_height * own_width * torch.arange(count, device=device)
        own = first[:, None, None] + v[:, :, None] * own_width + u[:, None, :]
        places = torch.where(changed, own, torch.where(inside, known, len(entries) - 1))
        return entries.index_select(0, places.flatten()).view(count, *size, channels).permute(0, 3, 1, 2)

    def full(self) -> Tensor:
        """The same as an ordinary tensor."""
        return self.cut(torch.zeros_like(self.corners), (self.shape[2], self.shape[3]))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        rule = RULES.get(func.overloadpacket)
        result = rule(func, args, kwargs) if rule else None
        if result is None:
            ordinary = _ordinary(args)
            if func.is_view:  # chosen for the strides of a tensor that lies in order, as a Patched says it does
                ordinary = type(ordinary)(v.contiguous() if isinstance(v, Tensor) else v for v in ordinary)
            result = func(*ordinary, **_ordinary(kwargs))
            if func._schema.is_mutable:  # what was changed in place is changed for all who hold it
                for given, changed in zip(args, ordinary, strict=True):
                    if isinstance(given, Patched):
                        given.part, given.corners = changed, torch.zeros_like(given.corners)
        return result


def _ordinary(value: Any) -> Any:
    if isinstance(value, Patched):
        return value.full()
    if isinstance(value, tuple | list):
        return type(value)(_ordinary(part) for part in value)
    return {name: _ordinary(part) for name, part in value.items()} if isinstance(value, dict) else value


class _Reach(NamedTuple):
    """Along one axis: which entries of the next map change, and which of this one they are computed from."""

    start: Tensor  # (N,) first changed entry
    length: int
    extent: int  # of the next map
    given: Tensor  # (N,) first entry that is needed, negative in the padding
    needed: int


def _reach(x: Patched, axis: int, kernel: int, stride: int, padding: int, dilation: int) -> _Reach:
    """Entry o of the next map is computed from entries o * stride - padding + t * dilation, 0 <= t < kernel."""
    reach = dilation * (kernel - 1)
    extent = (x.shape[2 + axis] + 2 * padding - reach - 1) // stride + 1
    length = min(extent, (x.part.shape[2 + axis] - 1 + reach) // stride + 1)
    first = -((reach - padding - x.corners[:, axis]) // stride)  # rounded up
    start = first.clamp(0, extent - length)
    return _Reach(start, length, extent, start * stride - padding, (length - 1) * stride + reach + 1)


def _windowed(
    x: Patched, kernel: Any, stride: Any, padding: Any, dilation: Any, fill: float, function: Callable[..., Tensor]
) -> Patched | None:
    """Through an operation on windows: function(map, padding)."""
    pairs = zip(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation), strict=True)
    rows, columns = (_reach(x, axis, *settings) for axis, settings in enumerate(pairs))
    if rows.length * columns.length > WORTHWHILE * rows.extent * columns.extent:
        return None
    given = x.cut(torch.stack([rows.given, columns.given], 1), (rows.needed, columns.needed), fill)
    corners = torch.stack([rows.start, columns.start], 1)
    return Patched(function(x.whole, padding), function(given, [0, 0]), corners)


def _convolution(func: Any, args: Any, kwargs: Any) -> Patched | None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
    if not isinstance(x, Patched) or transposed:
        return None

    def convolve(map: Tensor, padding: Any) -> Tensor:
        return func(map, weight, bias, stride, padding, dilation, False, output_padding, groups)

    return _windowed(x, weight.shape[2:], stride, padding, dilation, 0.0, convolve)


def _max_pooling(func: Any, args: Any, kwargs: Any) -> Any:
    given: list[Any] = [*args, *((), 0, 1, False)[len(args) - 2 :]]
    x, kernel, stride, padding, dilation, ceil_mode = given
    if ceil_mode or kwargs:
        return None
    stride = stride or kernel

    def pool(map: Tensor, padding: Any) -> Tensor:
        return func(map, kernel, stride, padding, dilation)[0]

    found = _windowed(x, kernel, stride, padding, dilation, -torch.inf, pool)
    return None if found is None else (found, None)


def _average_pooling(func: Any, args: Any, kwargs: Any) -> Patched | None:
    given: list[Any] = [*args, *((), 0, False, True, None)[len(args) - 2 :]]
    x, kernel, stride, padding, ceil_mode, _, divisor = given
    if ceil_mode or kwargs or any(_pair(padding)):  # padding counts as pixels, or does not
        return None
    stride = stride or kernel
    return _windowed(x, kernel, stride, 0, 1, 0.0, lambda map, _: func(map, kernel, stride, 0, False, True, divisor))


def _normalisation(func: Any, args: Any, kwargs: Any) -> Any:
    x, *rest = args
    whole, *others = func(x.whole, *rest, **kwargs)
    return (Patched(whole, func(x.part, *rest, **kwargs)[0], x.corners), *others)


def _each_entry(func: Any, args: Any, kwargs: Any) -> Patched | None:
    """What acts on each entry alone, with numbers, values of a channel, and other Patched of the same size."""
    patched = [value for value in args if isinstance(value, Patched)]
    plain = [value for value in args if isinstance(value, Tensor) and not isinstance(value, Patched)]
    if len({value.shape for value in patched}) > 1 or any(_varies(value) for value in plain):
        return None
    corners, parts = _joined(patched) if len(patched) > 1 else (patched[0].corners, [patched[0].part])
    if parts[0].shape[2] * parts[0].shape[3] > WORTHWHILE * patched[0].shape[2] * patched[0].shape[3]:
        return None
    rest = iter(parts)
    whole = func(*(value.whole if isinstance(value, Patched) else value for value in args), **kwargs)
    part = func(*(next(rest) if isinstance(value, Patched) else value for value in args), **kwargs)
    return Patched(whole, part, corners)


def _concatenation(func: Any, args: Any, kwargs: Any) -> Patched | None:
    maps, dim = (*args, 0)[:2]
    if dim != 1 or kwargs or not all(isinstance(map, Patched) for map in maps):
        return None
    corners, parts = _joined(maps)
    return Patched(func([map.whole for map in maps], 1), func(parts, 1), corners)


def _joined(patched: list[Patched]) -> tuple[Tensor, list[Tensor]]:
    """Rectangles that hold those of all of them, and what each has there."""
    sizes = [torch.tensor(x.part.shape[-2:], device=x.corners.device) for x in patched]
    extent = torch.tensor(patched[0].shape[-2:], device=sizes[0].device)
    low = torch.stack([x.corners for x in patched]).amin(0)
    high = torch.stack([x.corners + size for x, size in zip(patched, sizes, strict=True)]).amax(0)
    size = (high - low).amax(0)
    corners = low.minimum(extent - size)
    height, width = size.tolist()
    same = [x.part.shape[-2:] == (height, width) and torch.equal(x.corners, corners) for x in patched]
    return corners, [x.part if s else x.cut(corners, (height, width)) for x, s in zip(patched, same, strict=True)]


def _varies(value: Tensor) -> bool:
    """Whether a tensor differs from image to image, or from place to place on the map."""
    return any(side > 1 for side in value.shape[-2:]) or (value.dim() > 3 and value.shape[0] > 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


RULES: dict[Any, Callable[[Any, Any, Any], Any]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pooling,
    aten.avg_pool2d: _average_pooling,
    aten.cat: _concatenation,
    aten.native_batch_norm: _normalisation,
    aten._native_batch_norm_legit_no_training: _normalisation,
} | dict.fromkeys(
    [
        *(aten.add, aten.sub, aten.mul, aten.div, aten.relu, aten.clamp_min, aten.hardtanh, aten.leaky_relu, aten.elu),
        *(aten.gelu, aten.silu, aten.hardswish, aten.sigmoid, aten.hardsigmoid, aten.tanh),
    ],
    _each_entry,
)
