"""Renaming rules: how the names in one publisher's checkpoints become ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


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


Rules = Sequence[Rule] | Callable[[Mapping[str, Tensor]], Sequence[Rule]]


def rename(tables: Mapping[str, Rules], family: type, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors under our names, by the table of the family (its class name) or of the family that it extends; a
    function of the tensors makes the table where names alone do not tell what is what.

    Names without a rule stay as they are, to be reported as left over. None where these are more than half: then it is
    not this publisher's layout.
    """
    rules = next((tables[base.__name__] for base in family.__mro__ if base.__name__ in tables), ())
    rules = rules(state) if callable(rules) else rules
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
