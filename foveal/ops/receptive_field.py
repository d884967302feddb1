"""Receptive fields: which pixels of the image each unit of a feature map depends on.

`Span` is the arithmetic along one axis. `Field` adds where the rows and columns of a map lie in the dimensions of a
tensor, which transpositions, windows and tokens change. propagate.py takes fields through the operations of torch.

Counted as if the image went on beyond its borders, so a unit near them "sees" padding. What brute force must find: the
pixels with a gradient.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import ceil, floor, gcd, inf, lcm, prod
from typing import NamedTuple


@dataclass(frozen=True)
class Span:
    """What the units of a map see along one axis.

    Unit i sees the pixels low[p] + q * step to high[p] + q * step, both included, with q, p = divmod(i, len(low)). One
    entry is enough for convolution and pooling; upsampled maps and windows repeat a longer pattern.

    whole: something has mixed in the whole axis.
    """

    low: tuple[float, ...] = (0,)
    high: tuple[float, ...] = (0,)
    step: int = 1
    whole: bool = False

    def at(self, unit: int) -> tuple[float, float]:
        """First and last pixel."""
        q, p = divmod(unit, len(self.low))
        return self.low[p] + q * self.step, self.high[p] + q * self.step

    @property
    def size(self) -> float:
        """How many pixels a unit sees, the largest number where units differ; infinite for the whole axis."""
        return inf if self.whole else max(high - low + 1 for low, high in zip(self.low, self.high, strict=True))

    @property
    def stride(self) -> Fraction:
        """Pixels from one unit to the next."""
        return Fraction(self.step, len(self.low))

    def through(self, units: Callable[[int], Iterable[int]], outputs: int = 1, inputs: int = 1) -> "Span":
        """The next map, whose unit o is computed from units(o) of this one; units(o + outputs) = units(o) + inputs."""
        period = len(self.low)
        repeats = period // gcd(period, inputs)
        seen = [[self.at(unit) for unit in units(o)] for o in range(outputs * repeats)]
        low = tuple(min((first for first, _ in pixels), default=inf) for pixels in seen)
        high = tuple(max((last for _, last in pixels), default=-inf) for pixels in seen)
        return Span(low, high, self.step * inputs * repeats // period, self.whole)._shortest()

    def _shortest(self) -> "Span":
        """The same with the shortest pattern."""
        period = len(self.low)
        for n in range(1, period):
            if period % n == 0 and self.step * n % period == 0:
                short = Span(self.low[:n], self.high[:n], self.step * n // period, self.whole)
                if all(short.at(i) == self.at(i) for i in range(n, period)):
                    return short
        return self

    def convolved(self, size: int, stride: int, padding: int, dilation: int) -> "Span":
        """Through a convolution or pooling, which adds (size - 1) * dilation * self.stride pixels."""
        return self.through(lambda o: (o * stride - padding + t * dilation for t in range(size)), 1, stride)

    def deconvolved(self, size: int, stride: int, padding: int, dilation: int) -> "Span":
        """Through a transposed convolution, whose unit o = i * stride - padding + t * dilation is from unit i."""

        def units(o: int) -> Iterable[int]:
            places = (o + padding - t * dilation for t in range(size))
            return (place // stride for place in places if place % stride == 0)

        return self.through(units, stride, 1)

    def averaged(self, old: int, new: int) -> "Span":
        """Through adaptive pooling of `old` units to `new`."""
        common = gcd(old, new)
        pooled = self.through(lambda o: range(o * old // new, -(-(o + 1) * old // new)), new // common, old // common)
        return replace(pooled, whole=pooled.whole or new == 1 < old)

    def nearest(self, old: int, new: int, shift: Fraction = Fraction(0)) -> "Span":
        """Through resizing of `old` units to `new`, each a copy of unit (o + shift) * old / new, rounded down."""
        common = gcd(old, new)
        return self.through(lambda o: [floor((o + shift) * Fraction(old, new))], new // common, old // common)

    def interpolated(self, old: int, new: int, reach: int, corners: bool, antialias: bool) -> "Span":
        """Through resizing by weights on the units nearer than `reach`, which `antialias` widens where it shrinks."""
        scale = Fraction(old - 1, max(new - 1, 1)) if corners else Fraction(old, new)
        offset = Fraction(0) if corners else (scale - 1) / 2
        width = reach * max(scale, Fraction(1)) if antialias else Fraction(reach)

        def units(o: int) -> Iterable[int]:
            place = o * scale + offset
            return range(floor(place - width) + 1, ceil(place + width))

        return self.through(units, scale.denominator, scale.numerator)

    def mixed(self, size: int, step: int, extent: int) -> "Span":
        """Each of `extent` units sees what all those see that differ from it in the digit (i // step) % size alone."""
        if size == extent:
            return replace(self, whole=True)

        def units(o: int) -> Iterable[int]:
            first = o - o // step % size * step
            return range(first, first + size * step, step)

        span = self.through(units, size * step, size * step)
        return replace(span, whole=span.whole or len({span.at(i) for i in range(extent)}) == 1)

    def picked(self, size: int, step: int, value: int) -> "Span":
        """Only the units whose digit (i // step) % size has this value, numbered anew."""
        return self.through(lambda o: [o // step * step * size + value * step + o % step], step, step * size)

    def joined(self, other: "Span") -> "Span":
        """What two maps of one size see together."""
        if self.stride != other.stride:
            return replace(self, whole=True)
        period = lcm(len(self.low), len(other.low))
        pairs = [(self.at(i), other.at(i)) for i in range(period)]
        low, high = tuple(min(a[0], b[0]) for a, b in pairs), tuple(max(a[1], b[1]) for a, b in pairs)
        return Span(low, high, int(self.stride * period), self.whole or other.whole)._shortest()


ROWS, COLUMNS, NEITHER = 0, 1, -1


class Factor(NamedTuple):
    """A part of a dimension's index: the digit (i // step) % size of row or column number i, or NEITHER's."""

    axis: int
    size: int
    step: int = 1


def plain(size: int) -> tuple[Factor, ...]:
    """A dimension along which the place on the map stays the same."""
    return (Factor(NEITHER, size),) if size > 1 else ()


def located(factors: Iterable[Factor]) -> list[Factor]:
    """The factors of rows and columns."""
    return [factor for factor in factors if factor.axis != NEITHER]


@dataclass(frozen=True)
class Field:
    """What the entries of one tensor see.

    spans:  of rows and of columns.
    extent: how many rows and columns of units the map has.
    dims:   for each dimension of the tensor the factors of its index, slowest first. (B, C, H, W) has rows in the third
            and columns in the fourth; (B, H * W, C) has rows and then columns in the second.
    """

    spans: tuple[Span, Span]
    extent: tuple[int, int]
    dims: tuple[tuple[Factor, ...], ...]

    @staticmethod
    def of_images(shape: Sequence[int]) -> "Field":
        """Images (B, C, H, W), each pixel of which sees itself."""
        sides = ((Factor(axis, size),) if size > 1 else () for axis, size in enumerate(shape[2:]))
        return Field((Span(), Span()), (shape[2], shape[3]), (plain(shape[0]), plain(shape[1]), *sides))

    @staticmethod
    def of_everything(shape: Sequence[int]) -> "Field":
        """A tensor with no map left, whose every entry may see the whole image."""
        everything = Span(step=0, whole=True)
        return Field((everything, everything), (1, 1), tuple(plain(size) for size in shape))

    @property
    def size(self) -> tuple[float, float]:
        """Height and width in pixels; infinite for all of them."""
        return self.spans[0].size, self.spans[1].size

    @property
    def stride(self) -> tuple[float, float] | None:
        """Pixels from one unit to the next along rows and columns; None where no map is left."""
        if any(span.whole and extent == 1 for span, extent in zip(self.spans, self.extent, strict=True)):
            return None
        return float(self.spans[0].stride), float(self.spans[1].stride)

    @property
    def start(self) -> tuple[float, float] | None:
        """The first pixel that the first unit sees, negative in the padding; None where units see everything."""
        return None if any(span.whole for span in self.spans) else (self.spans[0].at(0)[0], self.spans[1].at(0)[0])

    def along(self, dim: int, size: int, change: Callable[[Span], Span]) -> "Field":
        """An operation along one dimension, which gets a new size, changes the span of the axis that lies there."""
        dim %= len(self.dims)
        factors = self.dims[dim]
        if not located(factors):
            return self.redimensioned(dim, plain(size))
        axis = factors[0].axis
        if factors != (Factor(axis, self.extent[axis]),):
            return self.mixed(dim).redimensioned(dim, plain(size)).settled()
        field = self.redimensioned(dim, (Factor(axis, size),) if size > 1 else ())
        return field.changed(axis, change(self.spans[axis]), size)

    def mixed(self, *dims: int) -> "Field":
        """Each entry sees what all those along these dimensions see. Has to be `settled` in the end."""
        field = self
        for dim in dims:
            for axis, size, step in located(self.dims[dim]):
                field = field.changed(axis, field.spans[axis].mixed(size, step, self.extent[axis]))
            field = field.redimensioned(dim, plain(prod(factor.size for factor in self.dims[dim])))
        return field

    def settled(self) -> "Field":
        """Without the digits of row and column numbers that no dimension has any more."""
        for axis in (ROWS, COLUMNS):
            step = 1
            while step < self.extent[axis]:
                digits = {f.step: f.size for factors in self.dims for f in factors if f.axis == axis}
                if step in digits:
                    step *= digits[step]
                else:
                    following = min((other for other in digits if other > step), default=self.extent[axis])
                    self = self._picked(Factor(axis, following // step, step), 0)
        return self

    def _picked(self, digit: Factor, value: int) -> "Field":
        axis, size, step = digit
        dims = tuple(
            tuple(f._replace(step=f.step // size) if f.axis == axis and f.step >= size * step else f for f in factors)
            for factors in self.dims
        )
        span = self.spans[axis].picked(size, step, value)
        return replace(self, dims=dims).changed(axis, span, self.extent[axis] // size)

    def selected(self, dim: int, index: int) -> "Field":
        """The entries at one index of a dimension, which disappears."""
        dim %= len(self.dims)
        field, index = self, index % max(1, prod(factor.size for factor in self.dims[dim]))
        for factors in (self.dims[dim][:n] for n in range(len(self.dims[dim]), 0, -1)):
            index, value = divmod(index, factors[-1].size)
            factor, rest = field.dims[dim][-1], field.dims[dim][:-1]
            field = field.redimensioned(dim, rest)
            if factor.axis != NEITHER:
                field = field._picked(factor, value)
        return replace(field, dims=field.dims[:dim] + field.dims[dim + 1 :])

    def reduced(self, dims: Iterable[int], keep: bool) -> "Field":
        """A mean, sum or maximum over dimensions, which disappear, or keep size one."""
        gone = {dim % len(self.dims) for dim in dims}
        places = enumerate(self.mixed(*gone).dims)
        left = tuple(() if dim in gone else factors for dim, factors in places if keep or dim not in gone)
        return replace(self.mixed(*gone), dims=left).settled()

    def reshaped(self, shape: Sequence[int]) -> "Field":
        """The same entries in the same order, in dimensions of other sizes."""
        queue = list(_merged(factor for factors in self.dims for factor in factors))[::-1]
        dims = []
        for size in shape:
            taken: list[Factor] = []
            while size > 1:
                axis, n, step = queue.pop()
                if n > size and n % size == 0:  # this dimension takes the slower part
                    inner = n // size
                    queue.append(Factor(axis, inner, step))
                    n, step = size, step if axis == NEITHER else step * inner
                elif size % n:
                    return Field.of_everything(shape)
                taken.append(Factor(axis, n, step))
                size //= n
            dims.append(_merged(taken))
        return replace(self, dims=tuple(dims))

    def matched(self, shape: Sequence[int]) -> "Field":
        """For a tensor of another shape that differs only where the place on the map stays the same."""
        return joined([self], shape) if len(shape) == len(self.dims) else Field.of_everything(shape)

    def wholly(self) -> "Field":
        """The same map, each unit of which sees everything."""
        rows, columns = self.spans
        return replace(self, spans=(replace(rows, whole=True), replace(columns, whole=True)))

    def redimensioned(self, dim: int, factors: tuple[Factor, ...]) -> "Field":
        return replace(self, dims=(*self.dims[:dim], factors, *self.dims[dim + 1 :]))

    def changed(self, axis: int, span: Span, extent: int | None = None) -> "Field":
        spans, extents = list(self.spans), list(self.extent)
        spans[axis], extents[axis] = span, extents[axis] if extent is None else extent
        return Field((spans[0], spans[1]), (extents[0], extents[1]), self.dims)


def _merged(factors: Iterable[Factor]) -> tuple[Factor, ...]:
    """Neighbouring factors made one: two digits of a row number, or two that are of neither axis."""
    merged: list[Factor] = []
    for factor in factors:
        last = merged[-1] if merged else None
        if last and last.axis == factor.axis and (factor.axis == NEITHER or last.step == factor.size * factor.step):
            merged[-1] = Factor(factor.axis, last.size * factor.size, factor.step)
        else:
            merged.append(factor)
    return tuple(merged)


def joined(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """What the entries of several tensors see together, entry by entry, broadcast to `shape`."""
    if any(len(field.dims) > len(shape) for field in fields):
        return Field.of_everything(shape)
    aligned = [((),) * (len(shape) - len(field.dims)) + field.dims for field in fields]
    dims: list[tuple[Factor, ...]] = []
    for size, options in zip(shape, zip(*aligned, strict=True), strict=True):
        places = {factors for factors in options if located(factors)}
        if len(places) > 1 or any(prod(factor.size for factor in factors) != size for factors in places):
            return Field.of_everything(shape)
        dims.append(places.pop() if places else plain(size))
    joint = Field((Span(), Span()), (1, 1), tuple(dims))
    for axis in (ROWS, COLUMNS):
        extent = max(field.extent[axis] for field in fields)
        if prod(factor.size for factors in dims for factor in factors if factor.axis == axis) != extent:
            return Field.of_everything(shape)  # such as x + x^T, whose rows lie in two dimensions
        span = reduce(Span.joined, [field.spans[axis] for field in fields if field.extent[axis] == extent])
        # A map of one unit beside a larger one, such as a gate, is the same region for units in all places.
        alike = all(field.extent[axis] == extent for field in fields)
        joint = joint.changed(axis, span if alike else replace(span, whole=True), extent)
    return joint
