"""A run directory from a stranger: no file outside it is touched, and `--overwrite` removes a run alone."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.train.config import TrainConfig
from foveal.train.directory import EPOCH, FILES, FOLDERS, has_other_things
from foveal.train.run import Run
from tests.toys import Gan, small_digits, unlabelled

SETTINGS = {"batch_size": 64, "epochs": 2, "keep": 2, "quiet": True, "plan": "eager"}
NAMES = (".lock", *FILES, "epoch-1.safetensors", "epoch-2.safetensors", *FOLDERS)
# What foveal called the files that it was writing, before their names were random.
OLD = ("run.json.tmp", "report.html.tmp", "metrics.jsonl.tmp", "best.safetensors.tmp", "last.safetensors.tmp")


def learn(directory: Path, **settings: Any) -> Run:
    torch.manual_seed(0)
    config = TrainConfig(out=str(directory), **{**SETTINGS, **settings})
    return foveal.train(Gan(), unlabelled(small_digits(60)), config)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after one of two epochs."""
    directory, log = tmp_path_factory.mktemp("cut") / "run", Run.log

    def stop(run: Run, record: dict[str, Any]) -> None:
        log(run, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(directory)
    (directory / "tensorboard").mkdir()
    (directory / "tensorboard" / "events.out.tfevents.1700000000.host.1.0").write_text("")
    return directory


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "victim")


def dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "absent")


def hard_link(path: Path, outside: Path) -> None:
    os.link(outside / "victim", path)


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def folder_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "folder")


def contents(directory: Path) -> dict[str, bytes | None]:
    found = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in found}


@pytest.fixture
def in_time() -> Iterator[None]:
    """An error where a test hangs, as one does that opens a pipe."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("plant", [link, dangling_link, hard_link, pipe, folder, folder_link])
@pytest.mark.parametrize("way", ["resume", "overwrite"])
@pytest.mark.usefixtures("in_time")
def test_what_is_planted_leads_nowhere(
    way: str, plant: Callable[[Path, Path], None], cut: Path, tmp_path: Path
) -> None:
    for name in (*NAMES, *(OLD if plant is link else ())):
        run, outside = tmp_path / f"run {name}", tmp_path / f"outside {name}"
        shutil.copytree(cut, run)
        (outside / "folder").mkdir(parents=True)
        (outside / "folder" / "epoch-0001.png").write_text("precious")
        place = run / name
        if place.is_dir():
            shutil.rmtree(place)
        elif place.exists():
            shutil.copy(place, outside / "victim")
            place.unlink()
        if not (outside / "victim").exists():
            (outside / "victim").write_text("precious")
        plant(place, outside)
        before = contents(outside)
        refusal = ""
        try:
            learn(run, **{way: True}, epochs=2 if way == "resume" else 1)
        except InputError as error:
            refusal = str(error)
        assert str(run) in refusal if refusal else '"finished"' in (run / "run.json").read_text()
        assert "\n" not in refusal
        assert contents(outside) == before, name
        if plant is folder:
            assert (place / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_replaced_by_an_overwriting_run(name: str, cut: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(tmp_path)
    with pytest.raises(InputError, match="is a link"):
        learn(run, resume=True)
    learn(run, overwrite=True)
    assert not (run / name).is_symlink()


def test_overwriting_removes_what_foveal_wrote_and_nothing_else(cut: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    written = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    for path in written:
        if path.name != "run.json":
            path.write_text("old")
    (run / "pictures").mkdir()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "pictures": ["drawn.png", "../notes.txt"]}))
    (run / "pictures" / "drawn.png").write_text("old")
    (run / "epoch-3.safetensors").write_text("old")
    for name in (
        *("notes.txt", "epoch-.safetensors", "epoch-x.safetensors", "epoch-1.safetensors.bak", "epoch-01.safetensors"),
        *("pictures/drawn.jpg", "samples/epoch-1.png", "samples/mine.png", "tensorboard/mine", "last.safetensors.bak"),
        *("metrics.json", ".tmpabcdef", ".mine.0123456789abcdef.partial", "samples/below/epoch-0001.png"),
    ):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    mine = [path for path in run.rglob("*") if path.is_file() and path.read_bytes() == b"mine"]
    assert len(mine) == 14
    learn(run, overwrite=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert not [path for path in run.rglob("*") if path.is_file() and path.read_bytes() == b"old"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"name": "my-app", "version": "1.0.0"}', '{"foveal": 1}', '{"foveal": "0.1.0"}', "[" * 10**5],
)
@pytest.mark.parametrize("way", ["resume", "overwrite", None])
def test_a_directory_with_another_run_json_is_not_touched(way: str | None, content: str, tmp_path: Path) -> None:
    for name in ("run.json", "best.safetensors", "samples/epoch-0001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"run\.json is damaged") as caught:
        learn(tmp_path, **({way: True} if way else {}))
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_what_a_kill_leaves_is_cleaned_up(cut: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    left = [
        *(f".{name}.0123456789abcdef.partial" for name in ("run.json", "last.safetensors", "epoch-12.safetensors")),
        *("samples/.epoch-0002.png.0123456789abcdef.partial", ".tmpA1b2C3"),
    ]
    for name in left:
        (run / name).write_bytes((cut / "best.safetensors").read_bytes()[:100])
    learn(run, resume=True)
    assert not [name for name in left if (run / name).exists()]


def test_a_run_that_was_killed_as_it_began_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".run.json.0123456789abcdef.partial").write_text("{")
    assert not has_other_things(tmp_path)
    learn(tmp_path)
    assert not list(tmp_path.glob(".*.partial"))
    assert has_other_things(tmp_path)


def test_a_lock_keeps_its_content(cut: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    (run / ".lock").write_text("mine")
    learn(run, resume=True)
    assert (run / ".lock").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "last.safetensors"])
def test_a_full_disk(name: str, number: int, cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    before = (run / name).read_bytes()
    real = os.fsync

    def full(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    def full_append(path: Path, text: str) -> None:
        raise InputError(f"cannot write {path}: {os.strerror(number)}")

    if name == "metrics.jsonl":
        monkeypatch.setattr("foveal.train.run.append", full_append)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="free some space and go on with --resume") as caught:
        learn(run, resume=True)
    assert f"cannot write {run / name}: " in str(caught.value)
    if name != "metrics.jsonl":  # which is cut back to the state that was saved
        assert (run / name).read_bytes() == before
    monkeypatch.undo()
    monkeypatch.setattr("foveal.report.training.leave_report", lambda *_: None)
    assert learn(run, resume=True).record["status"] == "finished"
    assert not [path for path in run.iterdir() if path.name.endswith(".partial")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limit is one of a process")
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {}, {"a": torch.zeros(10)})
    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            try:
                checkpoint.save(path, {}, {"a": torch.zeros(100_000)})
            except InputError as error:
                code = 0 if "free some space" in str(error) and "still holds" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(checkpoint.read(path).weights["a"]) == 10


def test_epochs_are_named_by_digits() -> None:
    assert EPOCH.fullmatch("epoch-12.safetensors")
    for name in ("epoch-.safetensors", "epoch-01.safetensors", "epoch-1x.safetensors", "epoch-\u0661.safetensors"):
        assert not EPOCH.fullmatch(name)
