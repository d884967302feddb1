"""What `foveal.train` leaves for a person to read, from Python as from the command line."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.errors import InputError
from foveal.report.training import leave_report
from foveal.train import checkpoint
from foveal.train.config import TrainConfig
from foveal.train.run import Run
from foveal.train.stopping import Interrupted
from tests.report.page import read, said, titles
from tests.toys import small_digits


def trained(out: Path, **settings: Any) -> Run:
    dataset = small_digits()
    system = foveal.create("linear_softmax", labels=dataset.labels)
    config = TrainConfig(out=str(out), **{"epochs": 1, "plan": "eager", "quiet": True, **settings})
    return foveal.train(system, dataset, config)


def header_of(report: Path | None) -> str:
    assert report is not None
    (header,) = read(report).iter("header")
    return said(header)


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


def test_a_run_that_was_stopped_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Run.log

    def stop(run: Run, record: dict[str, Any]) -> None:
        log(run, record)
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", stop)
    with pytest.raises(Interrupted) as stopped:
        trained(tmp_path / "run", epochs=4)
    monkeypatch.undo()
    run = stopped.value.run
    assert run.report == tmp_path / "run" / "report.html"
    header = header_of(run.report)
    assert f"stopped after epoch 2 of 4, its state saved. To go on: add --resume --out {tmp_path / 'run'} to" in header
    assert "To go on" not in header_of(trained(tmp_path / "run", epochs=4, resume=True).report)


def test_a_run_that_failed_leaves_a_report_of_its_best_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Breaks(type(foveal.create("linear_softmax"))):  # type: ignore[misc]
        steps = 0

        def losses(self, heads: Any, batch: Any) -> Any:
            Breaks.steps += self.training
            return {"class": super().losses(heads, batch)["class"] * (float("nan") if Breaks.steps > 19 else 1)}

    system = Breaks(foveal.create("linear_softmax", labels=small_digits().labels).spec)
    config = TrainConfig(out=str(tmp_path / "run"), epochs=6, batch_size=16, plan="eager", quiet=True)
    with pytest.raises(InputError, match="is nan in epoch 2") as failed:
        foveal.train(system, small_digits(), config)
    last = {name: value.clone() for name, value in system.state_dict().items()}
    header = header_of(failed.value.run.report)
    assert "This run failed after epoch 1 of 6: the loss of the system is nan in epoch 2" in " ".join(header.split())
    best = checkpoint.read(tmp_path / "run").weights
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert capsys.readouterr().err == ""


def test_a_run_that_failed_in_its_first_epoch_has_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epoch 1") as failed:
        trained(tmp_path / "run", optimizer="sgd", lr=1e38)
    assert failed.value.run.report is None
    with pytest.raises(InputError, match="holds a run") as refused:
        trained(tmp_path / "run")
    assert refused.value.run is None


def test_the_first_of_several_processes_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveal.train.distributed.Ranks.first", False)
    assert trained(tmp_path / "run").report is None
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("plant", ["link", "dangling link", "hard link", "pipe", "folder", "folder link"])
def test_what_is_planted_in_the_place_of_a_report_or_a_picture_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plant: str
) -> None:
    run, outside = trained(tmp_path / "run"), tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "victim").write_text("precious")
    (picture, *_) = (run.directory / "pictures").iterdir()
    assert run.record["pictures"] == [path.name for path in (run.directory / "pictures").iterdir()]
    for path in (run.directory / "report.html", picture, run.directory / "pictures"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        match plant:
            case "link" | "dangling link" | "folder link":
                names = {"link": "victim", "dangling link": "absent", "folder link": "below"}
                path.symlink_to(outside / names[plant])
            case "hard link":
                os.link(outside / "victim", path)
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
        leave_report(run, small_digits(), run.system)
        err = capsys.readouterr().err
        assert err.count("\n") <= 1
        assert str(path) in err if err else (run.directory / "report.html").is_file()
        assert [str(left.relative_to(outside)) for left in sorted(outside.rglob("*"))] == ["below", "victim"]
        assert (outside / "victim").read_text() == "precious"
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


def test_what_is_wrong_with_the_result_stands_in_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("foveal.train.loop.warnings", lambda *_: ["the <loss> rose; try less"])
    run = trained(tmp_path / "run")
    assert "The <loss> rose; try less." in header_of(run.report)
    assert capsys.readouterr().err == "foveal: warning: the <loss> rose; try less\n"
