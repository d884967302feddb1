"""Weights of any publisher into a system: one file a publisher, with how its names map to ours."""

import io
import json
import os
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from foveal.errors import InputError, few
from foveal.nn.fitted import Fitted
from foveal.system import System
from foveal.weights import (
    diffusers,
    efficientnet_pytorch,
    facebook,
    microsoft,
    pytorch_examples,
    timm,
    torchvision,
    transformers,
)
from foveal.weights.saved import TRAIN

Converter = Callable[[System, Mapping[str, Tensor]], dict[str, Tensor] | None]

PUBLISHERS: dict[str, Converter] = {
    "torchvision": torchvision.convert,
    "timm": timm.convert,
    "microsoft": microsoft.convert,
    "efficientnet_pytorch": efficientnet_pytorch.convert,
    "facebook": facebook.convert,
    "transformers": transformers.convert,
    "pytorch_examples": pytorch_examples.convert,
    "diffusers": diffusers.convert,
}
# A running mean of the weights goes first: where one was kept, it is what was measured and published.
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict")
WRAPPINGS = (*AVERAGES, "model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, Lightning


class Misfit(InputError):
    """Weights that are not those of this system. state: what was read, under the file's names."""

    def __init__(self, text: str, state: Mapping[str, Tensor]) -> None:
        super().__init__(text)
        self.state = state


def load_weights(system: System, path: str | PathLike[str], published: Sequence[str] = ()) -> None:
    """Weights from a .safetensors file, or one that torch.save made, into a system; all of them or none.

    The layout, foveal's own or another publisher's, is recognised by its names; the numbers take the system's type.
    Where the file's classes are known and others than the system's, what has a row for each class goes by their names:
    classes that the file knows keep their rows, the others begin anew.

    published: the classes of a publisher's file, if it has so many.
    A file of the system that this one is built upon, as of a detector's backbone, is taken for that.

    Raises InputError for a file that is missing, truncated, not of weights, or whose opening would have to run code,
    and Misfit for weights that are not exactly this system's.
    """
    path = Path(path)
    state, wrapping = read(path)
    if system.base is not None and _of_base(system, system.base, state):
        _load_base(system, system.base, path, state)
        return
    own = system.state_dict()
    layout, weights = translate(system, state)
    weights = system.needed(weights)
    added = [name for name in system.optional(weights) if name not in weights]
    weights = _counters(own) | weights | {name: own[name] for name in added}
    known = class_names(path)
    if known and known != system.labels and _fitted(system):
        raise InputError(f"{path} was fitted to other classes, {few(known)}: what it remembers is of those")
    labels = known or tuple(published)
    rows = _class_rows(system) if known == () or (labels and labels != system.labels) else {}
    said = f"{path.name} ({layout}'s layout)" if layout != "foveal" else path.name
    said += f", the running mean in it ({wrapping})" if wrapping in AVERAGES else ""
    if rows and all(len(weights.get(name, ())) == rows[name].count(len(labels)) for name in rows):
        given = {name: _by_name(own[name], system.labels, weights[name], labels, rows[name]) for name in rows}
        weights = {**weights, **given}
        said += f", its head anew: {len({*labels} & {*system.labels})} of {len(system.labels)} classes are known to it"
    elif known == () and rows and not any(name in weights for name in rows):
        weights = {**weights, **{name: own[name] for name in rows}}
        said += ", its head anew: the file has none"
    if added:
        said += f", which lacks {few(added, 1)}: these begin anew"
    kind = "" if layout == "foveal" else f" ({layout}'s layout)"
    about = f"{path}{kind} does not fit {system.name or type(system).__name__}"
    if complaint := _misfit(system, own, weights):
        raise Misfit(f"{about}: {complaint}", state)
    if complaint := system.refuses(layout):
        raise InputError(f"{about}: {complaint}")
    learned = [name for name, _ in system.named_parameters()]
    if spoilt := [name for name in learned if not weights[name].isfinite().all()]:
        raise InputError(f"{path} holds what is not finite, in {few(spoilt)}: its training has run away")
    system.load_state_dict(weights)
    system.started_from = said
    if layout != "foveal":
        system.licence = f"that of the weights published by {layout}"


def _of_base(system: System, base: System, state: Mapping[str, Tensor]) -> bool:
    """Whether weights have more names of the system that another is built upon than of that other one."""
    found = [len(one.state_dict().keys() & translate(one, state)[1].keys()) for one in (_whole(base), system)]
    return found[0] > found[1]


def _load_base(system: System, base: System, path: Path, state: Mapping[str, Tensor]) -> None:
    """Weights of a whole system into one that another is built upon, which may lack its end."""
    whole, own = _whole(base), base.state_dict()
    layout, weights = translate(whole, state)
    weights = whole.needed(weights)
    unknown = {name: tensor for name, tensor in weights.items() if name not in whole.state_dict()}
    kept = _counters(own) | {name: weights[name] for name in own if name in weights}
    name = base.name or type(base).__name__
    about = (
        f"{path} ({layout}'s layout) does not fit {name}, which {system.name or type(system).__name__} is built upon"
    )
    if complaint := _misfit(base, own, kept | unknown) or base.refuses(layout):
        raise Misfit(f"{about}: {complaint}", state)
    if spoilt := [name for name, tensor in kept.items() if not tensor.isfinite().all()]:
        raise InputError(f"{path} holds what is not finite, in {few(spoilt)}: its training has run away")
    base.load_state_dict(kept)
    system.started_from = base.started_from = f"{path.name} ({layout}'s layout), for its backbone {name}"
    if layout != "foveal":
        system.licence = f"that of the weights published by {layout}"


def _whole(base: System) -> System:
    """A system as it was before its end was cut off, on "meta"."""
    with torch.device("meta"):
        return type(base)(base.spec)


def fits(system: System, state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of this system, but perhaps for the number of classes. It may lie on "meta"."""
    own = system.state_dict()
    layout, weights = translate(system, state)
    weights = _counters(own) | system.needed(weights)
    if own.keys() != weights.keys() or system.misfit(weights) or system.refuses(layout):
        return False
    shapes = {n: (own[n].shape, weights[n].shape) for n in own if own[n].shape != weights[n].shape}
    return not shapes or _differ_in_classes(system, shapes) is not None


def _counters(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What files from before 2018 lack, and only a BatchNorm without momentum uses."""
    return {name: own[name] for name in own if name.endswith("num_batches_tracked")}


def _differ_in_classes(system: System, shapes: Mapping[str, tuple[torch.Size, torch.Size]]) -> int | None:
    """For how many classes the second of each pair of shapes, the system's and a given one, has its rows; None where
    they differ in something else, too."""
    rows, counts = _class_rows(system) if shapes else {}, set()
    for name, (own, given) in shapes.items():
        if name not in rows or own[1:] != given[1:]:
            return None
        counts.add(rows[name].classes(given[0]))
    return counts.pop() if len(counts) == 1 else None


def class_names(path: str | PathLike[str], task: str | None = None) -> tuple[str, ...] | None:
    """The classes that a checkpoint of foveal knows, if it is of this task; None for other files."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["foveal"])
            return tuple(map(str, header["labels"])) if task in (None, header["task"]) else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


class Rows(NamedTuple):
    """Which rows of a tensor are of which class.

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


def _class_rows(system: System) -> dict[str, Rows]:
    """The tensors that have rows for each class: those that grow where there is one class more."""
    spec, classes = system.spec, len(system.labels)
    with torch.device("meta"):
        # What another system is built upon was cut to fit, so it is made anew.
        named = [field.name for field in fields(spec) if getattr(spec, field.name) is system.base]
        bases: dict[str, Any] = {} if system.base is None else dict.fromkeys(named, _whole(system.base))
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


def _by_name(own: Tensor, labels: Sequence[str], given: Tensor, known: Sequence[str], which: Rows) -> Tensor:
    """The own rows, with the given ones for the classes that are known and for what is of no class."""
    if own.shape[1:] != given.shape[1:]:
        return given  # a misfit, which is to be told
    rows = own.clone()
    ours, theirs = which.of(len(labels)), which.of(len(known))
    if shared := [label for label in labels if label in known]:
        new = given[theirs[[known.index(label) for label in shared]].flatten()]
        rows[ours[[labels.index(label) for label in shared]].flatten()] = new.to(own)
    rows[which.of_none(len(labels))] = given[which.of_none(len(known))].to(own)
    return rows


def translate(system: System, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """(layout, tensors under the system's names): the layout that gives most of the names that the system has.

    `state` may be any tensors under the publisher's names: weights, or their gradients.
    """
    names = system.state_dict().keys()
    readings = {"foveal": dict(state)}
    for publisher, convert in PUBLISHERS.items():
        if (converted := convert(system, state)) is not None:
            readings[publisher] = converted
    layout = max(readings, key=lambda layout: len(names & readings[layout].keys()))
    return layout, readings[layout]


def read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The named tensors in a file, without what a training run keeps beside them or around their names, and under which
    of WRAPPINGS they were."""
    _check_kind(path)
    content, wrapping = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path), None
    for _ in WRAPPINGS:  # each may stand around another
        inner = [key for key in WRAPPINGS if _is_map(content) and _is_map(content.get(key))]
        if inner:
            content, wrapping = content[inner[0]], inner[0]
    if wrapping in AVERAGES and "n_averaged" in content:  # the counter of torch's AveragedModel
        content = {name: value for name, value in content.items() if name != "n_averaged"}
    if not _is_map(content) or not all(isinstance(value, Tensor) for value in content.values()):
        found = ", ".join(map(str, list(content)[:5])) if _is_map(content) else type(content).__name__
        raise InputError(f"{path} holds no weights by name, at its top or under {', '.join(WRAPPINGS)}, but {found}")
    state = {name: tensor for name, tensor in content.items() if not name.startswith(TRAIN)}
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state, wrapping


def _check_kind(path: Path) -> None:
    """InputError for what stands where weights should, and is known by its first bytes."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of weights in it; that of a run is best.safetensors")
    if not path.is_file():
        raise InputError(f"there is no file of weights at {path}")
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise InputError(f"{path} is empty, so it is no file of weights")
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise InputError(
            f"{path} is a web page, not weights: what was downloaded is an answer of the server; try again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} only points to weights that git-lfs keeps: git lfs pull brings them")


def _is_safetensors(path: Path) -> bool:
    """By its suffix or, whatever it is called, by how it begins: eight bytes of a length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file, it may be truncated: {error}") from None


def _read_torch(path: Path) -> Any:
    try:
        # A record of command-line arguments is often kept beside the weights, and only holds values.
        with ExitStack() as stack:
            stack.enter_context(torch.serialization.safe_globals([Namespace]))
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            file: Any = path if is_zipfile(path) else stack.enter_context(_Whole(path))
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load meets a foreign file with whatever its bytes lead to
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} would run code when opened ({match[1]}) and was not opened; "
                "if you trust who made it, save its state_dict alone, as .safetensors"
            ) from None
        raise InputError(
            f"{path} is no whole file of weights by torch.save: it is truncated, or of another kind"
        ) from None


class _Whole(io.FileIO):
    """A file that is never asked for more than it has: a pickle's word for a length is no reason for gigabytes."""

    def read(self, size: int | None = -1) -> Any:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _is_map(value: Any) -> bool:
    """Whether a value has entries by name."""
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(key, str) for key in value)


def _misfit(system: System, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Why these are not the weights of this system; None where they are."""
    missing = [name for name in own if name not in weights]
    left_over = [name for name in weights if name not in own]
    common = [name for name in own if name in weights]
    compared = [name for name in common if name not in _fitted(system)]
    shaped = [name for name in compared if own[name].shape != weights[name].shape]
    typed = [name for name in compared if own[name].is_floating_point() and not weights[name].is_floating_point()]
    if not [name for name in common if not name.endswith("num_batches_tracked")]:
        return f"its names are of none of the layouts foveal, {', '.join(PUBLISHERS)}: {few(left_over)}"
    if known := system.misfit(weights):
        return known
    pairs = {name: (own[name].shape, weights[name].shape) for name in shaped}
    theirs, ours = _differ_in_classes(system, pairs), len(system.labels)
    if theirs is not None and not (missing or left_over or typed):
        return f"it knows {theirs} classes, the system {ours} ({shaped[0]}); create it with the file's labels"
    complaints = {
        "missing": missing,
        "left over": left_over,
        "of another shape": [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in shaped],
        "not floating-point": typed,
    }
    return "; ".join(f"{what}: {few(names)}" for what, names in complaints.items() if names) or None


def _fitted(system: System) -> set[str]:
    """Names of the tensors whose sizes and types only the data tells."""
    holders = [(name, module) for name, module in system.named_modules() if isinstance(module, Fitted)]
    return {f"{holder}.{name}" for holder, module in holders for name, _ in module.named_buffers(recurse=False)}
