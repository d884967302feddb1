"""foveal train"""

import re
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from foveal.catalog import ENTRIES, create, settable, variant
from foveal.cli.common import answer, parse, table
from foveal.train.config import TrainConfig, resolve


@dataclass(frozen=True)
class Options:
    """Train a system on your images and leave a run directory: checkpoints, metrics, configuration, pictures.

    Example: foveal train resnet_nano --data digits --epochs 20 --out runs/digits

    foveal train NAME --help shows the settings of that system, and the defaults that its recipe gives.
    """

    data: str
    """A built-in set (digits), a folder of class folders, or a CSV file with columns path, label[, split]."""
    weights: str | None = None
    """Published weights to start from."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    # The name is looked for before all else, since it decides which settings there are.
    name = next((word for word in words if word in ENTRIES), None)
    training = _training_settings(name)
    shown: list[Any] = [("training", type(training), field(default=training))]
    if name is None:
        positional = Annotated[
            tyro.conf.Positional[str], tyro.conf.arg(help="A system's name; foveal list shows them.")
        ]
        shown.append(("system", positional, field(kw_only=True)))
        variant(parse(_extend(Options, shown), "train", words).system)
        return
    own = _own_settings(name)
    shown.append(("variant", type(own), field(default=own)))
    words = words[: words.index(name)] + words[words.index(name) + 1 :]
    options = parse(_extend(Options, shown), f"train {name}", words)

    import torch

    from foveal.data.sources import load_dataset
    from foveal.report.draw import save_pictures
    from foveal.train.loop import train

    dataset = load_dataset(options.data)
    config = TrainConfig(**_changes(training, options.training))
    torch.manual_seed(config.seed)
    system = create(name, labels=dataset.labels, weights=options.weights, **_changes(own, options.variant))
    finished = train(system, dataset, config)
    save_pictures(finished.directory, system.pictures())
    result = finished.record["result"]
    document = {
        "run": str(finished.directory),
        "system": name,
        "best_epoch": finished.record["best_epoch"],
        "epochs": len(finished.history),
        "metrics": result,
        "unreadable": finished.record["unreadable"],
    }
    lines = [f"best epoch {document['best_epoch']} of {document['epochs']}, on the val split:"]
    lines.append(table(("metric", "value"), [(metric, f"{value:.4f}") for metric, value in result.items()]))
    lines.append(f"run directory: {finished.directory}")
    answer(document, options.json, "\n".join(lines))


def _extend(base: type, rows: list[Any]) -> Any:
    return make_dataclass("Train", rows, bases=(base,), namespace={"__doc__": base.__doc__}, frozen=True)


def _changes(shown: Any, given: Any) -> dict[str, Any]:
    """What the user set: what differs from the value that --help shows."""
    return {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) != getattr(shown, f.name)}


def _training_settings(name: str | None) -> Any:
    """TrainConfig with the values that a run of this system has when the user sets nothing."""
    system = create(name) if name else None
    recipe, fits = (system.spec.recipe, system.can("fit")) if system else ({}, False)
    resolved, hints, rows = resolve(TrainConfig(), recipe, name or "", fits=fits)[0], get_type_hints(TrainConfig), []
    for entry in fields(TrainConfig):
        kind, value = hints[entry.name], getattr(resolved, entry.name)
        if kind is bool:
            value = bool(value)  # a flag, which is off where it does not apply
        rows.append((entry.name, kind if value is not None else kind | None, field(default=value)))
    return _extend(TrainConfig, rows)()


def _own_settings(name: str) -> Any:
    """A dataclass of the settings in this variant's Spec, each of a simple type, with their defaults."""
    spec = variant(name)
    hints, texts = get_type_hints(type(spec)), _field_texts(type(spec).__doc__ or "")
    height, width = spec.preprocess.size
    size: Any = height if height == width else (height, width)
    rows: list[Any] = [("image_size", int | tuple[int, int], field(default=size), "Pixels, or height and width.")]
    for setting in settable(spec):
        if setting not in ("image_size", "preprocess"):
            rows.append((setting, hints[setting], field(default=getattr(spec, setting)), texts.get(setting, "")))
    described = [(setting, Annotated[kind, tyro.conf.arg(help=text)], value) for setting, kind, value, text in rows]
    return make_dataclass(name, described, frozen=True)()


def _field_texts(docstring: str) -> dict[str, str]:
    """name -> text of the lines "name: text" in a Spec's docstring; further lines of a text are indented deeper."""
    entries = re.findall(r"^\s*(\w+): +(.+(?:\n\s{8,}.+)*)", docstring, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
