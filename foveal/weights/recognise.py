"""Whose layout the names in a file are: each publisher's file converts names to ours, and the one that gives most of
the system's names is taken."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from foveal.errors import printable
from foveal.system import System
from foveal.weights import (
    diffusers,
    efficientnet_pytorch,
    facebook,
    microsoft,
    pytorch_examples,
    pytorch_tutorials,
    timm,
    torchvision,
    transformers,
)
from foveal.weights.rows import class_rows
from foveal.weights.rules import reshaped

Converter = Callable[[System, Mapping[str, Tensor]], dict[str, Tensor] | None]

PUBLISHERS: dict[str, Converter] = {
    "torchvision": torchvision.convert,
    "timm": timm.convert,
    "microsoft": microsoft.convert,
    "efficientnet_pytorch": efficientnet_pytorch.convert,
    "facebook": facebook.convert,
    "transformers": transformers.convert,
    "pytorch_examples": pytorch_examples.convert,
    "pytorch_tutorials": pytorch_tutorials.convert,
    "diffusers": diffusers.convert,
}
HEAD = 4  # names that a head may have outside a prefix which all others share
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue in grey images: ITU-R BT.601


class Reading(NamedTuple):
    """A file's tensors under the system's names.

    layout: "foveal", or the publisher whose names they were.
    prefix: stood before the names.
    head:   the module that the classifier's weights were under, where that is not the layout's name for it.
    grey:   the first layer, where it took one channel and now takes three.
    """

    layout: str
    weights: dict[str, Tensor]
    prefix: str = ""
    head: str | None = None
    grey: str | None = None

    @property
    def exact(self) -> bool:
        """Whether every name was the layout's own."""
        return not (self.prefix or self.head or self.grey)

    def differences(self) -> str:
        """How the file departs from its layout, as the end of a sentence."""
        text = f", without the prefix {printable(self.prefix)} of its names" if self.prefix else ""
        text += f", its head from {printable(self.head)}" if self.head else ""
        return text + (f", {self.grey} applied to the luminance of colours" if self.grey else "")


def translate(system: System, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """(layout, tensors under the system's names): the layout that gives most of the names that the system has.

    `state` may be any tensors under the publisher's names: weights, or their gradients.
    """
    reading = _best(system, state)
    return reading.layout, reading.weights


def recognised(system: System, state: Mapping[str, Tensor]) -> Reading:
    """Weights of a file as this system takes them: by its layout, without tensors that this variant has no place for,
    and with a head or a first layer that alone differ in name or channels."""
    reading = _best(system, state)
    weights = system.needed(reading.weights)
    weights, head = _renamed_head(system, weights)
    weights, grey = _luminance(system, weights)
    return reading._replace(weights=weights, head=head, grey=grey)


def _best(system: System, state: Mapping[str, Tensor]) -> Reading:
    names = system.state_dict().keys()
    best, most = Reading("foveal", dict(state)), -1
    for prefix, tensors in _without_prefixes(state):
        readings = {"foveal": dict(tensors)}
        for publisher, convert in PUBLISHERS.items():
            if (converted := convert(system, tensors)) is not None:
                readings[publisher] = converted
        for layout, weights in readings.items():
            if (count := len(names & weights.keys())) > most:
                best, most = Reading(layout, weights, prefix), count
    return best


def nearest_layout(system: System, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """(publisher, how many of the names are in its layout), for names of which most are in none."""
    own, counts = system.state_dict().keys(), Counter[str]()
    for publisher, convert in PUBLISHERS.items():
        converted = [convert(system, {name: tensor}) or {} for name, tensor in state.items() if name not in own]
        counts[publisher] = sum(not own.isdisjoint(one) for one in converted)
    return counts.most_common(1)[0]


def _without_prefixes(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """(prefix, tensors without it): as they are, and without each prefix, such as "module." or "backbone.", that all
    names share, but those of a head."""
    prefix = ""
    while True:
        yield prefix, state
        words = Counter(name.partition(".")[0] for name in state if "." in name)
        word, count = words.most_common(1)[0] if words else ("", 0)
        if count <= len(state) // 2 or count < len(state) - HEAD:
            return
        shorter = {name.removeprefix(f"{word}."): tensor for name, tensor in state.items()}
        if len(shorter) < len(state):
            return
        prefix, state = f"{prefix}{word}.", shorter


def _renamed_head(system: System, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The weights with those of the classifier under our name, and the name that they had, where nothing else is
    missing or left over: users call it linear, head, last_linear, fc ..."""
    own = system.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    left_over = [name for name in weights if name not in own]
    if not 0 < len(missing) == len(left_over) <= HEAD or set(missing) != set(class_rows(system)):
        return weights, None
    found = dict[str, Tensor]()
    for name in missing:
        kind = name.rpartition(".")[2]
        alike = [other for other in left_over if other.rpartition(".")[2] == kind]
        given = reshaped(weights[alike[0]], own[name].shape, rows=True) if len(alike) == 1 else None
        if given is None:
            return weights, None
        found[name] = given
    modules = {name.rpartition(".")[0] for name in left_over}
    kept = {name: tensor for name, tensor in weights.items() if name in own}
    return kept | found, " and ".join(sorted(modules))


def _luminance(system: System, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The weights with a first layer of one channel made one of three, and its name. Its outputs for a colour are those
    for the colour's luminance, if the three channels are normalised alike."""
    shapes = {name: tensor.shape for name, tensor in system.state_dict().items()}
    differ = [name for name, tensor in weights.items() if name in shapes and tensor.shape[1:] != shapes[name][1:]]
    if len(differ) != 1 or weights[differ[0]].ndim != 4:
        return weights, None
    name = differ[0]
    rows, inputs, *kernel = weights[name].shape
    if inputs != 1 or shapes[name] != (rows, 3, *kernel) or system.preprocess.channels != 3:
        return weights, None
    tensor = weights[name]
    share = tensor.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return {**weights, name: tensor * share}, name.rpartition(".")[0]
