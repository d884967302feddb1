"""Run directories with damage, odd values, links and pipes in them: each verb has a result or an InputError of one
line, in little time and memory; nothing outside the run changes, and no error quotes a file outside it."""

import contextlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import foveal
from foveal.report import html
from foveal.train.config import TrainConfig
from foveal.train.run import Run
from tests.fuzzing import below, damaged, fuzz, replaced, survives
from tests.toys import small_digits

BOUND = 2**27  # bytes
DATA = small_digits(60)
SECRET = "root:x:0:0:a secret line"
NAMES = ["run.json", "metrics.jsonl", "best.safetensors", "last.safetensors"]


def learn(out: Path, *, resume: bool = False) -> Run:
    torch.manual_seed(0)
    system = foveal.create("linear_softmax", labels=DATA.labels, image_size=4)
    settings = {"epochs": 2, "batch_size": 32, "lr": 0.002, "plan": "eager", "device": "cpu", "ema": 0.9, "keep": 1}
    config = TrainConfig(out=str(out), quiet=True, report=False, resume=resume, **settings)  # type: ignore[arg-type]
    return foveal.train(system, DATA, config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch."""
    folder, save_last = tmp_path_factory.mktemp("runs") / "run", Run.save_last

    def save_once(run: Run, state: Any) -> None:
        if state.progress.epoch < 2:
            save_last(run, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save_last", save_once)
        learn(folder)
    return folder


# What a file of the run becomes instead: a link, a folder, or something that is no file.
PLANTS: dict[str, Callable[[Path, Path], Any]] = {
    "secret": lambda path, outside: path.symlink_to(outside / "secret"),
    "other run": lambda path, outside: path.symlink_to(outside / "run" / path.name),
    "second name": lambda path, outside: path.hardlink_to(outside / "run" / "metrics.jsonl"),
    "device": lambda path, outside: path.symlink_to("/dev/zero"),
    "dangling": lambda path, outside: path.symlink_to(outside / "new"),
    "folder": lambda path, outside: path.mkdir(),
    "link to a folder": lambda path, outside: path.symlink_to(outside),
    "pipe": lambda path, outside: os.mkfifo(path),
    "sparse": lambda path, outside: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**31),
    "nothing": lambda path, outside: None,
}
PLANTED = [*NAMES, ".lock", "epoch-1.safetensors", "report.html", "samples", "pictures", "tensorboard"]


def rewritten(data: bytes, name: str, draw: Random) -> bytes:
    """The file with odd things in place of some of its JSON values."""
    if name == "metrics.jsonl":
        lines = [json.loads(line) for line in data.splitlines()]
        return b"".join(json.dumps(line).encode() + b"\n" for line in replaced(lines)(draw))
    if name == "run.json":
        return json.dumps(replaced(json.loads(data))(draw)).encode()
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw.randrange(4):
        own = json.loads(header["__metadata__"]["foveal"])
        header["__metadata__"]["foveal"] = json.dumps(replaced(own)(draw))
    else:
        header = replaced(header)(draw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


Changes = list[tuple[str, Any]]


def changes(whole: dict[str, bytes], draw: Random) -> Changes:
    """One or two files, and for each the bytes or the plant in its place."""
    chosen: Changes = []
    for name in draw.sample(NAMES, draw.randint(1, 2)):
        kind = draw.randrange(10)
        if kind == 0:
            chosen.append((draw.choice(PLANTED), draw.choice(list(PLANTS.values()))))
        else:
            data = whole[name]
            chosen.append((name, rewritten(data, name, draw) if kind < 7 else damaged([data])(draw)))
    return chosen


def change(directory: Path, whole: Path, outside: Path, changed: Changes) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(whole, directory)
    for name, new in changed:
        path = directory / name
        if os.path.lexists(path):
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
        if isinstance(new, bytes):
            path.write_bytes(new)
        else:
            new(path, outside)


def plain_page(directory: Path) -> None:
    """The report, without what is measured."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_of_task", "_signals"):
            patch.setattr(html, name, lambda *_: [])
        html.write_report(directory, DATA)


def evaluate(directory: Path) -> None:
    foveal.evaluate(foveal.load(directory), DATA)


VERBS: dict[str, tuple[Callable[[Path], Any], int]] = {
    "load": (foveal.load, 1_000),
    "evaluate": (evaluate, 200),
    "report": (plain_page, 1_000),
    "resume": (lambda directory: learn(directory, resume=True), 400),
}


@pytest.mark.parametrize("verb", VERBS)
def test_run_directories(verb: str, whole: Path, tmp_path: Path) -> None:
    act, count = VERBS[verb]
    outside, directory, results = tmp_path / "outside", tmp_path / "scratch" / "run", []
    shutil.copytree(whole, outside / "run")
    (outside / "secret").write_text(f"{SECRET}\n{SECRET}\n")
    before = below(outside)
    change(directory, whole, outside, [])
    act(directory)

    def run(changed: Changes) -> None:
        change(directory, whole, outside, changed)
        screen = io.StringIO()
        with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(screen):
            results.append(survives(lambda: act(directory), BOUND))
        assert "secret line" not in screen.getvalue()
        assert below(outside) == before

    contents = {name: (whole / name).read_bytes() for name in NAMES}
    fuzz(count, lambda draw: changes(contents, draw), run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "scratch"]
    assert [path.name for path in directory.parent.iterdir()] == ["run"]
    assert any(results)
    assert not all(results)
