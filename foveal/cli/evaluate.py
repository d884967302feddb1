"""foveal evaluate"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.cli.common import RunOrName, answer, check_folder, find_system, one_line, parse, table
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output


@dataclass
class Evaluate(Published):
    """Measure a trained system on a labelled set: its size, preprocessing and classes are those it was trained with.

    Example: foveal evaluate runs/digits --data digits --split test
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    data: str
    """A built-in set, a folder of images, or a file, as foveal check takes it."""
    outside: bool = False
    """Let links and annotations of the data lead to files outside its folder."""
    split: str | None = None
    """train, val or test; default test, else val, else all images."""
    out: str | None = None
    """Of a detector: folder for predictions.json, in COCO's form of results, with the ids of a COCO file if it is one
    that was measured on, and image_info.json, which lists images and classes by id."""
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
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(Evaluate, "evaluate", words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("to evaluate takes one process: start it without torchrun")
    from foveal.data.sources import load_dataset
    from foveal.train.evaluate import check_truths, evaluation_loader, judged, measure

    if options.judge_weights and not options.judge:
        raise InputError("--judge-weights has no effect alone: add --judge NAME, such as inception_v3_fid")

    if options.out:
        check_folder(Path(options.out))
        data = Path(options.data)
        check_output(options.out, [data if data.is_dir() else data.parent] if data.exists() else [])
    system = find_system(options.system, options.weights, device=options.device, **options.loading())
    if options.out:
        from foveal.report.answers import check_saved

        check_saved(system)
    dataset = load_dataset(options.data, system.task, options.split, outside=options.outside).evaluation_split()
    if options.out and not dataset.in_memory:
        check_output(options.out, {Path(dataset.name(index)).parent for index in range(len(dataset))})
    loader = evaluation_loader(system, dataset, options.batch_size, options.workers)
    check_truths(system, loader.dataset)
    judge = None
    if options.judge:
        judge = find_system(options.judge, options.judge_weights, device=options.device, flag="--judge-weights")
    measured = measure(system, loader, evaluators=judged(system, dataset, judge))
    document = {
        "system": options.system,
        "data": options.data,
        "split": dataset.split,
        "images": len(dataset) - len(loader.unreadable),
        "unreadable": loader.unreadable,
        "metrics": measured.values,
    }
    lines = [f"{options.system} on {options.data}, {dataset.split or 'all'}: {document['images']} images"]
    lines += [f"left out, as it cannot be read: {one_line(reason)}" for reason in loader.unreadable.values()]
    lines.append(table(("metric", "value"), [(name, f"{value:.4f}") for name, value in measured.values.items()]))
    if options.out:
        from foveal.report.answers import save_measured

        items = [item for item in range(len(dataset)) if dataset.name(item) not in loader.unreadable]
        found: Any = measured.evaluator
        path = save_measured(Path(options.out), found.predictions, loader.dataset, items, system)
        document["predictions"] = str(path)
        lines.append(f"written: {document['predictions']}")
    answer(document, options.json, "\n".join(lines))
