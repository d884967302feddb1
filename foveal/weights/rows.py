"""Which rows of a tensor belong to which class, so that weights go over to other classes by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveal.system import System


class Rows(NamedTuple):
    """Which rows of a tensor belong to which class.

    each:  rows of a class.
    rest:  rows of no class, such as that of background.
    major: the rows of one class lie together, (C, each), with the rest after them; else there are `each` parts alike,
           of a row for each class and, where there is a rest, one row of it last.
    """

    each: int
    rest: int
    major: bool

    def count(self, classes: int) -> int:
        """How many rows there are in all."""
        return self.each * classes + self.rest

    def classes(self, count: int) -> int | None:
        """How many classes so many rows are of."""
        classes, left = divmod(count - self.rest, self.each)
        return classes if left == 0 and classes > 0 else None

    def of(self, classes: int) -> Tensor:
        """(classes, each) indices of the rows of each class."""
        if self.major:
            return torch.arange(classes * self.each).view(classes, self.each)
        return torch.arange(self.count(classes)).view(self.each, -1)[:, :classes].T

    def of_none(self, classes: int) -> Tensor:
        """(rest,) indices of the others."""
        other = torch.ones(self.count(classes), dtype=torch.bool)
        other[self.of(classes)] = False
        return other.nonzero()[:, 0]


def class_rows(system: System) -> dict[str, Rows]:
    """The tensors that have rows for each class: those that grow where there is one class more."""
    spec, classes = system.spec, len(system.labels)
    with torch.device("meta"):
        # The base was cut to fit, so a whole one takes its place.
        named = [field.name for field in fields(spec) if getattr(spec, field.name) is system.base]
        bases: dict[str, Any] = {} if system.base is None else dict.fromkeys(named, whole(system.base))
        larger = type(system)(replace(spec, labels=(*system.labels, "one more"), **bases))
    sizes = {name: value.shape for name, value in larger.state_dict().items()}
    rows = {}
    for name, value in system.state_dict().items():
        if value.shape != sizes[name] and value.shape[1:] == sizes[name][1:]:
            each = sizes[name][0] - len(value)
            rest = len(value) - each * classes
            if each > 0 and rest in (0, each):
                rows[name] = Rows(each, rest, system.class_major(name))
    return rows


def by_name(own: Tensor, labels: Sequence[str], given: Tensor, known: Sequence[str], which: Rows) -> Tensor:
    """The own rows, with the given ones for the classes that are known and for what is of no class."""
    if own.shape[1:] != given.shape[1:]:
        return given  # a misfit, which load_weights reports
    rows = own.clone()
    ours, theirs = which.of(len(labels)), which.of(len(known))
    places = {label: place for place, label in enumerate(known)}
    if shared := [(place, places[label]) for place, label in enumerate(labels) if label in places]:
        new = given[theirs[[there for _, there in shared]].flatten()]
        rows[ours[[here for here, _ in shared]].flatten()] = new.to(own)
    rows[which.of_none(len(labels))] = given[which.of_none(len(known))].to(own)
    return rows


def differ_in_classes(system: System, shapes: Mapping[str, tuple[torch.Size, torch.Size]]) -> int | None:
    """The number of classes of the given shapes, where each pair of shapes (the system's, a given one) differs in its
    rows for classes alone; else None."""
    rows, counts = class_rows(system) if shapes else {}, set()
    for name, (own, given) in shapes.items():
        if name not in rows or own[1:] != given[1:]:
            return None
        counts.add(rows[name].classes(given[0]))
    return counts.pop() if len(counts) == 1 else None


def whole(base: System) -> System:
    """A system before its end was cut off, on "meta"."""
    with torch.device("meta"):
        return type(base)(base.spec)
