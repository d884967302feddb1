"""foveal train"""

import ast
import inspect
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from foveal.build import create
from foveal.catalog import (
    ENTRIES,
    PREPARATION,
    base_fields,
    family,
    holds_systems,
    is_base,
    settable,
    task_of,
    variant,
)
from foveal.cli.common import Data, answer, parse, table
from foveal.cli.weights import Matching, Rules, loading_of
from foveal.errors import InputError, nearest
from foveal.progress import Bar
from foveal.train.config import OF_A_FIT, TrainConfig, resolve
from foveal.train.defaults import FineTuning, Start
from foveal.wording import counted

TEXT = "A system's name; foveal list shows them."
NAME = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=TEXT)]


@dataclass(frozen=True)
class Options:
    """Train a system on your images and leave a run directory: checkpoints, metrics, a report.

    Example: foveal train resnet_nano --data digits --epochs 20 --out runs/digits

    foveal train NAME --help shows the settings of that system and the defaults of its recipe; with --weights, those of
    its fine-tuning recipe.
    """

    data: Data
    outside: bool = False
    """Let links and annotations of the data lead to files outside its folder."""
    weights: str | None = None
    """Published weights, or a run, to start from."""
    match: Matching = "names"
    """order: pair the tensors of --weights by order and shape, whatever their names."""
    rename: Rules = ()
    """A rule for names in --weights, such as net.conv1=conv1; may be given several times."""
    pretext: Literal["none", "rotation"] = "none"
    """rotation: leave classes aside and learn how images are turned; another run then starts from what was learned."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    name, options = read(words)
    if options.weights and family(name).can("fit"):
        raise InputError(f"weights has no effect: {name} is fitted by a rule of its own, from nothing")

    import torch

    from foveal.data.pretext import rotations
    from foveal.data.sources import load_dataset
    from foveal.report.training import train
    from foveal.structures import Picture
    from foveal.train.distributed import joined
    from foveal.train.record import is_epoch

    with joined(quietly=True) as ranks:
        settings = options.training
        quiet = settings.get("quiet", False) or not ranks.first
        with Bar(f"reading {options.data}", quiet=quiet, every=None):
            if options.pretext == "rotation":
                dataset = rotations(load_dataset(options.data, Picture.task, outside=options.outside))
                # Recipes mirror images, which here would change their class.
                off = ("flip", "trivial_augment")
                settings = {setting: False for setting in off if variant(name).recipe.get(setting)} | settings
            else:
                dataset = load_dataset(options.data, task_of(name), outside=options.outside)
            config = TrainConfig(**settings)
            torch.manual_seed(config.seed)
            loading = loading_of(options.weights, options.match, options.rename)
            system = create(name, labels=dataset.labels or None, **loading, **options.variant)
        finished = train(system, dataset, config)
    if not ranks.first:
        return
    report = str(finished.report) if finished.report else None
    refit = finished.record.get("refit")
    result = refit["figures_before"] if refit else finished.record["result"]
    document = {
        "run": str(finished.directory),
        "report": report,
        "system": name,
        "best_epoch": finished.record["best_epoch"],
        "epochs": sum(is_epoch(record, "train") for record in finished.history),
        "metrics": result,
        "refit": refit,
        "unreadable": finished.record["unreadable"],
        "warnings": finished.record["warnings"],
    }
    lines = [f"best epoch {document['best_epoch']} of {document['epochs']}, on the val split:"]
    lines.append(table(("metric", "value"), [(metric, f"{value:.4f}") for metric, value in result.items()]))
    if refit:
        lines.append(
            f"then trained anew on the train and val splits for {counted(refit['epochs'], 'epoch')}; those are the "
            "weights kept, which no figure above is of"
        )
    if document["unreadable"]:
        lines.append(f"images that cannot be read: {len(document['unreadable'])}, listed in run.json")
    lines.append(f"run directory: {finished.directory}")
    if report:
        lines.append(f"report: {report}")
    answer(document, options.json, "\n".join(lines))


def read(words: list[str]) -> tuple[str, Any]:
    """The system's name and all options; `training` and `variant` hold the settings on the command line and no others.

    The name decides which settings exist, so the parser of each name among the words reads the others, until one can.
    A name after an option may be its value, which the parser decides.
    """
    helping = not {"-h", "--help"}.isdisjoint(words)
    tuned = any(word.partition("=")[0] == "--weights" for word in words)
    after_option = [before.startswith("--") for before in ["", *words]]
    places = sorted((place for place, word in enumerate(words) if word in ENTRIES), key=after_option.__getitem__)
    error = None
    for place in places:
        name, rest = words[place], words[:place] + words[place + 1 :]
        rows = {"training": _training_settings(name, helping, tuned), "variant": _own_settings(name)}
        try:
            if not after_option[place]:
                return name, parse(_options(rows), f"train {name}", rest)
            options = parse(_options(rows | {"system": NAME}), f"train {name}", words)
        except InputError as misfit:
            if not after_option[place]:
                error = error or misfit
        else:
            if options.system == name:
                return name, options
    if error:
        raise error
    first = words[0] if words and not words[0].startswith("-") else None
    rows = {"training": _training_settings(None, helping), "system": NAME}
    unknown = first or parse(_options(rows), "train", words).system
    raise InputError(f"unknown system {unknown!r}{nearest(unknown, ENTRIES)}")


def _options(rows: dict[str, Any]) -> Any:
    shown = [(name, kind, field(kw_only=True)) for name, kind in rows.items()]
    return make_dataclass("Train", shown, bases=(Options,), namespace={"__doc__": Options.__doc__}, frozen=True)


@dataclass(frozen=True)
class _Setting:
    """One setting as the command line offers it. `default` is for the help alone."""

    name: str
    kind: Any
    default: Any
    text: str


def _structure(title: str, about: str, settings: Iterable[_Setting]) -> Any:
    """What the parser reads settings into: a dictionary without those that are absent from the command line."""
    kinds = {}
    for setting in settings:
        hint = f"(default: {_as_words(setting.default)})"
        kinds[setting.name] = Annotated[setting.kind, tyro.conf.arg(help=setting.text, help_behavior_hint=hint)]
    structure = TypedDict(title, kinds, total=False)  # type: ignore[misc]
    structure.__doc__ = about
    return structure


def _as_words(value: Any) -> str:
    """A value as words of a command line."""
    return " ".join(map(_as_words, value)) if isinstance(value, tuple) else shlex.quote(str(value))


def _lists(hint: Any, value: Any) -> tuple[Any, Any]:
    """A setting that holds lists of numbers, `tuple[tuple[number, ...], ...]`, with one word a list, such as 16,32.

    Without the commas nothing would say where a list ends. Other settings are returned as they are."""
    inner = next(iter(get_args(hint)), None)
    if get_origin(hint) is not tuple or get_origin(inner) is not tuple or get_args(inner)[1:] != (...,):
        return hint, value
    number = get_args(inner)[0]
    metavar = f"{number.__name__.upper()}[,{number.__name__.upper()}...]"
    written = PrimitiveConstructorSpec[Any](
        nargs="*",
        metavar=f"[{metavar} [{metavar} ...]]",
        instance_from_str=lambda words: tuple(tuple(map(number, word.split(","))) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, part)) for part in value],
    )
    return Annotated[hint, written], tuple(",".join(map(str, part)) for part in value)


def _training_settings(name: str | None, helping: bool, tuned: bool = False) -> Any:
    """The settings of TrainConfig, with the values that a run of this system has when the user sets nothing; `tuned`:
    of a run that starts from weights."""
    recipe, fits, tuning = {}, False, None
    if name:
        recipe, fits = variant(name).recipe, family(name).can("fit")
        # Which of the two the file has is not read here; that of a detector is mostly a backbone.
        start: Start = "base" if base_fields(variant(name)) else "whole"
        if tuned and not fits:
            tuning = FineTuning.of(task_of(name), recipe, variant(name).finetune, start=start)
    resolved = resolve(TrainConfig(), recipe, name or "", fits=fits, tuning=tuning)[0]
    hints, settings = get_type_hints(TrainConfig), []
    for setting, text in _attribute_texts(TrainConfig).items():
        if setting == "transforms":  # functions, which no word of a command line stands for
            continue
        kind, value = hints[setting], getattr(resolved, setting)
        if holds_systems(kind):
            kind = str  # what stands for a system on the command line
        if kind is bool:
            value = bool(value)  # a flag, which is off where it does not apply
        kind = kind if value is not None else kind | None
        if fits and helping and setting not in OF_A_FIT:  # elsewhere the run says why it has no effect
            kind = Annotated[kind, tyro.conf.Suppress]
        settings.append(_Setting(setting, kind, value, text))
    return _structure("Training", TrainConfig.__doc__ or "", settings)


def _attribute_texts(kind: type) -> dict[str, str]:
    """name -> docstring of each field of a dataclass, in order."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for line, text in pairwise(definition.body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(text, ast.Expr):
            texts[line.target.id] = ast.literal_eval(text.value)
    return texts


def _own_settings(name: str) -> Any:
    """The settings in this variant's Spec, each of a simple type, with their defaults."""
    from foveal.nn.init import Init

    spec = variant(name)
    hints, texts = get_type_hints(type(spec)), dict[str, str]()
    for base in reversed(type(spec).__mro__):
        texts |= _field_texts(base.__dict__.get("__doc__") or "")
    height, width = spec.preprocess.size
    size: Any = height if height == width else (height, width)
    pixels = "Pixels, or height and width."
    if any(holds_systems(hint) and not is_base(hint) for hint in hints.values()):
        pixels = "Pixels, or height and width; by default those of the largest system inside it, if there is one."
    settings = [_Setting("image_size", int | tuple[int, int], size, pixels)]
    for setting, what in (("mean", "subtracted from"), ("std", "that divide")):
        text = (
            f"Values {what} images in [0, 1]: one, or one for each channel; those a file of --weights was trained with."
        )
        settings.append(_Setting(setting, tuple[float, ...], getattr(spec.preprocess, setting), text))
    for setting in settable(spec):
        if setting not in (*PREPARATION, "preprocess"):
            # A system stands on the command line by its run, its checkpoint or its name.
            several = get_origin(hints[setting]) is tuple
            by_name: Any = (tuple[str, ...] if several else str | None) if holds_systems(hints[setting]) else None
            kind, value = _lists(by_name or hints[setting], getattr(spec, setting))
            settings.append(_Setting(setting, kind, value, texts.get(setting, "")))
    if not family(name).can("fit"):
        begin = "How weights begin, where not by the rule of this system."
        settings.append(_Setting("init", Init | None, None, begin))
    return _structure(name, "", settings)


def _field_texts(docstring: str) -> dict[str, str]:
    """name -> text of the lines "name: text" in a Spec's docstring; further lines of a text are indented deeper."""
    entries = re.findall(r"^\s*(\w+): +(.+(?:\n\s{8,}.+)*)", docstring, re.MULTILINE)
    return {name: text[0].upper() + " ".join(text.split())[1:] for name, text in entries}
