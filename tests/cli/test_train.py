"""foveal train: what it leaves, what it refuses, and how it is stopped and goes on."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import foveal
from foveal.catalog import settable, variant
from foveal.cli.train import Options
from foveal.errors import InputError
from foveal.train import checkpoint
from tests.cli.conftest import CLASSES, Answer, splits
from tests.cli.test_main import process

# Plain steps: a plan that is measured may differ from run to run, and so may the last bits of what is computed.
PLAIN = ("--plan", "eager")
QUICK = ("--epochs", "1", "--workers", "0", *PLAIN)


def record(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, which: str) -> dict[str, torch.Tensor]:
    return checkpoint.read(run, prefer=which).weights


def assert_same_end(one: Path, two: Path) -> None:
    """Both runs ended with the same weights, bit for bit, and saw the same on the way."""
    for which in ("last", "best"):
        here, there = weights(one, which), weights(two, which)
        assert here.keys() == there.keys()
        assert all(torch.equal(value, there[name]) for name, value in here.items()), which
    assert [(r["train"], r["val"]) for r in history(one)] == [(r["train"], r["val"]) for r in history(two)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- What it leaves --------------------------------------------------------------------------------------------------


def test_a_teacher(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, tmp_path: Path
) -> None:
    words = ("--data", shared_images, *QUICK)
    works("train", "lenet", *words, "--out", tmp_path / "teacher")
    taught = ("train", "linear_softmax", *words, "--teacher", tmp_path / "teacher", "--distill", "hard")
    answer = works(*taught, "--out", tmp_path / "run")
    assert f"taught by {tmp_path / 'teacher'} (hard), with 0.5 of the loss" in answer.err
    said = record(tmp_path / "run")
    assert (said["teacher"]["name"], said["config"]["teacher"]) == ("lenet", str(tmp_path / "teacher"))
    assert (said["config"]["distill"], said["origins"]["distill"]) == ("hard", "user")
    assert "temperature has no effect with hard" in fails(*taught, "--temperature", "2")
    assert "distill has no effect without a teacher" in fails("train", "lenet", *words, "--distill", "soft")
    assert "is neither a run or checkpoint nor a system" in fails(
        "train", "lenet", *words, "--teacher", tmp_path / "none"
    )


@pytest.mark.parametrize("name", ["lenet", "linear_softmax", "resnet_nano"])
def test_train(works: Callable[..., Answer], shared_images: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "deep" / "run"
    answer = works("train", name, "--data", shared_images, "--out", run, *QUICK)
    assert f"run directory: {run}" in answer.out
    assert "epoch 1/1" in answer.err
    assert {"run.json", "metrics.jsonl", "best.safetensors", "last.safetensors"} <= set(contents(run))
    assert not [file for file in contents(run) if file.endswith((".tmp", ".partial"))]
    assert (run / "last.safetensors").stat().st_mode == (run / "run.json").stat().st_mode
    said = record(run)
    assert (said["name"], said["status"], said["best_epoch"]) == (name, "finished", 1)
    assert set(said["data"]["labels"]) == set(CLASSES)
    assert sum(said["data"]["splits"].values()) == 60
    assert said["result"] == history(run)[-1]["val"]
    system = foveal.load(run)
    assert (system.name, set(system.labels)) == (name, set(CLASSES))


def test_the_report(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    words = ("train", "linear_softmax", "--data", shared_images, *QUICK, "--out")
    answer = works(*words, tmp_path / "run")
    assert f"report: {tmp_path / 'run/report.html'}" in answer.out
    text = (tmp_path / "run/report.html").read_text("utf-8")
    assert "<title>linear_softmax on " in text
    assert f"{record(tmp_path / 'run')['result']['accuracy']:.4f}" in text


def test_a_report_that_cannot_be_written_costs_no_run(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise InputError("cannot write report.html: No space left on device")

    monkeypatch.setattr("foveal.report.training.write_report", full)
    out = tmp_path / "run"
    answer = works("train", "linear_softmax", "--data", shared_images, *QUICK, "--quiet", "--json", "--out", out)
    assert answer.err == "foveal: no report: cannot write report.html: No space left on device\n"
    assert answer.document()["report"] is None
    assert record(out)["status"] == "finished"


def test_a_run_without_a_report(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    words = ("train", "linear_softmax", "--data", shared_images, *QUICK, "--out", tmp_path / "run", "--quiet")
    assert works(*words, "--no-report", "--json").document()["report"] is None
    assert not (tmp_path / "run/report.html").exists()
    assert works(*words, "--resume", "--json").document()["report"] == str(tmp_path / "run/report.html")


def test_train_with_json(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    answer = works("train", "lenet", "--data", shared_images, "--out", tmp_path / "run", *QUICK, "--json")
    document = answer.document()
    assert document["run"] == str(tmp_path / "run")
    assert document["report"] == str(tmp_path / "run/report.html")
    assert document["system"] == "lenet"
    assert (document["best_epoch"], document["epochs"]) == (1, 1)
    assert document["unreadable"] == {}
    assert document["metrics"] == record(tmp_path / "run")["result"]
    assert "epoch 1/1" in answer.err  # a person sees it all the same


def test_train_quietly(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    assert works("train", "lenet", "--data", shared_images, "--out", tmp_path / "run", *QUICK, "--quiet").err == ""


def test_the_directory_of_a_run_without_a_name(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in ("", "-2", "-3"):
        answer = works("train", "linear_softmax", "--data", shared_images, *QUICK, "--json")
        assert Path(answer.document()["run"]) == Path(f"runs/linear_softmax-images{number}")


def test_pictures_of_classes_with_strange_names(works: Callable[..., Answer], images: Path, tmp_path: Path) -> None:
    for old, new in zip(CLASSES, ("$^{$", "猫", "m²"), strict=True):
        (images / old).rename(images / new)
    words = ("train", "linear_softmax", "--data", images, "--out", tmp_path / "run", *QUICK, "--quiet")
    assert works(*words).err == ""
    assert (tmp_path / "run/pictures/class_templates.png").is_file()
    assert set(foveal.load(tmp_path / "run").labels) == {"$^{$", "猫", "m²"}


def test_a_class_whose_name_is_no_text(works: Callable[..., Answer], images: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (images / "zero").rename(images / name)
    works("train", "linear_softmax", "--data", images, "--out", tmp_path / "run", *QUICK, "--quiet")
    assert name in foveal.load(tmp_path / "run").labels
    assert name in record(tmp_path / "run")["data"]["labels"]


# --- The words of the command line -----------------------------------------------------------------------------------


def test_what_the_user_says_counts(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    # 0.002 is what lenet's recipe says for another optimizer: it must not be taken for "nothing said".
    run = tmp_path / "run"
    words = ("--optimizer", "sgd", "--lr", "0.002", "--batch_size=8", "--no-flip")
    works("train", "lenet", "--data", shared_images, "--out", run, *QUICK, *words)
    config, origins = record(run)["config"], record(run)["origins"]
    assert (config["lr"], config["batch_size"], config["flip"]) == (0.002, 8, False)
    assert (origins["lr"], origins["batch_size"], origins["flip"]) == ("user", "user", "user")
    assert (config["momentum"], origins["momentum"]) == (0.9, "default")


def test_the_name_of_the_system_may_stand_anywhere(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A run directory may have the name of a system, too.
    answer = works("train", "--out", "resnet18", "--data", shared_images, *QUICK, "--json", "linear_softmax")
    assert (answer.document()["system"], answer.document()["run"]) == ("linear_softmax", "resnet18")


@pytest.mark.parametrize("words", [("lennet", "--subsampling", "average"), ("--quiet", "lennet")])
def test_unknown_system(fails: Callable[..., str], words: tuple[str, ...]) -> None:
    line = fails("train", *words, "--data", "digits")
    assert "unknown system 'lennet'; did you mean lenet" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--momentum", "0.5"), ["momentum has no effect with adamw", "sgd and rmsprop"]),
        (("--gamma", "0.5"), ["gamma has no effect with cosine", "step"]),
        (("--optimizer", "sgd", "--betas", "0.9", "0.99"), ["betas has no effect with sgd"]),
        (("--resume", "--overwrite"), ["resume and overwrite contradict each other"]),
        (("--optimizer", "sgd", "--momentum", "0", "--nesterov"), ["nesterov needs a momentum"]),
        (("--warmup", "3", "--epochs", "2"), ["warmup (3.0 epochs) leaves nothing of 2 epochs"]),
        (("--crop-scale", "0.9", "0.1"), ["crop_scale (0.9, 0.1)", "smallest"]),
        (("--epochs", "0"), ["epochs must be at least 1, not 0"]),
        (("--batch-size", "-1"), ["batch_size must be at least 1, not -1"]),
        (("--lr", "0"), ["lr must be above 0, not 0.0"]),
        (("--lr", "nan"), ["lr must be above 0, not nan"]),
        (("--lr", "inf"), ["lr must be above 0, not inf"]),
        (("--seed", "-1"), ["seed must be at least 0 and below 18446744073709551616, not -1"]),
        (("--workers", "-1"), ["workers must be at least 0, not -1"]),
        (("--label-smoothing", "2"), ["label_smoothing must be at least 0 and below 1"]),
        (("--image-size", "0"), ["image_size", "(0, 0)"]),
        (("--image-size", "5"), ["lenet takes images of 16 pixels or more, not (5, 5)"]),
        (("--device", "bogus"), ["cannot use the device 'bogus'"]),
        (("--device", "cuda:99"), ["cannot use the device 'cuda:99'"]),
        (("--weights", "gone.pth"), ["gone.pth"]),
    ],
)
def test_settings_that_cannot_be(
    fails: Callable[..., str], shared_images: Path, tmp_path: Path, words: tuple[str, ...], told: list[str]
) -> None:
    line = fails("train", "lenet", "--data", shared_images, "--out", tmp_path / "run", *words)
    assert all(word in line for word in told), line
    assert not (tmp_path / "run").exists()


# --- Data ------------------------------------------------------------------------------------------------------------


def test_data_that_is_none(fails: Callable[..., str], tmp_path: Path) -> None:
    def told(data: Path) -> str:
        line = fails("train", "lenet", "--data", data, "--out", tmp_path / "run")
        assert str(data) in line
        assert not (tmp_path / "run").exists()
        return line

    assert "there is no data" in told(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "no folders" in told(tmp_path / "empty")
    (tmp_path / "data.csv").write_text("file,class\na.png,b\n")
    assert "1 of 1 images do not exist" in told(tmp_path / "data.csv")
    (tmp_path / "data.csv").write_text("what,how\na.png,b\n")
    assert "the columns" in told(tmp_path / "data.csv")
    (tmp_path / "notes.txt").write_text("no data")
    assert "neither a folder" in told(tmp_path / "notes.txt")


def test_data_with_gaps(fails: Callable[..., str], images: Path, tmp_path: Path) -> None:
    (images / "four").mkdir()
    assert "no images in the folder of class four" in fails("train", "lenet", "--data", images)
    for name in ("one", "two", "four"):
        shutil.rmtree(images / name)
    assert "one class only, 'zero'" in fails("train", "lenet", "--data", images)


def test_training_on_a_csv(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    lines = ["path,label", *[f"{path},{path.parent.name}" for path in sorted(shared_images.rglob("*.*"))]]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    works("train", "lenet", "--data", tmp_path / "data.csv", "--outside", "--out", tmp_path / "run", *QUICK)
    assert sum(record(tmp_path / "run")["data"]["splits"].values()) == 60


@pytest.mark.parametrize("workers", [0, 1])
def test_training_goes_on_without_a_damaged_image(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path, workers: int
) -> None:
    data = splits(shared_images, tmp_path / "data")
    broken = data / "train/one/broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    words = ("--epochs", "1", "--batch-size", "1", "--workers", workers, *PLAIN, "--out", tmp_path / "run")
    answer = works("train", "lenet", "--data", data, *words, "--json")
    for unreadable in (answer.document()["unreadable"], record(tmp_path / "run")["unreadable"]):
        assert list(unreadable) == [str(broken)]
        assert str(broken) in unreadable[str(broken)]
    text = works("train", "lenet", "--data", data, *words, "--overwrite").out
    assert "images that cannot be read: 1, listed in run.json" in text


def test_damaged_images_of_validation_are_listed(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path
) -> None:
    data = splits(shared_images, tmp_path / "data")
    (data / "val/one/broken.png").write_bytes(b"no image")
    answer = works("train", "lenet", "--data", data, "--out", tmp_path / "run", *QUICK, "--json")
    assert list(answer.document()["unreadable"]) == [str(data / "val/one/broken.png")]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_ends_where_most_images_are_damaged(
    fails: Callable[..., str], shared_images: Path, tmp_path: Path, workers: int
) -> None:
    data = splits(shared_images, tmp_path / "data")
    for path in (data / "train").rglob("*.*"):
        path.write_bytes(b"no image")
    line = fails("train", "lenet", "--data", data, "--out", tmp_path / "run", "--workers", workers, "--quiet", *PLAIN)
    assert f"{data}: more than 4 of 45 images cannot be read; the first: cannot read {data}/train/" in line


# --- Run directories -------------------------------------------------------------------------------------------------


def test_a_run_is_not_lost_by_mistake(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, run: Path
) -> None:
    before = contents(run)
    line = fails("train", "lenet", "--data", shared_images, "--out", run)
    assert str(run) in line
    assert "--resume" in line
    assert "--overwrite" in line
    assert contents(run) == before
    works("train", "linear_softmax", "--data", shared_images, "--out", run, *QUICK, "--overwrite")
    assert record(run)["name"] == "linear_softmax"
    assert len(history(run)) == 1
    assert foveal.load(run).name == "linear_softmax"


@pytest.mark.parametrize("words", [(), ("--overwrite",), ("--resume",)])
def test_a_directory_that_is_no_run_is_not_touched(
    fails: Callable[..., str], shared_images: Path, images: Path, words: tuple[str, ...]
) -> None:
    before = contents(images)
    line = fails("train", "lenet", "--data", shared_images, "--out", images, *words)
    assert str(images) in line
    assert contents(images) == before


def test_an_out_that_is_a_file(fails: Callable[..., str], shared_images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert str(out) in fails("train", "lenet", "--data", shared_images, "--out", out)
        assert (tmp_path / "file").read_text() == "keep me"


def test_an_empty_directory_will_do(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    works("train", "linear_softmax", "--data", shared_images, "--out", tmp_path / "run", *QUICK)


RUN = ("--epochs", "4", "--batch-size", "8", "--quiet", *PLAIN)  # of the fixture `run`


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lenet", *RUN, "--seed", "4"), "seed 4: it runs with 0"),
        (("lenet", *RUN, "--lr", "0.1"), "lr 0.1: it runs with 0.002"),
        (("lenet", "--quiet"), "epochs 30: it runs with 4"),
        (("linear_softmax", *RUN), "system were lenet, now linear_softmax"),
    ],
)
def test_a_run_goes_on_as_it_began(
    fails: Callable[..., str], shared_images: Path, run: Path, words: tuple[str, ...], told: str
) -> None:
    before = contents(run)
    line = fails("train", *words, "--data", shared_images, "--out", run, "--resume")
    assert f"{run} cannot go on" in line
    assert told in line
    assert contents(run) == before


def test_a_run_goes_on_with_its_data(fails: Callable[..., str], images: Path, run: Path) -> None:
    before = contents(run)
    (images / "zero/0.jpg").unlink()
    line = fails("train", "lenet", *RUN, "--data", images, "--out", run, "--resume")
    assert f"{run} cannot go on: its images in each split were" in line
    (images / "two").rename(images / "three")
    line = fails("train", "lenet", *RUN, "--data", images, "--out", run, "--resume")
    assert f"{run} cannot go on: its classes were ['one', 'two', 'zero'], now ['one', 'three', 'zero']" in line
    assert contents(run) == before


def test_a_run_goes_on_with_its_image_size(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, tmp_path: Path
) -> None:
    words = ("train", "resnet_nano", "--data", shared_images, "--out", tmp_path / "run", *QUICK, "--quiet")
    works(*words, "--image-size", "12")
    before = contents(tmp_path / "run")
    assert "image_size" in fails(*words, "--resume")
    assert contents(tmp_path / "run") == before


def test_resume_needs_a_run(fails: Callable[..., str], shared_images: Path, tmp_path: Path) -> None:
    assert "resume needs out" in fails("train", "lenet", "--data", shared_images, "--resume")
    line = fails("train", "lenet", "--data", shared_images, "--resume", "--out", tmp_path / "gone")
    assert f"there is no run to resume in {tmp_path / 'gone'}" in line
    assert not (tmp_path / "gone").exists()


def test_resuming_a_finished_run_changes_nothing(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path, run: Path
) -> None:
    answer = works("train", "lenet", *RUN, "--data", shared_images, "--out", run, "--resume", "--json")
    assert_same_end(run, shared_run)
    assert answer.document()["metrics"] == record(shared_run)["result"]
    assert (record(run)["status"], record(run)["best_epoch"]) == ("finished", record(shared_run)["best_epoch"])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '{"name": "lenet"}', "\udcff"])
def test_a_damaged_record(fails: Callable[..., str], shared_images: Path, run: Path, content: str) -> None:
    (run / "run.json").write_text(content, "utf-8", "surrogateescape")
    before = contents(run)
    for word in ("--resume", "--overwrite"):  # which removes nothing of what may be no run
        line = fails("train", "lenet", *RUN, "--data", shared_images, "--out", run, word)
        assert f"{run / 'run.json'} is damaged" in line
        assert "choose another directory" in line
        assert contents(run) == before


def test_a_record_without_permission(
    fails: Callable[..., str], shared_images: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if os.fspath(path) == str(run / "run.json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    line = fails("train", "lenet", *RUN, "--data", shared_images, "--out", run, "--resume")
    assert f"cannot read {run / 'run.json'}: Permission denied" in line


def test_overwriting_leaves_nothing_of_the_old_run(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, run: Path
) -> None:
    (run / "pictures").mkdir(exist_ok=True)
    (run / "run.json").write_text(json.dumps({**record(run), "pictures": ["old.png"]}))
    for name in ("pictures/old.png", "nonfinite.safetensors", "report.html", "notes.txt"):
        (run / name).write_text("old")
    words = ("train", "lenet", "--data", shared_images, "--out", run, *QUICK, "--overwrite")
    before = contents(run)
    assert "batch_size above 1" in fails("train", "resnet_nano", *words[2:], "--batch-size", "1", "--image-size", "4")
    assert contents(run) == before  # until there is something to put in its place
    works(*words)
    assert "old" not in {
        content.decode("utf-8", "replace") for name, content in contents(run).items() if name != "notes.txt"
    }
    assert (run / "notes.txt").read_text() == "old"


def test_what_fails_before_the_first_step_does_not_stand_in_the_way(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, tmp_path: Path
) -> None:
    words = ("train", "resnet_nano", "--data", shared_images, "--out", tmp_path / "run", *QUICK, "--image-size", "4")
    assert "take a larger image_size" in fails(*words, "--batch-size", "1")
    works(*words)


@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_that_run_away_are_a_failure(fails: Callable[..., str], shared_images: Path, tmp_path: Path) -> None:
    words = ("--epochs", "1", "--batch-size", "60", "--optimizer", "sgd", "--lr", "1e38", "--workers", "0", *PLAIN)
    line = fails("train", "lenet", "--data", shared_images, "--out", tmp_path / "run", "--quiet", *words)
    assert "lower lr" in line
    assert record(tmp_path / "run")["status"] == "failed"
    assert record(tmp_path / "run")["error"] in line
    assert not (tmp_path / "run/best.safetensors").exists()


# --- Stops -----------------------------------------------------------------------------------------------------------

NOISY = ("--shift", "0.1", "--ema", "0.9", "--batch-size", "8", "--epochs", "25", *PLAIN)


def test_ctrl_c(works: Callable[..., Answer], shared_images: Path, tmp_path: Path) -> None:
    words = ("train", "lenet", "--data", str(shared_images), *NOISY)
    cut = ("--out", str(tmp_path / "cut"), "--workers", "1")
    command = process(*words, *cut, start_new_session=True)
    assert command.stderr is not None
    lines = []
    for line in command.stderr:
        lines.append(line)
        if line.startswith("epoch 1/25"):
            os.killpg(command.pid, signal.SIGINT)  # to its workers too, as a terminal does
    assert command.wait(timeout=60) == 130
    assert (
        lines[-1] == f"foveal: stopped and saved; to go on, add --resume --out {tmp_path / 'cut'} to the same command\n"
    )
    assert "Traceback" not in "".join(lines)
    assert record(tmp_path / "cut")["status"] == "interrupted"
    done = len(history(tmp_path / "cut"))
    assert 1 <= done < 25
    answer = works(*words, *cut, "--resume")
    assert f"going on in {tmp_path / 'cut'} after epoch {done}" in answer.err
    works(*words, "--out", tmp_path / "whole", "--workers", "0", "--quiet")
    assert_same_end(tmp_path / "cut", tmp_path / "whole")
    assert record(tmp_path / "cut")["status"] == "finished"


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.02])
def test_ctrl_c_twice(works: Callable[..., Answer], shared_images: Path, tmp_path: Path, delay: float) -> None:
    words = ("train", "lenet", "--data", str(shared_images), *NOISY, "--workers", "0")
    command = process(*words, "--out", str(tmp_path / "cut"))
    assert command.stderr is not None
    lines = []
    for line in command.stderr:
        lines.append(line)
        if line.startswith("epoch 1/25"):
            for wait in (delay, 0):
                command.send_signal(signal.SIGINT)
                time.sleep(wait)
    assert command.wait(timeout=60) == 130
    assert lines[-1].startswith("foveal: stopped")
    assert "Traceback" not in "".join(lines)
    assert len(history(tmp_path / "cut")) < 25
    works(*words, "--out", tmp_path / "cut", "--resume")
    works(*words, "--out", tmp_path / "whole", "--quiet")
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_ctrl_c_while_a_checkpoint_is_written(
    call: Callable[..., Answer],
    works: Callable[..., Answer],
    shared_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("train", "lenet", "--data", shared_images, *NOISY, "--workers", "0", "--quiet", "--out")
    real, calls, handler = checkpoint.save_file, [], signal.getsignal(signal.SIGINT)

    def interrupted(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) == 6:
            path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # raises KeyboardInterrupt here
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", interrupted)
        answer = call(*words, tmp_path / "cut")
    assert (answer.code, answer.err) == (130, "foveal: stopped\n")
    assert len(calls) == 6
    assert signal.getsignal(signal.SIGINT) is handler
    works(*words, tmp_path / "cut", "--resume")
    works(*words, tmp_path / "whole")
    assert_same_end(tmp_path / "cut", tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".*.partial"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_no_space_left(
    works: Callable[..., Answer],
    fails: Callable[..., str],
    shared_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def words(out: str) -> tuple[object, ...]:
        settings = ("--epochs", "3", "--batch-size", "8", "--shift", "0.1", "--workers", "0", "--quiet", *PLAIN)
        return ("train", "lenet", "--data", shared_images, "--out", tmp_path / out, *settings)

    real = checkpoint.save_file

    def full(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        if len(history(tmp_path / "cut") if (tmp_path / "cut/metrics.jsonl").exists() else []) == 2:
            path.write_bytes(b"half a file")
            raise error
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        line = fails(*words("cut"))
    last = tmp_path / "cut/last.safetensors"
    assert f"cannot write {last}: no space left on the device; {last} still holds the state before" in line
    assert not list((tmp_path / "cut").glob(".*.partial"))
    assert checkpoint.read(last).header["state"]["progress"]["epoch"] == 1
    assert foveal.load(last).labels == ("one", "two", "zero")
    assert foveal.load(tmp_path / "cut").labels == ("one", "two", "zero")
    works(*words("cut"), "--resume")
    works(*words("whole"))
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_no_setting_of_a_system_has_the_name_of_one_of_its_training() -> None:
    training = {field.name for field in [*fields(Options), *fields(foveal.TrainConfig)]}
    both = {name: training & set(settable(variant(name))) for name in foveal.names()}
    assert not {name: settings for name, settings in both.items() if settings}


def test_help_of_a_fitted_system_shows_what_has_an_effect(
    works: Callable[..., Answer], fails: Callable[..., str]
) -> None:
    help = works("train", "perceptron", "--help").out
    assert "--passes" in help
    assert "--batch-size" in help
    assert "--lr" not in help
    assert "lr has no effect: perceptron is fitted by a rule" in fails(
        "train", "perceptron", "--data", "digits", "--lr", 0.1
    )
    assert "--save-minutes" not in help
    assert "weights has no effect: perceptron is fitted by a rule" in fails(
        "train", "perceptron", "--data", "digits", "--weights", "runs/other"
    )


def test_help_shows_the_defaults_of_fine_tuning_where_weights_are_named(works: Callable[..., Answer]) -> None:
    def default(setting: str, *words: str) -> str:
        text = " ".join(works("train", "resnet50", *words, "--help").out.replace("│", " ").split())
        return text.partition(f"--{setting} ")[2].partition("(default: ")[2].partition(")")[0]

    expected = {"lr": ("0.1", "0.001"), "optimizer": ("sgd", "adamw"), "layer-decay": ("None", "0.85")}
    for setting, (scratch, tuned) in expected.items():
        assert (default(setting), default(setting, "--weights", "package")) == (scratch, tuned)
    assert default("norm-statistics", "--weights=package") == "keep"


def test_warnings_are_in_the_document_and_flags_override_the_fine_tuning_recipe(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path
) -> None:
    settings = ("--epochs", 1, "--batch-size", 4, "--layer-decay", "None", "--lr", 1e-12, "--quiet", "--no-report")
    words = ("train", "lenet", "--data", shared_images, "--weights", "package", *settings, "--out", tmp_path / "run")
    document = works(*words, "--json").document()
    run = record(tmp_path / "run")
    assert document["warnings"] == run["warnings"]
    assert (run["config"]["layer_decay"], run["config"]["lr"], run["config"]["warmup"]) == (None, 1e-12, 0.5)
    origins = [run["origins"][name] for name in ("layer_decay", "lr", "optimizer", "warmup")]
    assert origins == ["user", "user", "fine-tuning recipe", "fine-tuning recipe"]
