"""The weights of several best epochs stay in the run directory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.train import checkpoint
from foveal.train.state import Progress
from tests.toys import small_digits


def learn(directory: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = foveal.TrainConfig(out=str(directory), epochs=5, keep=2, quiet=True, **settings)
    return foveal.train(foveal.create("linear_softmax"), small_digits(), config)


def kept(directory: Path) -> list[int]:
    return sorted(int(path.stem.partition("-")[2]) for path in directory.glob("epoch-*"))


def test_the_best_epochs_are_kept(tmp_path: Path) -> None:
    run = learn(tmp_path / "run", ema=0.9)
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    order = sorted(lines, key=lambda line: (-line["val"]["accuracy"], line["val"]["loss"], line["epoch"]))
    assert kept(run.directory) == sorted(line["epoch"] for line in order[:2])
    for line in order[:2]:
        file = run.directory / f"epoch-{line['epoch']}.safetensors"
        assert foveal.evaluate(foveal.load(file), small_digits().select("val")) == pytest.approx(line["val"])
    best = checkpoint.read(run.directory)
    same = checkpoint.read(run.directory / f"epoch-{best.header['epoch']}.safetensors")
    assert all(torch.equal(value, same.weights[name]) for name, value in best.weights.items())
    learn(tmp_path / "run", ema=0.9, overwrite=True, shift=0.3)
    assert len(kept(run.directory)) == 2


@pytest.mark.parametrize("moment", ["save_epoch", "save_last", "prune"])
def test_a_kill_at_any_moment(moment: str, tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole")
    original, calls = getattr(foveal.train.loop.Run, moment), [0]

    def die(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foveal.train.loop.Run, moment, die)
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "killed")
    resumed = learn(tmp_path / "killed", resume=True)
    assert kept(resumed.directory) == kept(whole.directory)
    for epoch in kept(whole.directory):
        one, two = (checkpoint.read(r.directory / f"epoch-{epoch}.safetensors") for r in (whole, resumed))
        assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())


def test_of_equal_epochs_the_earlier_and_without_figures_the_latest() -> None:
    progress = Progress()
    for rank in (0.5, 0.7, 0.5, 0.7, 0.6):
        progress.close_epoch((rank,))
        progress.keep((rank,), 3)
    assert [epoch for _, epoch in progress.kept] == [2, 4, 5]
    progress = Progress()
    for _ in range(4):
        progress.close_epoch(())
        progress.keep((), 2)
    assert [epoch for _, epoch in progress.kept] == [4, 3]


def test_nothing_to_keep_where_nothing_goes_by_epochs(tmp_path: Path) -> None:
    with pytest.raises(foveal.InputError, match="keep has no effect: knn is fitted"):
        foveal.train(foveal.create("knn"), small_digits(), foveal.TrainConfig(keep=2, out=str(tmp_path / "run")))
    with pytest.raises(foveal.InputError, match="keep must be at least 1"):
        foveal.train(foveal.create("lenet"), small_digits(), foveal.TrainConfig(keep=0, out=str(tmp_path / "run")))
