"""What foveal's training loop costs beyond the arithmetic, and how near the arithmetic comes to the machine's best.

ResNet-18 on images of 64 x 64, batch 32, SGD with momentum, float32, on all cores. The arms take turns in short blocks
of steps; each is compared with the bare loop of its own round:

bare         forward, cross-entropy, backward, update of foveal's system on batches that are ready in memory
foveal       the same system by foveal's own loop: loader, uint8 to float, checks, schedule, progress
torchvision  torchvision's resnet18 in the bare loop, where it is installed
matmul       a float32 product of large square matrices: what these cores can do

Where other processes want the cores too, read "fastest", the fastest block of an arm over the fastest of the bare loop,
and the processor time with `--threads 1`; with more threads it also counts their waiting for each other.
"""

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import arguments, machine, paired, report, spread, verdict, within
from torch import Tensor, nn

import foveal
from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.structures import to_float
from foveal.system import Preprocess
from foveal.train.augment import BatchAugment
from foveal.train.config import resolve
from foveal.train.loop import descend
from foveal.train.prepare import training_loader
from foveal.train.run import Run
from foveal.train.screen import Meter, Screen
from foveal.train.state import State
from foveal.train.stopping import StopRequests

SIZE, BATCH, STEPS, MATRIX = 64, 32, 4, 3072
SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
TARGET = 1.03  # of the bare loop


def bare_loop(system: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """A block of the bare loop."""
    optimizer = torch.optim.SGD(system.parameters(), **SGD)

    def block() -> None:
        system.train()
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(system(images), labels).backward()
            optimizer.step()

    return block


def foveal_loop(system: foveal.system.System, images: Tensor, labels: Tensor, out: str) -> Callable[[], None]:
    """A block, here an epoch, of foveal's loop, built as `foveal.train` builds it."""
    splits = np.zeros(len(images), np.int8)  # all of them to train on
    dataset = Dataset("memory", "classify", system.labels, ImageArray(images, "memory"), LabelColumn(labels), splits)
    settings = foveal.TrainConfig(out=out, batch_size=BATCH, plan="eager", optimizer="sgd", quiet=True, **SGD)
    config, origins = resolve(settings, {}, "resnet18")
    loader, augment = training_loader(system, dataset.select("train"), config), BatchAugment(config, dataset)
    state = State(system, config, lambda step: 1.0)
    run = Run.open(system, dataset, config, origins)

    screen = Screen(config)

    def block() -> None:
        descend(state, loader, augment, run, screen, Meter(loader), StopRequests())
        state.progress.close_epoch(())

    return block


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of processor time, all threads together, that a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = arguments(__doc__, rounds=25)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    system = foveal.create("resnet18", preprocess=Preprocess((SIZE, SIZE), crop=1.0))  # images stay as they are
    images = torch.randint(0, 256, (STEPS * BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(0, len(system.labels), (STEPS * BATCH,))
    ready = list(zip(to_float(images).split(BATCH), labels.split(BATCH), strict=True))
    # A step is three products for each one of the forward pass: outputs, gradient of inputs, gradient of weights. The
    # first layer needs no gradient of its inputs, which counts 2 % too much.
    gflop = 6e-9 * BATCH * foveal.cost(system, SIZE).macs

    with TemporaryDirectory() as out:
        arms = {"bare": bare_loop(system, ready), "foveal": foveal_loop(system, images, labels, out + "/run")}
        if find_spec("torchvision"):
            import torchvision

            arms["torchvision"] = bare_loop(torchvision.models.resnet18(), ready)
        seconds: dict[str, list[float]] = {name: [] for name in arms}  # of one step
        worked: dict[str, list[float]] = {name: [] for name in arms}
        best: list[float] = []  # GFLOP/s
        a, b = torch.rand(2, MATRIX, MATRIX)
        for number in range(options.rounds + 1):
            rate = 2e-9 * MATRIX**3 / timed(lambda: torch.mm(a, b))[0]
            # Every other round goes backwards, so that no arm always comes first.
            measured = {name: timed(arms[name]) for name in (list(arms) if number % 2 else reversed(arms))}
            if number > 0:  # the first warms up
                best.append(rate)
                for name, (clock, processor) in measured.items():
                    seconds[name].append(clock / STEPS)
                    worked[name].append(processor / STEPS)

    document: dict[str, dict] = {
        "machine": machine() | {"threads": options.threads},
        "step": {"gflop": gflop, "batch": BATCH, "size": SIZE, "steps_a_block": STEPS},
        "matmul": {"gflop_per_second": spread(best)},
        "arms": {},
    }
    table = [
        [
            "arm",
            "ms a step",
            "images/s",
            "GFLOP/s",
            "share of matmul",
            "of bare (min-max)",
            "fastest",
            "processor",
            "target",
        ]
    ]
    for name, values in seconds.items():
        middle, ratio = spread(values), paired(values, seconds["bare"])
        reached = spread([gflop / value for value in values])
        share = paired([gflop / value for value in values], best)
        fastest, work = min(values) / min(seconds["bare"]), paired(worked[name], worked["bare"])
        document["arms"][name] = {"seconds": middle, "gflop_per_second": reached, "share": share, "ratio": ratio}
        document["arms"][name] |= {"fastest": fastest, "processor_ratio": work}
        target = verdict(ratio["median"], TARGET) if name == "foveal" else ""
        row = [name, f"{1000 * middle['median']:.0f}", f"{BATCH / middle['median']:.0f}", f"{reached['median']:.0f}"]
        row += [within(share), within(ratio, 3), f"{fastest:.3f}", f"{work['median']:.3f}"]
        table.append([*row, target])
    document["arms"]["foveal"] |= {"target": TARGET, "met": document["arms"]["foveal"]["ratio"]["median"] < TARGET}
    table.append(["matmul", "", "", f"{spread(best)['median']:.0f}", "1", "", "", "", ""])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
