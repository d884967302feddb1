"""What the output of each operation of torch sees of the image, from what its inputs see.

The statistics of normalisation layers, which see the whole map, are left out. An operation that moves entries about and
has no rule here, or takes positions from the data, is taken to see the whole image.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from foveal.ops.receptive_field import Field, Span, joined, located, plain


def multiplied(a: Field | None, b: Field | None, shape: Sequence[int]) -> Field:
    """The matrix product (..., m, k) @ (..., k, n) -> `shape`; a factor that does not see the image is None."""
    m, n = len(shape) - 2, len(shape) - 1
    a, b = a and a.mixed(n), b and b.mixed(m)
    if a is None or b is None:
        left = a.redimensioned(n, plain(shape[n])) if a else b.redimensioned(m, plain(shape[m])) if b else None
        assert left is not None
        return left.settled()
    # Attention: the query tells the place on the map; it sees what it saw and what all the keys and values do.
    if located(a.dims[m]) or not located(b.dims[n]):
        base, other = a.redimensioned(n, plain(shape[n])), b.mixed(n)
    else:
        base, other = b.redimensioned(m, plain(shape[m])), a
    other = other.mixed(*(dim for dim in range(m) if other.dims[dim] != base.dims[dim]))
    for axis, (span, theirs) in enumerate(zip(base.spans, other.spans, strict=True)):
        alike = base.extent[axis] == other.extent[axis]
        base = base.changed(axis, span.joined(theirs) if alike else replace(span, whole=True))
    return base.settled()


# Beginnings of the names of operations where an entry's origin depends on the data, or on an order that has no rule.
BY_DATA = ("index", "unsafe_index", "gather", "scatter", "take", "put", "masked_s", "grid_sampler", "nonzero")
BY_ORDER = ("sort", "argsort", "msort", "topk", "kthvalue", "flip", "as_strided", "fft", "renorm")
# An entry sees all those along the dimension `dim`, or all those before it.
MIXING = ("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze")
PADS = ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")


def propagate(
    operation: Any, args: Sequence[Any], kwargs: dict[str, Any], shapes: list[torch.Size], see: Callable[[Tensor], Any]
) -> list[Field] | None:
    """The field of each output of an aten operation; None where no input sees the image.

    operation:    the OpOverload.
    args, kwargs: what it was called with.
    shapes:       of its outputs.
    see:          gives a tensor's field, or None if it does not depend on the image.
    """
    given = {  # all arguments by name
        parameter.name: args[n] if n < len(args) else kwargs.get(parameter.name, parameter.default_value)
        for n, parameter in enumerate(operation._schema.arguments)
    }
    values = [part for v in given.values() for part in (v if isinstance(v, tuple | list) else [v])]
    tensors = [value for value in values if isinstance(value, Tensor)]
    fields = [field for field in map(see, tensors) if field]
    if not fields or not shapes:
        return None
    kind, shape = operation.overloadpacket.__name__.rstrip("_"), shapes[0]
    # The map is the first tensor; what else sees the image, such as a predicted kernel, does so for all units.
    field = see(tensors[0]) or Field.of_everything(tensors[0].shape)
    found: Field | None
    match kind:
        case _ if kind in ("lift_fresh", "zero") or kind.startswith("new_") or kind.endswith("_like"):
            return None  # other data
        case "mm" | "bmm":
            found = multiplied(see(args[0]), see(args[1]), shape)
        case "addmm" | "baddbmm" if see(args[1]) or see(args[2]):
            product = multiplied(see(args[1]), see(args[2]), shape)
            found = joined([product, *fields[:1]], shape) if see(args[0]) else product
        case "cat" | "stack":
            found = _side_by_side(fields, given["dim"] % len(shape), kind == "stack", len(tensors), shape)
        case "split" | "split_with_sizes" | "unsafe_split":
            dim = given["dim"]
            starts = [sum(piece[dim] for piece in shapes[:n]) for n in range(len(shapes))]
            return [_shifted(field, dim, piece[dim], -start) for piece, start in zip(shapes, starts, strict=True)]
        case "unbind":
            return [field.selected(given["dim"], n) for n in range(len(shapes))]
        case _:
            found = _ruled(kind, field, given, tensors[0].shape, shape)
            if found and len(fields) > 1:
                found = found.wholly()
    if found is None:  # works entry by entry, if its shape allows
        grown = len(shape) > max(tensor.ndim for tensor in tensors)
        found = Field.of_everything(shape) if grown else joined(fields, shape)
    return [found.matched(other) for other in shapes]


def _ruled(kind: str, field: Field, given: dict[str, Any], old: Sequence[int], new: Sequence[int]) -> Field | None:
    """Through an operation on one tensor of shape `old` to one of shape `new`; None where there is no rule for it."""
    match kind:
        case "as_strided" if list(old) == list(new):  # what pooling to one unit does to its output's strides
            return field
        case _ if kind.lstrip("_").startswith(BY_DATA + BY_ORDER):
            return Field.of_everything(new)
        case "convolution" | "_convolution" | "cudnn_convolution" | "mkldnn_convolution":
            field = field.mixed(1).redimensioned(1, plain(new[1])).settled()
            return _windowed(field, given, given["weight"].shape[2:], new, bool(given.get("transposed")))
        case _ if "adaptive" in kind:
            for dim in range(len(new) - len(given["output_size"]), len(new)):
                field = field.along(dim, new[dim], partial(Span.averaged, old=old[dim], new=new[dim]))
            return field
        case _ if "_pool" in kind:
            return _windowed(field, given, given["kernel_size"], new, False)
        case _ if "upsample_" in kind:
            for dim in range(2, len(new)):
                field = field.along(
                    dim, new[dim], partial(_resized, kind=kind, given=given, old=old[dim], new=new[dim])
                )
            return field
        case "pixel_shuffle":
            field = field.mixed(len(old) - 3).redimensioned(len(old) - 3, plain(new[-3])).settled()
            for dim in (-2, -1):
                field = field.along(dim, new[dim], partial(Span.nearest, old=1, new=given["upscale_factor"]))
            return field
        case _ if kind in PADS:
            padding = given["pad"] if "pad" in given else given["padding"]
            for n in range(len(padding) // 2):
                field = _shifted(field, len(new) - 1 - n, new[-1 - n], padding[2 * n])
            return field
        case "roll":
            for shift, dim in zip(given["shifts"], given["dims"], strict=False):
                field = _shifted(field, dim, new[dim], shift)
            return field if given["dims"] else Field.of_everything(new)
        case "slice":
            dim, start = given["dim"], given["start"] or 0
            start = max(0, start + old[dim] if start < 0 else start)
            return _shifted(field, dim, new[dim], -start, given["step"])
        case "select":
            return field.selected(given["dim"], given["index"])
        case "permute":
            return replace(field, dims=tuple(field.dims[dim] for dim in given["dims"]))
        case "transpose" | "t":
            order = list(range(len(old)))
            one, two = (given["dim0"], given["dim1"]) if kind == "transpose" else (0, -1)
            order[one], order[two] = order[two], order[one]
            return replace(field, dims=tuple(field.dims[dim] for dim in order))
        case "expand":
            return joined([field], new)
        case _ if kind in VIEWS:
            return field.reshaped(new)
        case _ if kind in MIXING:  # along a dimension that still tells the place afterwards
            return replace(field.mixed(given["dim"] % len(old)), dims=field.dims)
        case _ if "keepdim" in given or (len(new) == 0 < len(old)):
            dims = given.get("dim")
            dims = [dims] if isinstance(dims, int) else dims or range(len(old))
            return field.reduced(dims, bool(given.get("keepdim")))
    return None


def _windowed(
    field: Field, given: dict[str, Any], kernel: Sequence[int], new: Sequence[int], transposed: bool
) -> Field:
    """A kernel moving along the last dimensions."""

    def setting(name: str, default: Any) -> list[int]:
        value = given.get(name) or default
        return list(value) * (len(kernel) // len(value))

    first = len(new) - len(kernel)
    method = Span.deconvolved if transposed else Span.convolved
    settings = zip(kernel, setting("stride", kernel), setting("padding", [0]), setting("dilation", [1]), strict=True)
    for dim, (size, stride, padding, dilation) in enumerate(settings, first):
        if (size, stride, padding) != (1, 1, 0):
            window = partial(method, size=size, stride=stride, padding=padding, dilation=dilation)
            field = field.along(dim, new[dim], window)
    return field


def _shifted(field: Field, dim: int, size: int, shift: int, step: int = 1) -> Field:
    """Entry i * step - shift for each i below size."""
    if shift == 0 and size == prod(factor.size for factor in field.dims[dim]):
        return field
    return field.along(dim, size, lambda span: span.convolved(1, step, shift, 1))


def _resized(span: Span, kind: str, given: dict[str, Any], old: int, new: int) -> Span:
    if "nearest" in kind:
        return span.nearest(old, new, Fraction(1, 2) if "exact" in kind else Fraction(0))
    return span.interpolated(old, new, 2 if "bicubic" in kind else 1, given["align_corners"], kind.endswith("_aa"))


def _side_by_side(fields: Sequence[Field], dim: int, stacked: bool, parts: int, shape: Sequence[int]) -> Field:
    """`parts` tensors along a dimension, or along a new one, of which those in `fields` see the image."""
    if stacked:
        return joined([replace(f, dims=(*f.dims[:dim], (), *f.dims[dim:])) for f in fields], shape)
    if parts == 1:
        return fields[0]
    if any(located(field.dims[dim]) for field in fields):
        return Field.of_everything(shape)
    return joined([field.redimensioned(dim, ()) for field in fields], shape)
