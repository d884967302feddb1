"""Renaming rules: how the names in one publisher's checkpoints become ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveal.system import System


class Rule(NamedTuple):
    """What becomes of the names that begin with a pattern. The first rule that matches a name holds.

    pattern: regular expression for the beginning of a name; what follows it is kept.
    ours:    what the beginning becomes: a template (\\1 is the first group), a function of the match where a number has
             to be counted differently, or None where we have no use for the tensor.
    change:  from their tensor to ours.
    """

    pattern: str
    ours: str | Callable[[re.Match[str]], str] | None
    change: Callable[[Tensor], Tensor] | None = None


# Of the 91 rows of what was trained on COCO those of its 80 classes; the other numbers were never given to an object.
COCO_ROWS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def matrix(weight: Tensor) -> Tensor:
    """The (C, D, h, w) of a convolution that is as large as its map, or steps by its size, as a linear layer's
    (C, D h w)."""
    return weight.flatten(1) if weight.dim() == 4 else weight


def reshaped(tensor: Tensor, shape: torch.Size, *, rows: bool = False) -> Tensor | None:
    """A tensor in another layer's shape: the same shape, or a linear layer (C, D h w) for a convolution (C, D, h, w),
    or the reverse; None where the shapes are of other layers. rows: the number of rows C may differ."""
    if not rows and tensor.shape[:1] != shape[:1]:
        return None
    if tensor.shape[1:] == shape[1:] and tensor.ndim == len(shape):
        return tensor
    alike = {tensor.ndim, len(shape)} == {2, 4} and tensor[:1].numel() == shape[1:].numel()
    return tensor.reshape(len(tensor), *shape[1:]) if alike else None


# A family's rules, or what makes those of one system, where names depend on how many blocks it has and of what.
Table = Sequence[Rule] | Callable[[Any], Sequence[Rule]]


def rename(tables: Mapping[str, Table], system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors under our names, by the table of the system's class (its name) or of the class that it extends.

    Names without a rule stay as they are, to be reported as left over. None where these are more than half: then it is
    not this publisher's layout.
    """
    table: Table = next((tables[base.__name__] for base in type(system).__mro__ if base.__name__ in tables), ())
    rules = table(system) if callable(table) else table
    renamed: dict[str, Tensor] = {}
    unknown = 0
    for name, tensor in state.items():
        rule, match = next(((rule, match) for rule in rules if (match := re.match(rule.pattern, name))), (None, None))
        if rule is None or match is None:
            unknown += 1
            renamed[name] = tensor
        elif rule.ours is not None:
            begin = match.expand(rule.ours) if isinstance(rule.ours, str) else rule.ours(match)
            ours = begin + name[match.end() :]
            # A second tensor for the same place is left over.
            renamed[name if ours in renamed else ours] = tensor if rule.change is None else rule.change(tensor)
    return None if 2 * unknown > len(state) else renamed
