"""Weights under names of no known publisher: renamed by the user's rules, or paired with ours by order and shape."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from foveal.errors import InputError, few, printable
from foveal.weights.rows import Rows
from foveal.weights.rules import reshaped

# What the last word of a name says, in the order in which torch has it.
KINDS = {
    **dict.fromkeys(("weight", "gamma", "gain", "kernel"), 0),
    **dict.fromkeys(("bias", "beta"), 1),
    **dict.fromkeys(("running_mean", "moving_mean", "mean"), 2),
    **dict.fromkeys(("running_var", "moving_variance", "moving_var", "variance", "var"), 3),
}


class Pairing(NamedTuple):
    """weights: under our names; pairs: (their name, ours); alike: how many pairs share kind and shape with another."""

    weights: dict[str, Tensor]
    pairs: list[tuple[str, str]]
    alike: int

    def lines(self) -> Iterator[str]:
        """The table of names, and how certain it is."""
        width = max(len(printable(theirs)) for theirs, _ in self.pairs)
        for theirs, ours in self.pairs:
            yield f"{printable(theirs):{width}} -> {ours}  {tuple(self.weights[ours].shape)}"
        if self.alike:
            yield f"{self.alike} of {len(self.pairs)} tensors share their shape with others: order alone pairs them"
        else:
            yield f"{len(self.pairs)} tensors are paired; every shape occurs once, so each pair is certain"


def renamed(state: Mapping[str, Tensor], rules: Mapping[str, str], source: object) -> dict[str, Tensor]:
    """The tensors under names that the rules give, one rule after another.

    rules: old beginning of a name -> new one. A beginning ends where a word between dots ends, unless it ends with a
           dot itself; "*" stands for any part of one word, and keeps it: "layer*.*.shortcut" -> "layer*.*.downsample".

    Raises InputError for a rule that changes no name, or gives two tensors one name.
    """
    for old, new in rules.items():
        if new.count("*") > old.count("*"):
            raise InputError(f"the rule {old}={new} has more * on its right than on its left")
        pattern = "([^.]*)".join(map(re.escape, old.split("*"))) + ("" if old.endswith(".") or not old else r"(?=\.|$)")
        changed = {name: _changed(name, re.compile(pattern), new) for name in state}
        if all(name == other for name, other in changed.items()):
            names = few([printable(name) for name in state])
            raise InputError(f"the rule {old}={new} changes no name in {source}, which has {names}")
        count = Counter(changed.values())
        if twice := [name for name in changed.values() if count[name] > 1]:
            raise InputError(f"the rule {old}={new} gives two tensors in {source} the name {printable(twice[0])}")
        state = {changed[name]: tensor for name, tensor in state.items()}
    return dict(state)


def _changed(name: str, pattern: re.Pattern[str], new: str) -> str:
    match = pattern.match(name)
    if match is None:
        return name
    first, *others = new.split("*")
    begin = first + "".join(kept + part for kept, part in zip(match.groups(), others, strict=False))
    rest = name[match.end() :]
    return begin + (rest if begin else rest.removeprefix("."))


def by_order(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: Mapping[str, Rows], ordered: bool, source: object
) -> Pairing:
    """The tensors of a file paired with ours: the n-th with the n-th where all shapes agree, else by shape where each
    occurs once. A convolution may stand for a linear layer of as many numbers, and a head may have other classes.

    own:     ours, in the order of layers. Integers, such as counters of batches, are left out on both sides.
    rows:    those of ours that have rows for each class.
    ordered: whether the file keeps the order of layers. If not its names are sorted, and tensors of one shape are
             paired only where their names differ in numbers alone.

    Raises InputError that names the first place where the two do not agree.
    """
    ours, theirs = _in_order(own), _in_order(state if ordered else dict(sorted(state.items(), key=_natural)))
    shapes = _of_their_classes(own, rows, [state[name].shape for name in theirs])

    def fits(their_name: str, our_name: str) -> bool:
        kinds = {KINDS[word] for name in (their_name, our_name) if (word := name.rpartition(".")[2]) in KINDS}
        return len(kinds) < 2 and reshaped(state[their_name], shapes[our_name]) is not None

    choices = {name: tuple(other for other in theirs if fits(other, name)) for name in ours}
    alike = sum(len(names) > 1 for names in choices.values())
    by_place = list(zip(theirs, ours, strict=False))
    agree = next((place for place, pair in enumerate(by_place) if not fits(*pair)), len(by_place))
    if agree == len(ours) == len(theirs) and (ordered or not alike):
        pairs: list[tuple[str, str]] | None = by_place
    else:
        pairs = _by_shape(choices, len(theirs), numbered=not ordered)
    if pairs is None:
        given = f"{source} has {len(theirs)} tensors, this system {len(ours)}"
        if agree == len(ours) == len(theirs):
            where = f"all shapes agree, but {alike} tensors share theirs with others"
        else:
            there = (
                f"{printable(theirs[agree])} {tuple(state[theirs[agree]].shape)}" if agree < len(theirs) else "nothing"
            )
            here = f"{ours[agree]} {tuple(own[ours[agree]].shape)}" if agree < len(ours) else "nothing"
            where = f"the first mismatch is at tensor {agree + 1}: {there} in the file, {here} here"
        sorted_names = "" if ordered else "; .safetensors sorts names, so the order of layers is lost"
        raise InputError(f"{given}; {where}{sorted_names}; to rename: --rename OLD=NEW")
    weights = {name: state[other].reshape(shapes[name]) for other, name in pairs}
    return Pairing(weights, pairs, alike)


def _in_order(state: Mapping[str, Tensor]) -> list[str]:
    """Names of floating-point tensors, those of one module together: weight, bias, mean and variance first."""
    modules: dict[str, list[str]] = {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    return [
        name
        for names in modules.values()
        for name in sorted(names, key=lambda name: KINDS.get(name.rpartition(".")[2], len(KINDS)))
    ]


def _natural(item: tuple[str, Tensor]) -> list[tuple[int, str]]:
    """For sorting names, with numbers by their value."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", item[0])]


def _of_their_classes(
    own: Mapping[str, Tensor], rows: Mapping[str, Rows], theirs: list[torch.Size]
) -> dict[str, torch.Size]:
    """Our shapes, with as many classes as the file has: by its last tensor that could be the head's weight."""
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for name in rows:
        inputs = shapes[name][1:]
        heads = [shape for shape in theirs if len(shape) > 1 and shape[1:].numel() == inputs.numel()]
        if inputs and heads and shapes[name][0] not in [shape[0] for shape in heads]:
            classes = rows[name].classes(heads[-1][0])
            if classes is not None:
                count = {one: torch.Size((rows[one].count(classes), *shapes[one][1:])) for one in rows}
                return shapes | count
    return shapes


def _by_shape(choices: Mapping[str, tuple[str, ...]], count: int, *, numbered: bool) -> list[tuple[str, str]] | None:
    """Pairs where each of ours has one choice or, if `numbered`, as many as there are of ours whose names differ in
    numbers alone; None where that does not pair all `count` of theirs."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, names in choices.items():
        groups.setdefault(names, []).append(name)
    pairs = list[tuple[str, str]]()
    for theirs, ours in groups.items():
        words = {re.sub(r"\d+", "", name) for name in theirs}
        if len(theirs) != len(ours) or (len(theirs) > 1 and not (numbered and len(words) == 1)):
            return None
        pairs += zip(theirs, ours, strict=True)
    paired = {theirs for theirs, _ in pairs}
    order = {name: place for place, name in enumerate(choices)}
    return sorted(pairs, key=lambda pair: order[pair[1]]) if len(paired) == len(pairs) == count else None
