"""What torchrun starts in test_distributed.py: training runs one after another, as a JSON file tells them."""

import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import foveal
from foveal import cli
from foveal.structures import Batch
from tests.toys import Gan, small_digits, unlabelled

RANK = int(os.environ.get("RANK", "0"))


def build(name: str, fields: dict[str, Any]) -> Any:
    torch.manual_seed(3 if name == "gan" else 3 + RANK)  # the first process decides
    return Gan() if name == "gan" else foveal.create(name, **fields)


def load(name: str, system: str) -> Any:
    # 41 images to validate: their last batch is one image, which leaves the second process without.
    data = small_digits(246) if name == "digits" else foveal.load_dataset(name)
    return unlabelled(data) if system == "gan" else data


def befall(system: Any, what: str, rank: int, call: int) -> None:
    """Let something happen in one process when it asks for the loss that many times in training."""
    kind, calls = type(system), [0]
    original = kind.loss

    def loss(self: Any, batch: Batch, player: str | None = None) -> Any:
        calls[0] += self.training
        if self.training and rank == RANK and calls[0] >= call:
            match what:
                case "stop" if calls[0] == call:
                    os.kill(os.getpid(), signal.SIGINT)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "memory":
                    raise torch.OutOfMemoryError("no memory")
                case "nan" if calls[0] == call:
                    batch = replace(batch, images=batch.images * float("nan"))
        return original(self, batch, player)

    kind.loss = loss


def spoken(words: list[str]) -> tuple[int, str, str]:
    """What the command line ends with, and says."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as complaints:
        return cli.main(words), out.getvalue(), complaints.getvalue()


def main(plan: Path) -> None:
    for case in json.loads(plan.read_text()):
        told = plan.parent / f"{case['name']}.{RANK}.txt"
        if "command" in case:
            told.write_text(json.dumps(spoken(case["command"])))
            continue
        system = build(case["system"], case.get("fields", {}))
        original = type(system).loss
        if "befall" in case:
            befall(system, *case["befall"])
        config = foveal.TrainConfig(out=str(plan.parent / case["name"]), quiet=True, report=False, **case["settings"])
        try:
            run = foveal.train(system, load(case.get("data", "digits"), case["system"]), config)
            figures = foveal.evaluate(system, small_digits(246).select("val")) if case["system"] == "lenet" else {}
            told.write_text(json.dumps({"val": run.history[-1]["val"], "after": figures}))
        except (foveal.InputError, KeyboardInterrupt) as error:
            told.write_text(f"{type(error).__name__}: {error}")
        type(system).loss = original


if __name__ == "__main__":
    main(Path(sys.argv[1]))
