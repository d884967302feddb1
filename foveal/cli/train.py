"""foveal train"""

import re
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import tyro

from foveal.catalog import ENTRIES, base_fields, create, family, holds_systems, is_base, settable, task_of, variant
from foveal.cli.common import answer, parse, table
from foveal.errors import InputError, nearest
from foveal.train.config import OF_A_FIT, TrainConfig, resolve
from foveal.train.defaults import FineTuning, Start


@dataclass(frozen=True)
class Options:
    """Train a system on your images and leave a run directory: checkpoints, metrics, a report.

    Example: foveal train resnet_nano --data digits --epochs 20 --out runs/digits

    foveal train NAME --help shows the settings of that system and the defaults of its recipe; with --weights, those of
    its fine-tuning recipe.
    """

    data: str
    """A built-in set (digits, scenes), a folder of class folders, or a CSV file with columns path, label[, split]."""
    weights: str | None = None
    """Published weights, or a run, to start from."""
    pretext: Literal["none", "rotation"] = "none"
    """rotation: leave classes aside and learn how images are turned; another run then starts from what was learned."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    place = _place_of_name(words)
    name = None if place is None else words[place]
    tuned = any(_field(word) == "weights" for word in words if word.startswith("--"))
    training = _training_settings(name, helping=not {"-h", "--help"}.isdisjoint(words), tuned=tuned)
    shown: list[Any] = [("training", type(training), field(default=training))]
    if place is None or name is None:
        text = "A system's name; foveal list shows them."
        positional = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=text)]
        shown.append(("system", positional, field(kw_only=True)))
        first = words[0] if words and not words[0].startswith("-") else None
        unknown = first or parse(_extend(Options, shown), "train", words).system
        raise InputError(f"unknown system {unknown!r}{nearest(unknown, ENTRIES)}")
    own = _own_settings(name)
    shown.append(("variant", type(own), field(default=own)))
    words = words[:place] + words[place + 1 :]
    options = parse(_extend(Options, shown), f"train {name}", words)
    if options.weights and family(name).can("fit"):
        raise InputError(f"weights has no effect: {name} is fitted by a rule of its own, from nothing")

    import torch

    from foveal.data.pretext import rotations
    from foveal.data.sources import load_dataset
    from foveal.report.training import train
    from foveal.train.distributed import joined
    from foveal.train.record import is_epoch

    with joined(quietly=True) as ranks:
        settings = _given(options.training, words)
        if options.pretext == "rotation":
            dataset = rotations(load_dataset(options.data, "generate"))
            # Recipes mirror images, which here would change their class.
            off = ("flip", "trivial_augment")
            settings = {setting: False for setting in off if variant(name).recipe.get(setting)} | settings
        else:
            dataset = load_dataset(options.data, task_of(name))
        config = TrainConfig(**settings)
        torch.manual_seed(config.seed)
        system = create(name, labels=dataset.labels or None, weights=options.weights, **_given(options.variant, words))
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
            f"then trained anew on the train and val splits for {refit['epochs']} epochs; those are the weights kept, "
            "which no figure above is of"
        )
    if document["unreadable"]:
        lines.append(f"images that cannot be read: {len(document['unreadable'])}, listed in run.json")
    lines.append(f"run directory: {finished.directory}")
    if report:
        lines.append(f"report: {report}")
    answer(document, options.json, "\n".join(lines))


def _extend(base: type, rows: list[Any]) -> Any:
    return make_dataclass("Train", rows, bases=(base,), namespace={"__doc__": base.__doc__}, frozen=True)


def _place_of_name(words: list[str]) -> int | None:
    """Where the system's name stands, which decides what settings there are: a name that is no option's value."""
    hints = get_type_hints(TrainConfig) | get_type_hints(Options)
    for place, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        takes_value = before.startswith("--") and "=" not in before and hints.get(_field(before)) is not bool
        if word in ENTRIES and not takes_value:
            return place
    return None


def _given(values: Any, words: list[str]) -> dict[str, Any]:
    """The settings that stand on the command line, those too whose value is the default."""
    typed = {_field(word) for word in words if word.startswith("--")}
    return {f.name: getattr(values, f.name) for f in fields(values) if f.name in typed}


def _field(option: str) -> str:
    """--no-flip or --batch-size=8 -> flip or batch_size."""
    return option.partition("=")[0].replace("-", "_").removeprefix("__").removeprefix("no_")


def _training_settings(name: str | None, helping: bool, tuned: bool = False) -> Any:
    """TrainConfig with the values that a run of this system has when the user sets nothing; `tuned`: from weights."""
    recipe, fits, tuning = {}, False, None
    if name:
        recipe, fits = variant(name).recipe, family(name).can("fit")
        # Which of the two the file has is not read here; that of a detector is mostly a backbone.
        start: Start = "base" if base_fields(variant(name)) else "whole"
        if tuned and not fits:
            tuning = FineTuning.of(task_of(name), recipe, variant(name).finetune, start=start)
    resolved = resolve(TrainConfig(), recipe, name or "", fits=fits, tuning=tuning)[0]
    hints, rows = get_type_hints(TrainConfig), []
    for entry in fields(TrainConfig):
        kind, value = hints[entry.name], getattr(resolved, entry.name)
        if holds_systems(kind):
            kind = str  # what stands for a system on the command line
        if kind is bool:
            value = bool(value)  # a flag, which is off where it does not apply
        kind = kind if value is not None else kind | None
        if fits and helping and entry.name not in OF_A_FIT:  # elsewhere it is told why it has no effect
            kind = Annotated[kind, tyro.conf.Suppress]
        rows.append((entry.name, kind, field(default=value)))
    return _extend(TrainConfig, rows)()


def _own_settings(name: str) -> Any:
    """A dataclass of the settings in this variant's Spec, each of a simple type, with their defaults."""
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
    rows: list[Any] = [("image_size", int | tuple[int, int], field(default=size), pixels)]
    for setting in settable(spec):
        if setting not in ("image_size", "preprocess"):
            # A system stands on the command line by its run, its checkpoint or its name.
            several = get_origin(hints[setting]) is tuple
            by_name: Any = (tuple[str, ...] if several else str | None) if holds_systems(hints[setting]) else None
            kind = by_name or hints[setting]
            rows.append((setting, kind, field(default=getattr(spec, setting)), texts.get(setting, "")))
    if not family(name).can("fit"):
        begin = "How weights begin, where not by the rule of this system."
        rows.append(("init", Init | None, field(default=None), begin))
    described = [(setting, Annotated[kind, tyro.conf.arg(help=text)], value) for setting, kind, value, text in rows]
    return make_dataclass(name, described, frozen=True)()


def _field_texts(docstring: str) -> dict[str, str]:
    """name -> text of the lines "name: text" in a Spec's docstring; further lines of a text are indented deeper."""
    entries = re.findall(r"^\s*(\w+): +(.+(?:\n\s{8,}.+)*)", docstring, re.MULTILINE)
    return {name: text[0].upper() + " ".join(text.split())[1:] for name, text in entries}
