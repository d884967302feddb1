"""foveal evaluate"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveal.cli.common import Data, RunOrName, answer, check_folder, find_system, one_line, parse, table
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output
from foveal.progress import Bar
from foveal.wording import counted

MOST_CLASSES = 100  # in the table for the screen


@dataclass
class Evaluate(Published):
    """Measure a trained system on a labelled set: its size, preprocessing and classes are those it was trained with.

    Example: foveal evaluate runs/digits --data digits --split test
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    data: Data
    outside: bool = False
    """Let links and annotations of the data lead to files outside its folder."""
    split: str | None = None
    """train, val, test or all. Default: test, else val, else all; of data that names no splits, and is not the data of
    the run, all. One line on stderr says which images were measured, and why."""
    out: str | None = None
    """Folder for evaluation.html, a report on these images: each class, and what the system confuses or misses. Of a
    detector also predictions.json, in COCO's form of results, with the ids of a COCO file if it is one that was
    measured on, and image_info.json, which lists images and classes by id."""
    judge: str | None = None
    """Of a system that makes images: the classifier that looks at them, a run, a checkpoint or a name with packaged
    weights; default one that knows the classes of the data, if there is one."""
    judge_weights: str | None = None
    """Published weights for a judge given by its name; --judge inception_v3_fid takes those known as
    pt_inception-2015-12-05, by whose features others tell the FID."""
    batch_size: int = 64
    """Images that are in memory together."""
    workers: int | None = None
    """Processes that read images."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    memory: Literal["check", "ignore"] = "check"
    """check: refuse to start where the memory that is estimated is not there; ignore: start all the same."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(Evaluate, "evaluate", words)
    with Bar(f"loading {options.system}") as bar:
        _evaluate(options, bar)


def _evaluate(options: Evaluate, bar: Bar) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("to evaluate takes one process: start it without torchrun")
    from foveal.data.sources import load_dataset
    from foveal.memory import check_answering
    from foveal.task import Task
    from foveal.train.evaluate import check_truths, evaluation_loader, judged, measure
    from foveal.train.origin import OTHER, measured_view

    if options.judge_weights and not options.judge:
        raise InputError("--judge-weights has no effect alone: add --judge NAME, such as inception_v3_fid")

    if options.out:
        check_folder(Path(options.out))
        place = Path(options.data)
        check_output(options.out, [place if place.is_dir() else place.parent] if place.exists() else [])
    system = find_system(options.system, options.weights, device=options.device, **options.loading())
    if not Path(options.system).exists():  # published weights, which no run here has trained
        system.trained_on = OTHER
    bar.stage(f"reading {options.data}")
    data = load_dataset(options.data, system.task, outside=options.outside)
    dataset, reason = measured_view(system, data, options.split)
    if options.out and not dataset.in_memory:
        check_output(options.out, {Path(dataset.name(index)).parent for index in range(len(dataset))})
    loader = evaluation_loader(system, dataset, options.batch_size, options.workers)
    check_truths(system, loader.dataset)
    judge = None
    if options.judge:
        judge = find_system(options.judge, options.judge_weights, device=options.device, flag="--judge-weights")
    if options.memory == "check":
        for line in check_answering(system, loader.batch_size):
            bar.say(f"foveal: {line}")
    measured = measure(system, loader, evaluators=judged(system, dataset, judge), bar=bar)
    classes = dict(zip(system.labels, measured.evaluator.per_class(), strict=False))
    count = len(dataset) - len(loader.unreadable)
    described = f"{count:,} of {len(data):,} images: {reason}"
    marks = {name: f" ({text})" for name, text in measured.few.items()}
    document = {
        "system": options.system,
        "data": options.data,
        "split": dataset.split,
        "images": count,
        "images_in_data": len(data),
        "measured": reason,
        "unreadable": loader.unreadable,
        "metrics": measured.values,
        "classes": classes,
        "few": measured.few,
    }
    lines = [f"{options.system} on {options.data}, {dataset.split}: {counted(count, 'image')}"]
    lines += [f"left out, as it cannot be read: {one_line(reason)}" for reason in loader.unreadable.values()]
    rows = [(name, f"{value:.4f}{marks.get(name, '')}") for name, value in measured.values.items()]
    lines.append(table(("metric", "value"), rows))
    lines += _classes(classes)
    if options.out:
        folder = Path(options.out)
        if write := Task.of(system).save_measured:
            items = [item for item in range(len(dataset)) if dataset.name(item) not in loader.unreadable]
            document["predictions"] = str(write(folder, measured.evaluator, loader.dataset, items, system))
            lines.append(f"written: {document['predictions']}")
        from foveal.report.measured import write_page

        page = write_page(
            *(folder, system, loader.dataset, measured.values, described),
            *(loader.unreadable, options.batch_size, options.workers),
        )
        document["report"] = str(page)
        lines.append(f"written: {page}")
    bar.close()
    if not options.json:
        sys.stderr.write(f"foveal: {one_line(described)}\n")
    answer(document, options.json, "\n".join(lines))


def _classes(classes: dict[str, dict[str, float]]) -> list[str]:
    """The figures of each class as a table; of many classes those with the lowest ones."""
    if not classes:
        return []
    names = list(dict.fromkeys(name for figures in classes.values() for name in figures))
    rows, said = list(classes.items()), []
    if len(rows) > MOST_CLASSES:
        main = next(name for name in ("recall", "AP", "agreement") if name in names)
        rows = sorted(rows, key=lambda row: row[1].get(main, 2.0))[:MOST_CLASSES]
        said = [f"the {len(rows)} of {len(classes):,} classes with the lowest {main}; --json has all"]
    cells = [(label, *(_cell(figures.get(name)) for name in names)) for label, figures in rows]
    return ["", *said, table(("class", *names), cells)]


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
