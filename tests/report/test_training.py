"""What `foveal.train` leaves for a person to read, from Python as from the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.errors import InputError
from foveal.train.config import TrainConfig
from foveal.train.run import Run
from tests.report.page import read, said, titles
from tests.toys import small_digits


def trained(out: Path, **settings: Any) -> Run:
    dataset = small_digits()
    system = foveal.create("linear_softmax", labels=dataset.labels)
    config = TrainConfig(out=str(out), **{"epochs": 1, "plan": "eager", "quiet": True, **settings})
    return foveal.train(system, dataset, config)


def test_training_leaves_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    run, drawn = trained(tmp_path / "run"), torch.rand(1)
    assert run.report == tmp_path / "run" / "report.html"
    page = read(run.report)
    assert f"{run.record['result']['accuracy']:.4f}" in said(page)
    assert {"Learning curves", "Confusion matrix", "Signals by depth"} <= set(titles(page))
    assert list((tmp_path / "run" / "pictures").iterdir())
    assert not run.system.training
    assert capsys.readouterr() == ("", "")
    torch.manual_seed(0)
    assert trained(tmp_path / "other", report=False).report is None
    assert torch.rand(1) == drawn  # what follows in a program does not depend on the report
    assert not (tmp_path / "other" / "report.html").exists()


@pytest.mark.parametrize("error", [InputError("the disk\nis full"), ZeroDivisionError("a bug")])
def test_a_report_that_fails_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("foveal.report.training.write_report", broken)
    run = trained(tmp_path / "run")
    assert (run.report, run.record["status"]) == (None, "finished")
    told = "the disk is full" if isinstance(error, InputError) else "ZeroDivisionError('a bug')"
    assert capsys.readouterr().err == f"foveal: no report: {told}\n"


def test_the_first_of_several_processes_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveal.train.distributed.Ranks.first", False)
    assert trained(tmp_path / "run").report is None
    assert not (tmp_path / "run" / "report.html").exists()
