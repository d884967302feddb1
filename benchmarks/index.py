"""The memory that the index of a million image files takes, in the process that trains and in each of its workers.

A folder of 1,000 classes with 1,000 files each (links to a few images, so that they take next to no disk) is read as
`foveal train` reads it; then four workers read a few batches. Resident memory is compared before and after, at its
highest; of a worker counts what it shares with no other process, beyond that of one with a data set of ten images.
"""

import multiprocessing
import os
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, machine, report, verdict

from foveal.data.dataset import Dataset
from foveal.data.image import write_image
from foveal.data.loader import Loader
from foveal.data.sources import load_dataset
from foveal.data.transforms import Fit, Pipeline
from foveal.system import Preprocess

CLASSES, EACH, WORKERS = 1000, 1000, 4
PARENT_TARGET, WORKER_TARGET = 300.0, 50.0  # MB


def write_links(root: Path) -> None:
    """The folder: no file system takes a million names for one file, so there are a few."""
    originals = [root / f"original{number}.png" for number in range(100)]
    for number, path in enumerate(originals):
        write_image(path, torch.full((3, 8, 8), number, dtype=torch.uint8))
    for number in range(CLASSES):
        folder = root / "data" / f"n{number:08d}"
        folder.mkdir(parents=True)
        for image in range(EACH):
            os.link(originals[(number * EACH + image) % len(originals)], folder / f"n{number:08d}_{image:05d}.png")


def in_worker(dataset: Dataset) -> float:
    """MB that a worker shares with nobody, mean over the workers, after some batches of random images."""
    loader = Loader(dataset, Pipeline((Fit(Preprocess((8, 8))),)), batch_size=2, shuffle=True, workers=WORKERS)
    batches = loader.epoch()
    for _ in range(min(200, len(loader)) - 1):
        next(batches)
    used = [private(worker.pid) for worker in multiprocessing.active_children()]
    return float(np.mean(used))


def private(process: int | None) -> float:
    """MB of a process that it shares with no other (Linux)."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(kilobytes) for kilobytes in re.findall(r"Private_\w+: +(\d+)", text)) * 1024 / 1e6


def main() -> None:
    options = arguments(__doc__, rounds=1).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_links(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        dataset = load_dataset(Path(folder) / "data")
        parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before
        few = dataset.select("train")
        small = Dataset(few.source, few.task, few.labels, few.images, few.targets, few.splits, "train", few.items[:10])
        worker = in_worker(few) - in_worker(small)
    document: dict[str, Any] = {"machine": machine(), "images": len(dataset), "parent_mb": parent, "worker_mb": worker}
    table = [["of 1,000,000 paths", "MB", "target"]]
    table.append(["in the process that trains, at most", f"{parent:.0f}", verdict(parent, PARENT_TARGET)])
    table.append(
        ["in each of four workers, beyond one with ten images", f"{worker:.0f}", verdict(worker, WORKER_TARGET)]
    )
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
