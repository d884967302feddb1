"""After the best epoch is known: the same start once more, on the train and val splits together."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foveal
from foveal.cli import main
from foveal.data.dataset import SPLITS, Dataset
from foveal.report.html import write_report
from foveal.train import checkpoint
from foveal.train.config import TrainConfig, resolve
from foveal.train.optim import schedule
from foveal.train.run import Run
from tests.toys import small_digits

SETTINGS: dict[str, Any] = {"epochs": 5, "batch_size": 16, "warmup": 1.0, "ema": 0.9, "quiet": True, "mixup": 0.2}


def learn(directory: Path, data: Dataset | None = None, **settings: Any) -> Run:
    torch.manual_seed(3)
    system = foveal.create("lenet", subsampling="trainable")
    return foveal.train(system, data or small_digits(), TrainConfig(out=str(directory), **{**SETTINGS, **settings}))


def equal(one: Path, two: Path, which: str = "best", state: bool = True) -> None:
    a, b = (checkpoint.read(path, state=state, prefer=which) for path in (one, two))
    assert {**a.weights, **a.state}.keys() == {**b.weights, **b.state}.keys()
    for name, value in {**a.weights, **a.state}.items():
        assert torch.equal(value, {**b.weights, **b.state}[name]), name


def refit_epochs(run: Run) -> list[dict[str, Any]]:
    return [record for record in run.history if record["phase"] == "refit"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(tmp_path_factory.mktemp("refit") / "run", refit=True)


def test_a_refit_is_the_run_of_as_many_epochs_on_one_train_split(whole: Run, tmp_path: Path) -> None:
    data, epochs = small_digits(), whole.record["best_epoch"]
    together = replace(data, splits=np.where(data.splits == SPLITS.index("val"), np.int8(0), data.splits))
    plain = learn(tmp_path / "plain", together, epochs=epochs, warmup=SETTINGS["warmup"] * epochs / 5)
    equal(whole.directory, plain.directory)
    equal(whole.directory, plain.directory, "last")
    again = refit_epochs(whole)
    assert [record["train"] for record in again] == [record["train"] for record in plain.history]
    assert [record["lr"] for record in again] == [record["lr"] for record in plain.history]


def test_the_search_before_it_is_the_run_without_it(whole: Run, tmp_path: Path) -> None:
    plain = learn(tmp_path / "plain")
    before = [record for record in whole.history if record["phase"] == "train"]
    for one, two in zip(before, plain.history, strict=True):
        assert (one["train"], one["val"], one["best"]) == (two["train"], two["val"], two["best"])
    assert whole.record["best_epoch"] == plain.record["best_epoch"]


def test_the_record_says_that_no_figures_are_left(whole: Run) -> None:
    record = json.loads((whole.directory / "run.json").read_text())
    best = [line for line in whole.history if line["phase"] == "train" and line["best"]][-1]
    assert record["result"] == {}
    assert record["refit"] == {"epochs": best["epoch"], "figures_before": best["val"]}
    assert [line["best"] for line in refit_epochs(whole)] == [False] * (best["epoch"] - 1) + [True]
    header = checkpoint.read(whole.directory).header
    assert (header["phase"], header["epoch"], header["metrics"]) == ("refit", best["epoch"], {})


def test_the_test_split_stays_untouched(whole: Run, tmp_path: Path) -> None:
    data = small_digits()

    class Guarded(type(data.images)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            assert data.splits[index] != SPLITS.index("test")
            return super().__getitem__(index)

    guarded = replace(data, images=Guarded(data.images.images, data.images.title))  # type: ignore[attr-defined]
    equal(whole.directory, learn(tmp_path / "run", guarded, refit=True).directory)


class Killed(BaseException):
    """Stands for a kill: nothing is told or written any more."""


@pytest.mark.parametrize("after", [True, False])
def test_killed_before_or_after_any_write_it_ends_bitwise_equal(after: bool, whole: Run, tmp_path: Path) -> None:
    """Each file that is written, one after the other, is the last, until the run is through."""
    settings: dict[str, Any] = {"refit": True, "save_minutes": 1e-9}
    place, kills = tmp_path / "run", 0
    write, rename = checkpoint.save_file, Run._append

    def dying(function: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            done = function(*arguments)
            if left[0] == 0:
                raise Killed
            return done

        return wrapped

    while True:
        left = [3 + 7 * (kills % 4)]  # writes from one kill to the next
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save_file", dying(write, left))
            patch.setattr(Run, "_append", dying(rename, left))
            try:
                finished = learn(place, resume=(place / "run.json").is_file(), **settings)
                break
            except Killed:
                kills += 1
    assert kills > 8
    equal(whole.directory, finished.directory)
    equal(whole.directory, finished.directory, "last")
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for one, two in zip(lines, whole.history, strict=True):
        for key in ("phase", "epoch", "train", "val"):
            assert one[key] == two[key]
    assert finished.record["refit"] == whole.record["refit"]
    assert not (place / "start.safetensors").exists()
    again = learn(place, resume=True, **settings)  # a finished run stays as it is
    equal(whole.directory, again.directory, "last")


def test_stopped_between_the_phases_it_goes_on(whole: Run, tmp_path: Path) -> None:
    begin = foveal.train.loop.begin_again  # type: ignore[attr-defined]

    def stopping(*arguments: Any) -> None:
        begin(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveal.train.loop.begin_again", stopping)
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            learn(tmp_path / "run", refit=True)
    stopped = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stopped["status"] == "interrupted"
    assert "refit" not in stopped
    assert checkpoint.read(tmp_path / "run").header["phase"] == "train"  # what is there to use meanwhile
    equal(whole.directory, learn(tmp_path / "run", refit=True, resume=True).directory)


def test_with_patience_it_takes_the_epochs_before_the_wait(tmp_path: Path) -> None:
    finished = learn(tmp_path / "run", refit=True, patience=1, epochs=9, lr=0.05)
    phases = [record["phase"] for record in finished.history]
    assert phases.count("train") == finished.record["best_epoch"] + 1
    assert phases.count("refit") == finished.record["best_epoch"]


def test_the_course_of_the_rate_keeps_its_shape() -> None:
    settings = TrainConfig(epochs=8, warmup=2.0, schedule="step", milestones=(4, 6), gamma=0.5)
    factor = schedule(resolve(settings, {}, "net")[0], 10, 4)
    assert [factor(step) for step in (4, 9, 10, 19, 20, 29, 30, 39)] == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    single = schedule(resolve(TrainConfig(epochs=8, warmup=7.9), {}, "net")[0], 1, 1)
    assert single(0) == single(1) == 1


def test_without_a_val_split_it_has_no_effect(tmp_path: Path) -> None:
    with pytest.raises(foveal.InputError, match="refit has no effect: digits has no val split"):
        learn(tmp_path / "run", small_digits().select("train"), refit=True)
    config = TrainConfig(refit=True)
    with pytest.raises(foveal.InputError, match="refit has no effect: net is fitted by a rule of its own"):
        resolve(config, {}, "net", fits=True)


def test_what_only_the_second_phase_cannot_do_is_told_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(foveal.InputError, match="set batch_size to 200 or more"):
        learn(tmp_path / "run", refit=True, optimizer="lbfgs", batch_size=180, ema=None, mixup=0.0)
    assert not (tmp_path / "run").exists()


def test_a_plain_run_and_a_refit_are_not_mixed(whole: Run) -> None:
    with pytest.raises(foveal.InputError, match="cannot go on with refit False: it runs with True"):
        learn(whole.directory, resume=True)


def test_the_report_shows_both_phases(whole: Run) -> None:
    page = write_report(whole.directory, small_digits()).read_text()
    assert 'id="refit"' in page
    assert "on the train and val splits together" in page
    assert "before the refit" in page
    assert "the best epoch was chosen by these; the system has learned from these" in page
    assert f"<dd>{whole.record['best_epoch']} of 5</dd>" in page


def test_the_command_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "lenet", "--data", "digits", "--epochs", "2", "--refit", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "for 2 epochs and as many of the refit" in shown.err
    assert "refit epoch 1/" in shown.err
    assert "then trained anew on the train and val splits for" in shown.out


def test_a_run_shows_what_it_is(whole: Run, tmp_path: Path) -> None:
    best = whole.record["best_epoch"]
    assert repr(whole) == f"Run('{whole.directory}', finished, best epoch {best})"
    plain = learn(tmp_path / "run", epochs=1, warmup=0.0)
    accuracy = plain.record["result"]["accuracy"]
    assert repr(plain) == f"Run('{plain.directory}', finished, best epoch 1: accuracy {accuracy:.4g})"
    with pytest.raises(foveal.InputError, match="accumulate 99 takes more batches than the 10 of an epoch"):
        learn(tmp_path / "other", accumulate=99)


def test_data_weights_and_variant_have_an_origin(whole: Run) -> None:
    inputs = whole.record["inputs"]
    assert inputs["data"] == {"value": "digits", "from": "user"}
    assert inputs["weights"] == {"value": None, "from": "default"}
    assert inputs["subsampling"] == {"value": "trainable", "from": "user"}
    assert "subsampling" in write_report(whole.directory, small_digits()).read_text().partition("Defaults: ")[0]
