"""A system as JSON, in the header of a checkpoint that anybody may have written: checked before anything is built.

The values have the types of the variant's Spec, and sizes that no published model reaches. Systems inside another are
objects. A string is never a path: it is compared with the catalog and with the choices of a field, and nothing else.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NotRequired, TypedDict, get_origin, get_type_hints

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from foveal.catalog import ENTRIES, PREPARATION, holds_systems, is_base, settable, variant
from foveal.errors import InputError, nearest, printable
from foveal.nn.init import Init
from foveal.schema import check
from foveal.system import Preprocess

MAX_SYSTEMS = 256  # systems within one, at all levels
MAX_LEVELS = 8  # of systems within systems
MAX_CLASSES = 2**17  # ImageNet-21k has 21,843
MAX_PARTS = 1024  # numbers or rows in one setting
LARGEST = 2**20  # a number in a setting
MAX_NAME = 1000  # characters of a class name or any other text
MAX_MODULES = 10_000  # and as many tensors of a system: ResNet-152 has 600, and 950
MAX_UNSAVED = 2**28  # bytes of the buffers of a system that its checkpoint does not hold, such as tables of positions


class Description(TypedDict):
    """The part of a header that rebuilds a system."""

    name: str | None
    variant: dict[str, Any]
    labels: list[str]
    preprocess: Preprocess
    licence: str | None
    task: NotRequired[str]
    class_ids: NotRequired[dict[str, int]]


def check_description(value: Any) -> None:
    """InputError, which names the key, where a JSON value describes no system of the catalog. The name may be null, for
    a system of a class of the user's own; its variant is not checked then."""
    _check(value, "", 0, [0])


def _check(value: Any, place: str, level: int, count: list[int]) -> None:
    count[0] += 1
    if level > MAX_LEVELS or count[0] > MAX_SYSTEMS:
        raise InputError(f"it holds more than {MAX_SYSTEMS} systems, or more than {MAX_LEVELS} levels of them")
    check(value, Description, place)
    inside = f"{place}." if place else ""
    check_labels(value["labels"], f"{inside}labels")
    _check_preprocess(value["preprocess"], f"{inside}preprocess")
    check_size([value["licence"] or "", value.get("task", "")], place)
    if value["name"] is None:
        return
    if value["name"] not in ENTRIES:
        raise InputError(f"unknown system {printable(value['name'])!r}{nearest(value['name'][:MAX_NAME], ENTRIES)}")
    spec = variant(value["name"])
    hints = get_type_hints(type(spec), include_extras=True) | {"init": Init}
    for field, given in value["variant"].items():
        known = {*settable(spec), "init"} - {*PREPARATION, "preprocess"}
        if field not in known:
            raise InputError(f"{value['name']} has no setting {printable(field)!r}{nearest(field[:MAX_NAME], known)}")
        here = f"{inside}variant.{field}"
        if holds_systems(hints[field]):
            _check_systems(given, hints[field], here, level, count)
        else:
            check(given, hints[field], here)
            check_size(given, here)


def _check_systems(value: Any, hint: Any, place: str, level: int, count: list[int]) -> None:
    if is_base(hint) and isinstance(value, str) and value in ENTRIES:
        return
    if value is None and not is_base(hint) and get_origin(hint) is not tuple:
        return
    if get_origin(hint) is tuple:
        check(value, list[dict[str, Any]], place)
        for number, one in enumerate(value):
            _check(one, f"{place}[{number}]", level + 1, count)
        return
    if not isinstance(value, dict):
        raise InputError(f"{place} has to be an object that describes a system; a header names no file")
    _check(value, place, level + 1, count)


def check_labels(labels: Sequence[str], place: str) -> None:
    """InputError for class names that are too many, too long, twice there, or hold control characters."""
    if len(labels) > MAX_CLASSES:
        raise InputError(f"{place} has {len(labels):,} names; there may be {MAX_CLASSES:,} at most")
    seen = set[str]()
    for number, label in enumerate(labels):
        if len(label) > MAX_NAME:
            raise InputError(f"{place}[{number}] is longer than {MAX_NAME} characters")
        if any(sign < " " or "\x7f" <= sign <= "\x9f" for sign in label):
            raise InputError(f"{place}[{number}] has a control character: {printable(label)}")
        if label in seen:
            raise InputError(f"{place}[{number}]: class names must be unique: {printable(label)}")
        seen.add(label)


def _check_preprocess(value: Mapping[str, Any], place: str) -> None:
    names = [field.name for field in fields(Preprocess)]
    if unknown := [name for name in value if name not in names]:
        raise InputError(f"{place} has no {printable(unknown[0])!r}{nearest(unknown[0][:MAX_NAME], names)}")
    try:
        Preprocess(**value)
    except InputError as error:
        raise InputError(f"{place}.{error}") from None


def check_size(value: Any, place: str) -> None:
    """InputError where a setting has more parts, a longer text or a larger number than any model."""
    if isinstance(value, list | tuple):
        if len(value) > MAX_PARTS:
            raise InputError(f"{place} has {len(value):,} parts; there may be {MAX_PARTS:,} at most")
        for number, part in enumerate(value):
            check_size(part, f"{place}[{number}]")
    elif isinstance(value, str):
        if len(value) > MAX_NAME:
            raise InputError(f"{place} is longer than {MAX_NAME} characters")
    elif isinstance(value, int | float) and abs(value) > LARGEST:
        raise InputError(f"{place} has to be at most {LARGEST:,}, not {value:.4g}")


@contextmanager
def limited(saved: int) -> Iterator[None]:
    """Within the block InputError ends the building of a system with far more modules or tensors than the tensors that
    are saved of it, or than any model has."""
    most = min(MAX_MODULES, 1000 + 4 * saved)
    left = {"modules": most, "tensors": most}
    thread = threading.get_ident()  # others build what they like

    def count(what: str) -> Any:
        def hook(module: nn.Module, name: str, value: Any) -> None:
            if threading.get_ident() == thread:
                left[what] -= 1
                if left[what] < 0:
                    raise InputError(f"it describes a system of more than {most:,} {what}")

        return hook

    handles = [
        register_module_module_registration_hook(count("modules")),
        register_module_parameter_registration_hook(count("tensors")),
        register_module_buffer_registration_hook(count("tensors")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_unsaved(system: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """InputError where a system on "meta" needs much memory besides that of the tensors in its checkpoint."""
    unsaved = [buffer for name, buffer in system.named_buffers() if name not in saved]
    if (size := sum(buffer.numel() * buffer.element_size() for buffer in unsaved)) > MAX_UNSAVED:
        raise InputError(f"it describes a system that needs {size:,} bytes besides its weights")
