"""The report of a run: one HTML page that needs nothing but itself."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from foveal.build import load
from foveal.cost import cost
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.filesystem import write_text
from foveal.report import generate, signals
from foveal.report.curves import curves
from foveal.report.parts import Html, facts, join, marked, note, number, plain, scroll, table, tag, void
from foveal.system import System
from foveal.task import Task
from foveal.train.record import completed, is_epoch, read_metrics, read_record
from foveal.wording import counted, duration

Section = tuple[str, Html]

# Whatever the names of files and classes are, the page loads and runs nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run: str | PathLike[str], dataset: Dataset, system: System | None = None) -> Path:
    """Write report.html in a run directory, from what the run left there and from its data; the file.

    dataset: the data that the run was trained on; its val split is measured once more, or what `foveal.evaluate` takes
             where it has none.
    system:  the run's, with its best weights; default, what `foveal.load` makes of the directory.

    A part that cannot be made says why in its place. Raises InputError for a directory that is not a run, or where the
    file cannot be written.
    """
    directory = Path(run)
    record, events = read_record(directory), read_metrics(directory / "metrics.jsonl")
    system = load(directory) if system is None else system
    dataset = dataset.drawn_by(record["data"].get("split_by"))
    write_text(directory / "report.html", _page(directory, record, events, dataset, system))
    return directory / "report.html"


def _page(
    directory: Path, record: Mapping[str, Any], events: list[dict[str, Any]], dataset: Dataset, system: System
) -> str:
    history = [event for event in events if is_epoch(event, "train")]
    again = [event for event in events if is_epoch(event, "refit")]
    best = max((epoch for epoch in history if epoch["best"]), key=lambda epoch: epoch["epoch"], default=None)
    name, source = record["name"] or type(system).__name__, record["data"]["source"]
    sections = [
        ("Learning curves", _curves(events, history, best)),
        *([("Refit", _refit(record, again))] if again else []),
        *generate.over_time(directory),
        *_of_task(record, dataset, system),
        *_signals(record, dataset, system),
        ("Unreadable files", unreadable_files(record["unreadable"])),
        ("Configuration", _configuration(record)),
        ("Cost", _made(lambda: _cost(system))),
        ("Environment", facts({key: plain(value) for key, value in record["environment"].items()})),
    ]
    heading = _headline(directory, record, history, again, best, name)
    return page(f"{name} on {source}: a run of foveal", heading, sections, record["foveal"])


def page(title: str, heading: list[Html], sections: list[Section], version: str) -> str:
    """A whole page: its heading, links to its sections, the sections, and the version of foveal at its foot."""
    places = [name.lower().replace(" ", "-") for name, _ in sections]
    links = [tag("a", name, href=f"#{place}") for place, (name, _) in zip(places, sections, strict=True)]
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=POLICY),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        void("link", rel="icon", href="data:,"),
        tag("style", Html(Path(__file__).with_name("report.css").read_text("utf-8"))),
    )
    shown = [
        tag("section", tag("h2", name), part, id=place) for place, (name, part) in zip(places, sections, strict=True)
    ]
    body = tag(
        "body",
        tag(
            "header",
            *heading,
            tag("nav", *links, aria_label="Sections"),
        ),
        tag("main", *shown),
        tag("footer", f"foveal {version}"),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _made(make: Callable[[], Html]) -> Html:
    """A part of the page, or why it cannot be made: of the system or the data, or for lack of memory."""
    try:
        return make()
    except (InputError, torch.OutOfMemoryError) as error:
        return note(f"Not available: {error}")


def _headline(
    directory: Path,
    record: Mapping[str, Any],
    history: list[dict[str, Any]],
    again: list[dict[str, Any]],
    best: dict[str, Any] | None,
    name: str,
) -> list[Html]:
    data, splits = record["data"], record["data"]["splits"]
    before = ", before the refit" if record.get("refit") else ""
    figures = best["val"] if best else {}
    accuracy = record.get("frozen_accuracy")  # of starting weights, before training
    frozen = {} if accuracy is None else {"val accuracy of nearest neighbours, untrained": number(accuracy)}
    few = best.get("few", {}) if best else {}
    tiles = {f"val {key.replace('_', ' ')}{before}": marked(key, value, few) for key, value in figures.items()}
    tiles |= {
        "best epoch": f"{best['epoch']} of {len(history)}" if best else "none yet",
        **frozen,
        "images": f"{sum(splits.values()):,}",
        "training time": duration(sum(epoch["seconds"] for epoch in history + again)),
    }
    words = [record["task"], counted(len(data["labels"]), "class", "classes") if data["labels"] else "no classes"]
    words += [f"{count:,} {split}" for split, count in splits.items()]
    if record["status"] != "finished":
        words.append(record["status"])
    return [
        tag("h1", name, tag("small", " on ", data["source"])),
        tag("p", " · ".join(words)),
        *_end(directory, record, history, again),
        *(
            tag("p", f"{line[0].upper()}{line[1:]}.", class_="end", role="status")
            for line in filter(None, record.get("warnings", []))
        ),
        tag("dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in tiles.items()), class_="tiles"),
    ]


def _end(
    directory: Path, record: Mapping[str, Any], history: list[dict[str, Any]], again: list[dict[str, Any]]
) -> list[Html]:
    """How a run ended that did not come to its end, and how to go on."""
    if record["status"] not in ("interrupted", "failed"):
        return []
    done = f"after epoch {len(history)} of {completed(record['config'])['epochs']}"
    done = f"in its refit, after epoch {len(again)}" if again else done if history else "in its first epoch"
    how = Html(f"add {tag('code', f'--resume --out {directory}')} to the same command")
    if record["status"] == "interrupted":
        said = ["This run was stopped ", done, ", its state saved. To go on: ", how, "."]
    else:
        said = ["This run failed ", done, ": ", tag("b", record.get("error", "it is not known why")), ". "]
        said += ["To go on from the state saved last, once that is put right: ", how]
        said += ["; other settings of learning take a new run, which can start from its weights: "]
        said += [tag("code", f"--weights {directory}"), "."]
    return [tag("p", *said, class_="end", role="status")]


def _curves(events: list[dict[str, Any]], history: list[dict[str, Any]], best: dict[str, Any] | None) -> Html:
    if not history:
        return note("No epoch has ended yet.")
    parts = [curves(history, best["epoch"] if best else None)]
    if skipped := sum(event["event"] == "skipped" for event in events):
        parts.insert(0, note(f"Steps whose loss was not finite, and that changed no weight: {skipped:,}."))
    if best:
        told = f"Figures are those of epoch {best['epoch']}, whose weights were kept as the best; a line marks it."
        parts.insert(0, note(told))
    return join(parts)


def _refit(record: Mapping[str, Any], again: list[dict[str, Any]]) -> Html:
    """The second phase of a run: what it was, and its curves."""
    said = "Trained anew, from the same start, on the train and val splits together, for as many epochs as were best. "
    if "refit" in record:
        said += "The weights of the last epoch were kept. Only a test split can judge them; figures of val are older."
    else:
        said += f"Stopped after {counted(len(again), 'epoch')}; the weights that were kept are still those of before."
    return join([note(said), curves(again, None)])


def _of_task(record: Mapping[str, Any], dataset: Dataset, system: System) -> list[Section]:
    """What the system's task adds."""
    of_task = Task.of(system).sections
    if of_task is None:
        return []
    view, has_val = _measured(dataset)
    config = completed(record["config"])
    try:
        sections = of_task(system, view, config["batch_size"], config["workers"])
    except (InputError, torch.OutOfMemoryError) as error:
        return [("Answers", note(f"Not available: {error}"))]
    chosen = "; the best epoch was chosen by these" if has_val else ""
    alone = list(record["data"]["splits"]) == [view.split]
    taught = alone or view.split in (None, "train") or (has_val and "refit" in record)
    learned = "; the system has learned from these" if taught else ""
    title, first = sections[0]
    which = note(f"This and the following are of the {view.split or 'whole'} split{chosen}{learned}.")
    return [(title, join([which, first])), *sections[1:]]


def _measured(dataset: Dataset) -> tuple[Dataset, bool]:
    """The images that the report is measured on, and whether they are those that chose the best epoch."""
    has_val = dataset.split is None and "val" in dataset.split_counts()
    return dataset.select("val") if has_val else dataset.evaluation_split(), has_val


def _signals(record: Mapping[str, Any], dataset: Dataset, system: System) -> list[Section]:
    """Activations and gradients by depth, of a system with one loss."""
    if not system.can("loss") or len(system.players) != 1:
        return []
    view, config = _measured(dataset)[0], completed(record["config"])
    return [("Signals by depth", _made(lambda: signals.section(system, view, config["seed"], config["workers"])))]


def unreadable_files(reasons: Mapping[str, str]) -> Html:
    if not reasons:
        return note("Every image that was asked for could be read.")
    rows = [(name, reason.removeprefix(f"cannot read {name}: ")) for name, reason in reasons.items()]
    said = note(f"{len(rows):,} {'files' if len(rows) > 1 else 'file'} could not be read and took no part.")
    return join([said, table(("file", "reason"), rows, title="Unreadable files")])


def _configuration(record: Mapping[str, Any]) -> Html:
    config, origins = record["config"], record["origins"]
    rows = [(name, plain(value), origins[name]) for name, value in config.items()]
    chosen = [row for row in rows if row[2] == "user"] + [row for row in rows if row[2] not in ("user", "default")]
    given = [(name, plain(told["value"]), told["from"]) for name, told in record.get("inputs", {}).items()]
    chosen = [row for row in given if row[2] == "user"] + chosen
    rest = [row[:2] for row in rows if row[2] == "default"]
    preprocess = {**record["preprocess"], "size": " x ".join(map(str, record["preprocess"]["size"]))}
    parts = [
        table(("setting", "value", "from"), chosen, title="Settings") if chosen else note("All are defaults."),
        _folded(f"Defaults: {len(rest)}", table(("setting", "value"), rest, title="Defaults")),
        tag("h3", "Images as the system sees them"),
        facts({name: plain(value) for name, value in preprocess.items()}),
    ]
    if record["variant"]:
        parts += [tag("h3", "Variant"), facts({name: plain(value) for name, value in record["variant"].items()})]
    return join(parts)


def _cost(system: System) -> Html:
    found = cost(system)
    height, width = found.size
    totals = {
        "parameters": f"{found.params:,}",
        "multiply-accumulates": f"{found.macs:,}",
        "outputs of all layers": f"{found.activation_bytes:,} bytes",
    }
    layers = scroll(tag("pre", join(found.table().split("\n"), "\n")), "Cost of each layer")
    said = note(f"One forward pass of one image of {height} x {width} pixels.")
    return join([said, facts(totals), _folded(f"Layers: {len(found.layers)}", layers)])


def _folded(title: str, content: Html) -> Html:
    return tag("details", tag("summary", title), content)
