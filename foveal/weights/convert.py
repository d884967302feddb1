"""Weights of any publisher, or of no known one, into a system."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from foveal.errors import InputError, few, printable
from foveal.nn.fitted import fitted_names
from foveal.system import System
from foveal.weights.files import AVERAGES, Content, class_names, read
from foveal.weights.matching import by_order, renamed
from foveal.weights.recognise import PUBLISHERS, Reading, nearest_layout, recognised, translate
from foveal.weights.rows import by_name, class_rows, differ_in_classes, whole
from foveal.weights.saved import check_finite, check_parts

Match = Literal["names", "order"]
# Classes of ImageNet and COCO, on which publishers train. Files with other numbers are of users, who share the layouts
# and have normalisations of their own.
PUBLISHED = {80, 90, 91, 1000}
# A file may hold the state of an optimizer, averages and other networks beside the weights, or be another system's.
MAX_FILE, MAX_COPIES = 2**32, 64  # bytes; how many times those of the system
UNRECORDED = ("subsampling", "activation")  # settings that change outputs and leave weights as they are


class Misfit(InputError):
    """Weights that are not those of this system.

    state:  what was read, under the file's names.
    pairs:  whether its tensors can be paired with the system's by order.
    """

    def __init__(self, text: str, state: Mapping[str, Tensor], advice: str = "", *, pairs: bool = False) -> None:
        super().__init__(text + advice)
        self.text, self.state, self.pairs = text, state, pairs


def load_weights(
    system: System,
    path: str | PathLike[str],
    published: Sequence[str] = (),
    *,
    match: Match = "names",
    rename: Mapping[str, str] | None = None,
) -> list[str]:
    """Weights from a .safetensors file, or one that torch.save made, into a system; all of them or none.

    The layout, foveal's own or another publisher's, is recognised by its names; the numbers take the system's type.
    Where the file's classes are known and differ from the system's, rows for classes go by their names: classes of the
    file keep their rows, the others are initialised.

    published: the classes of a publisher's file, if it has so many.
    match:     "order" pairs tensors by order and shape, whatever their names (matching.by_order).
    rename:    rules for the file's names, applied before the layout is recognised (matching.renamed).
    A file of the system's base, as of a detector's backbone, goes into that base.

    Returns notes for the user: the pairs that were made, and settings that no file of weights records.

    Raises InputError for a file that is missing, truncated, not of weights, or whose opening would have to run code,
    and Misfit for weights that are not exactly this system's.
    """
    path = Path(path)
    own_bytes = sum(tensor.nbytes for tensor in system.state_dict().values())
    content = read(path, max(MAX_FILE, MAX_COPIES * own_bytes))
    if match not in get_args(Match):
        raise InputError(f"match is names or order, not {match!r}")
    if match == "order" and rename:
        raise InputError("rename has no effect with match order, which leaves names aside: leave out one of them")
    if rename:
        content = content._replace(state=renamed(content.state, rename, path))
    if match == "names" and system.base is not None and _of_base(system, system.base, content.state):
        return _load_base(system, system.base, path, content.state)
    if match == "order":
        reading, notes = _by_order(system, content, path)
    else:
        reading, notes = recognised(system, content.state), []
    kind = _kind(reading)
    source = f"{path.name}{kind}{reading.differences()}"
    source += f", the running mean in it ({content.wrapping})" if content.wrapping in AVERAGES else ""
    own = system.state_dict()
    added = [name for name in system.optional(reading.weights) if name not in reading.weights]
    weights = _counters(own) | reading.weights | {name: own[name] for name in added}
    foreign = reading.layout != "foveal" or bool(rename)
    if foreign and not (_as_published(system, reading) and not rename):
        notes = [*notes, *_unrecorded(system, reading, path)]
    weights, head = _for_classes(system, path, weights, published)
    source += head
    if added:
        source += f", which lacks {few(added, 1)}: these begin anew"
    about = f"{path}{kind} does not fit {system.name or type(system).__name__}"
    if complaint := _misfit(system, own, weights):
        raise _refusal(system, f"{about}: {complaint}", weights, content, path)
    if complaint := system.refuses(reading.layout):
        raise InputError(f"{about}: {complaint}")
    before = {name: tensor.clone() for name, tensor in own.items()} if fitted_names(system) else None
    check_finite({name: weights[name] for name in {*fitted_names(system), *dict(system.named_parameters())}}, path)
    system.load_state_dict(weights)
    if before is not None:
        try:
            check_parts(system, path)
        except InputError:
            system.load_state_dict(before)
            raise
    system.started_from = source
    if foreign:
        publisher = f"by {reading.layout}" if reading.layout in PUBLISHERS and not rename else f"as {path.name}"
        system.licence = f"that of the weights published {publisher}"
    return notes


def fits(system: System, state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of this system, but perhaps for the number of classes. It may lie on "meta"."""
    own = system.state_dict()
    reading = recognised(system, state)
    weights = _counters(own) | reading.weights
    if own.keys() != weights.keys() or system.misfit(weights) or system.refuses(reading.layout):
        return False
    shapes = {n: (own[n].shape, weights[n].shape) for n in own if own[n].shape != weights[n].shape}
    return not shapes or differ_in_classes(system, shapes) is not None


def _kind(reading: Reading) -> str:
    """How a file's tensors became ours, in brackets."""
    if reading.layout == "foveal":
        return ""
    return f" ({reading.layout}'s layout)" if reading.layout in PUBLISHERS else " (paired by order)"


def _by_order(system: System, content: Content, path: Path) -> tuple[Reading, list[str]]:
    """A file's tensors paired with the system's, and the table of pairs."""
    own = system.state_dict()
    if fitted_names(system):
        raise InputError(f"match order has no effect: {system.name} is fitted, so its shapes come from data")
    pairing = by_order(own, content.state, class_rows(system), content.ordered, path)
    kept = {name: tensor for name, tensor in own.items() if not tensor.is_floating_point()}
    return Reading("order", kept | pairing.weights), list(pairing.lines())


def _for_classes(
    system: System, path: Path, weights: dict[str, Tensor], published: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """The weights with rows for the system's classes, where the file's are known and others, and how they came so."""
    known = class_names(path)
    if known and known != system.labels and fitted_names(system):
        raise InputError(f"{path} was fitted to other classes, {few(known)}: what it remembers is of those")
    labels = known or tuple(published)
    rows = class_rows(system) if known == () or (labels and labels != system.labels) else {}
    own = system.state_dict()
    if rows and all(len(weights.get(name, ())) == rows[name].count(len(labels)) for name in rows):
        given = {name: by_name(own[name], system.labels, weights[name], labels, rows[name]) for name in rows}
        shared = len({*labels} & {*system.labels})
        return weights | given, f", its head anew: {shared} of {len(system.labels)} classes are known to it"
    if known == () and rows and not any(name in weights for name in rows):
        return weights | {name: own[name] for name in rows}, ", its head anew: the file has none"
    return weights, ""


def _as_published(system: System, reading: Reading) -> bool:
    """Whether a file can be a publisher's own, whose normalisation the catalog has: its names are, and its classes."""
    if not (reading.exact and reading.layout in PUBLISHERS):
        return False
    rows = class_rows(system)
    counts = {rows[name].classes(len(reading.weights[name])) for name in rows if name in reading.weights}
    return counts <= PUBLISHED


def _unrecorded(system: System, reading: Reading, path: Path) -> list[str]:
    """Notes on settings that a file of weights cannot record, with those that are used."""
    mean, std = ([f"{value:g}" for value in values] for values in (system.preprocess.mean, system.preprocess.std))
    used = {"mean": " ".join(mean), "std": " ".join(std)}
    used |= {name: getattr(system.spec, name) for name in UNRECORDED if hasattr(system.spec, name)}
    values = ", ".join(f"{name} {value}" for name, value in used.items())
    notes = [f"{path.name} does not record its normalisation or other settings; used here: {values}"]
    if reading.grey and len({*mean}) + len({*std}) > 2:
        notes.append(f"{path.name} takes grey images: give one mean and one std, or its outputs differ")
    return notes


def _of_base(system: System, base: System, state: Mapping[str, Tensor]) -> bool:
    """Whether weights have more names of the base of a system than of the system."""
    found = [len(one.state_dict().keys() & translate(one, state)[1].keys()) for one in (whole(base), system)]
    return found[0] > found[1]


def _load_base(system: System, base: System, path: Path, state: Mapping[str, Tensor]) -> list[str]:
    """Weights of a whole system into one that is the base of another, and may lack its end."""
    entire, own = whole(base), base.state_dict()
    reading = recognised(entire, state)
    unknown = {name: tensor for name, tensor in reading.weights.items() if name not in entire.state_dict()}
    kept = _counters(own) | {name: reading.weights[name] for name in own if name in reading.weights}
    name = base.name or type(base).__name__
    layout = f"{reading.layout}'s layout"
    about = f"{path} ({layout}) does not fit {name}, which {system.name or type(system).__name__} is built upon"
    if complaint := _misfit(base, own, kept | unknown) or base.refuses(reading.layout):
        raise Misfit(f"{about}: {complaint}", state)
    check_finite(kept, path)
    base.load_state_dict(kept)
    system.started_from = base.started_from = f"{path.name} ({layout}){reading.differences()}, for its backbone {name}"
    if reading.layout != "foveal":
        system.licence = f"that of the weights published by {reading.layout}"
    return []


def _counters(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What files from before 2018 lack, and only a BatchNorm without momentum uses."""
    return {name: own[name] for name in own if name.endswith("num_batches_tracked")}


def _refusal(system: System, text: str, weights: Mapping[str, Tensor], content: Content, path: Path) -> Misfit:
    """The error for weights that are not the system's, with what to try where their names are not ours."""
    own = system.state_dict()
    if own.keys() <= weights.keys() or weights.keys() <= own.keys():
        return Misfit(text, content.state)
    try:
        by_order(own, content.state, class_rows(system), content.ordered, path)
    except InputError:
        return Misfit(text, content.state, "; to rename: --rename OLD=NEW")
    advice = "; its shapes fit in order: try --match order, or --rename OLD=NEW"
    return Misfit(text, content.state, advice, pairs=True)


def _misfit(system: System, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Why these are not the weights of this system; None where they are."""
    missing = [name for name in own if name not in weights]
    left_over = [printable(name) for name in weights if name not in own]
    common = [name for name in own if name in weights]
    compared = [name for name in common if name not in fitted_names(system)]
    shaped = [name for name in compared if own[name].shape != weights[name].shape]
    typed = [name for name in common if own[name].is_floating_point() and not weights[name].is_floating_point()]
    if not [name for name in common if not name.endswith("num_batches_tracked")]:
        layout, count = nearest_layout(system, weights)
        known = f"none of the layouts foveal, {', '.join(PUBLISHERS)}"
        nearest = f"no known layout, nearest {layout}'s ({count} of {len(weights.keys() - own.keys())} names)"
        names = f"missing: {few(missing, 1)}; left over: {few(left_over)}"
        return f"its names are of {nearest if count else known}; {names}"
    if complaint := system.misfit(weights):
        return complaint
    pairs = {name: (own[name].shape, weights[name].shape) for name in shaped}
    theirs, ours = differ_in_classes(system, pairs), len(system.labels)
    if theirs is not None and not (missing or left_over or typed):
        return f"it knows {theirs} classes, the system {ours} ({shaped[0]}); create it with the file's labels"
    complaints = {
        "missing": missing,
        "left over": left_over,
        "of another shape": [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in shaped],
        "not floating-point": typed,
    }
    return "; ".join(f"{what}: {few(names)}" for what, names in complaints.items() if names) or None
