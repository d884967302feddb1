"""A run that is killed at any moment loses nothing: it ends bitwise equal to the run that was never killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.data.dataset import ImageFiles
from foveal.data.image import write_image
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.train.config import TrainConfig
from foveal.train.run import Run
from tests.toys import small_digits

KILLS = 20
SYSTEMS = {
    "classifier": lambda: foveal.create("lenet", subsampling="trainable"),
    "GAN": lambda: foveal.create("dcgan_nano", conditional=True, image_size=8, width=8),
}


def learn(directory: Path, system: str, workers: int, die_in_write: int | None = None) -> None:
    """Begin or resume the run; `die_in_write`: be killed when that many checkpoints have been half written."""
    if die_in_write is not None:
        write, left = checkpoint.save_file, [die_in_write]

        def half(tensors: Any, path: Path, metadata: Any) -> None:
            write(tensors, path, metadata)
            left[0] -= 1
            if not left[0]:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save_file = half
    torch.manual_seed(0)
    settings = {"epochs": 6, "batch_size": 16, "workers": workers, "quiet": True, "ema": 0.9, "save_minutes": 0.0005}
    settings["report"] = False
    resume = (directory / "run.json").is_file()
    config = foveal.TrainConfig(out=str(directory), resume=resume, **settings)
    foveal.train(SYSTEMS[system](), small_digits(), config)


def killed_after(seconds: float | None, *arguments: Any) -> bool:
    """Whether a process that learns was killed after so many seconds, or by itself; False if it had finished."""
    process = multiprocessing.get_context("fork").Process(target=learn, args=arguments)
    process.start()
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize(("system", "workers"), [("classifier", 0), ("classifier", 2), ("GAN", 0)])
def test_killed_runs_end_bitwise_equal(system: str, workers: int, tmp_path: Path) -> None:
    began = time.monotonic()
    assert not killed_after(None, tmp_path / "whole", system, workers)
    whole_run = time.monotonic() - began
    draw, kills = random.Random(workers), 0
    for attempt in range(KILLS):
        if attempt % 4 == 3:
            kills += killed_after(None, tmp_path / "killed", system, workers, draw.randint(1, 3))
        else:
            kills += killed_after(draw.uniform(0.02, 0.4) * whole_run, tmp_path / "killed", system, workers)
        record = tmp_path / "killed" / "run.json"
        if record.is_file() and '"finished"' in record.read_text():  # then another run is begun, to be killed
            compare(tmp_path / "whole", tmp_path / "killed")
            (tmp_path / "killed").rename(tmp_path / f"ended{attempt}")
    assert kills >= KILLS // 2
    assert not killed_after(None, tmp_path / "killed", system, workers)
    compare(tmp_path / "whole", tmp_path / "killed")


def compare(one: Path, two: Path) -> None:
    for which in ("last", "best"):
        a, b = (checkpoint.read(path, state=True, prefer=which) for path in (one, two))
        assert {**a.weights, **a.state}.keys() == {**b.weights, **b.state}.keys()
        for name, value in {**a.weights, **a.state}.items():
            assert torch.equal(value, {**b.weights, **b.state}[name]), f"{which}: {name}"
    metrics = [(path / "metrics.jsonl").read_text().count('"event": "epoch"') for path in (one, two)]
    assert metrics == [6, 6]


def test_a_run_whose_reader_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            write_image(tmp_path / "data" / name / f"{n}.png", torch.full((3, 8, 8), (name == "b") * 200 + n).byte())
    data, here, read = foveal.load_dataset(tmp_path / "data"), os.getpid(), ImageFiles.__getitem__

    def run(out: str, **settings: Any) -> Run:
        torch.manual_seed(0)
        config = TrainConfig(out=str(tmp_path / out), epochs=4, batch_size=4, report=False, quiet=True, **settings)
        return foveal.train(foveal.create("linear_softmax", labels=data.labels), data, config)

    def killed(self: ImageFiles, index: int) -> torch.Tensor:
        if os.getpid() != here and (tmp_path / "run/best.safetensors").exists():  # in the second epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "__getitem__", killed)
        with pytest.raises(InputError, match=r"was killed by SIGKILL.*--resume"):
            run("run", workers=2)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "failed"
    assert "was killed by SIGKILL" in record["error"]
    resumed, whole = run("run", workers=2, resume=True), run("whole", workers=0)
    assert [epoch["train"] for epoch in resumed.history] == [epoch["train"] for epoch in whole.history]
    assert torch.equal(resumed.system.classifier.weight, whole.system.classifier.weight)  # type: ignore[union-attr]
