"""What a run has written, edited by hand at every key: it is read, or refused in one line that names the file."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.errors import InputError
from foveal.report import html
from foveal.schema import DEEPEST
from foveal.train import checkpoint
from foveal.train.config import TrainConfig, resolve
from foveal.train.optim import schedule
from foveal.train.prepare import training_phases
from foveal.train.record import check_same, is_before, read_metrics, read_record
from foveal.train.run import Run
from foveal.train.state import Progress, State, check_progress
from foveal.train.step import step
from tests.toys import small_digits

GONE = object()
DATA, SYSTEM = small_digits(120), foveal.create("linear_softmax")
DEEP: Any = []
for _ in range(2 * DEEPEST):
    DEEP = [DEEP]
VALUES = (GONE, None, True, -1, 7, 10**30, math.nan, 1e308, "\ud800", [[]], {"x": 1}, DEEP)


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path to each value within a nest of dicts and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (key,)
        for rest in places(part):
            yield (key, *rest)


def edits(value: Any) -> Iterator[tuple[str, Any]]:
    """What was done, and a copy of the nest in which one value has been replaced or removed."""
    for path in places(value):
        for new in VALUES:
            changed = copy.deepcopy(value)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if new is GONE:
                del holder[path[-1]]
            else:
                holder[path[-1]] = new
            yield f"{'.'.join(map(str, path))} = {'gone' if new is GONE else repr(new)[:20]}", changed


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """The one line of its InputError; nothing where there is none."""
    try:
        function(*arguments)
    except InputError as error:
        line = str(error)
    else:
        return ""
    assert line
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("runs") / "run").directory


def learn(out: Path, **settings: Any) -> Run:
    torch.manual_seed(0)
    system = foveal.create("linear_softmax", labels=small_digits().labels)
    config = {"epochs": 2, "batch_size": 64, "plan": "eager", "quiet": True, "report": False, "ema": 0.9, **settings}
    return foveal.train(system, small_digits(120), TrainConfig(out=str(out), **config))


def page(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a report shows of the record and the metrics; what it measures stays out."""
    for name in ("_of_task", "_signals"):
        monkeypatch.setattr(html, name, lambda *_: [])
    monkeypatch.setattr(html, "_cost", lambda _: html.note("cost"))
    monkeypatch.setattr(html, "write_text", lambda path, text: None)
    html.write_report(directory, DATA, system=SYSTEM)


def test_records(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((run / "run.json").read_text())
    full = {
        "teacher": {"name": "lenet", "digest": "0"},
        "refit": {"epochs": 1, "figures_before": {"accuracy": 0.5}},
        "unreadable": {"a.png": "damaged"},
        "variant": {"width": 4, "of": [{"name": "lenet", "labels": []}]},
        "error": "no space",
        "pictures": ["a.png"],
        "status": "failed",
    }
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    refused = accepted = 0
    for what, changed in edits({**record, **full}):
        (tmp_path / "run.json").write_text(json.dumps(changed))
        if line := refusal(read_record, tmp_path):
            refused += 1
            key = what.partition(" ")[0].split(".")[0]
            assert str(tmp_path / "run.json") in line, what
            assert key in line or (key, "origins.x is missing" in line) == ("config", True), what
            continue
        accepted += 1
        if not what.startswith(("origins", "environment", "inputs")):  # which are shown in tables
            page(tmp_path, monkeypatch)
        line = refusal(check_same, tmp_path, read_record(tmp_path), record)
        assert not line or "cannot go on" in line
    assert refused > 400
    assert accepted > 60


def test_a_warning_of_no_letters(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "warnings": ["", "low"]}))
    page(tmp_path, monkeypatch)


def test_numbers_and_texts_that_json_alone_refuses(run: Path, tmp_path: Path) -> None:
    text = (run / "run.json").read_text()
    for changed in (
        text.replace('"batch_size": 64', f'"batch_size": {"9" * 5000}'),
        text.replace('"batch_size": 64', f'"batch_size": {"[" * 10**5}'),
        text.replace('"batch_size": 64', '"batch_size": 64 "x"'),
        text[:-20],
        "\x00",
    ):
        assert changed != text
        (tmp_path / "run.json").write_text(changed)
        with pytest.raises(InputError, match=r"run\.json is damaged"):
            read_record(tmp_path)


def test_metrics(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    path = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines.insert(1, {"event": "skipped", "phase": "train", "epoch": 2, "step": 3, "reason": "it is nan"})
    refused = 0
    for what, changed in edits(lines):
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        if line := refusal(read_metrics, path):
            refused += 1
            assert str(path) in line, what
            continue
        for record in read_metrics(path):
            is_before(record, Progress("train", 2, epoch=1, step=2))
        page(tmp_path, monkeypatch)
    assert refused > 100
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    with pytest.raises(InputError, match="line 3: epoch 1 comes after epoch 2; put it right"):
        read_metrics(path)
    path.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[0])[:50] + "\n" + json.dumps(lines[2]) + "\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        read_metrics(path)


def test_progress(run: Path) -> None:
    captured = checkpoint.read(run, prefer="last").header["state"]
    captured["progress"] |= {"batch": 1, "epoch": 1, "best_epoch": 1, "totals": {"class": 2.0, "loss": 2.0, "steps": 1}}
    captured["progress"]["kept"] = [[[0.5], 1]]
    phases = {"train": (2, 2), "refit": (3, 3)}
    assert check_progress(captured, 2, phases).kept == [[[0.5], 1]]
    for _, changed in edits({"progress": captured["progress"], "tree": 0}):
        if refusal(check_progress, changed, 2, phases):
            continue
        progress = check_progress(changed, 2, phases)
        progress.add({"class": 1.0, "loss": 1.0}, 1)
        progress.means()
        progress.close_epoch([0.4])
        progress.keep([0.4], 2)
        progress.over(1)
    for wrong in ({"epoch": 3}, {"phase": "refit", "epochs": 0}, {"step": 99}, {"batch": 3}, {"best_epoch": 2}):
        with pytest.raises(InputError, match=r"progress\."):
            check_progress({**captured, "progress": captured["progress"] | wrong}, 2, phases)
    with pytest.raises(InputError, match="phases of this run are train"):
        check_progress({**captured, "progress": captured["progress"] | {"phase": "refit"}}, 2, {"train": (2, 2)})


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw", "lbfgs"])
def test_states(optimizer: str) -> None:
    torch.manual_seed(0)
    system = foveal.create("linear_softmax", labels=small_digits().labels)
    settings = {"optimizer": optimizer, "ema": 0.9, "batch_size": 1000}
    settings |= {"precision": "float16"} if optimizer != "lbfgs" else {}
    config, _ = resolve(TrainConfig(**settings), {}, "net")
    (phase,) = training_phases(system, small_digits(30), config)
    batch = next(phase.loader.epoch()).float()

    def fresh() -> State:
        return State(system, config, schedule(config, 10))

    begun = fresh()
    for _ in range(2):
        begun.progress.add(step(begun, [batch]), 1)
    record, tensors = begun.capture()
    record["progress"] = {**record["progress"], "totals": {}}
    record, tensors = json.loads(json.dumps(record)), {name: value.clone() for name, value in tensors.items()}
    fresh().restore(copy.deepcopy(record), tensors)
    refused = 0
    shown = [edit for edit in edits(record["tree"]) if "random" not in edit[0]]
    for what, tree in shown[:: 1 + len(shown) // 250]:
        state = fresh()
        if refusal(state.restore, {"progress": record["progress"], "tree": tree}, tensors):
            refused += 1
            continue
        with torch.random.fork_rng():
            line = refusal(step, state, [batch])
        assert not line or "not finite" in line or "is nan" in line, what
    assert refused > 60
    for name, value in ((name, value) for name, value in tensors.items() if "/al/" not in name):  # scratch of L-BFGS
        for wrong in (value[None], torch.zeros(3, 1, 2), value.to(torch.complex64)):
            with pytest.raises(InputError):
                fresh().restore(copy.deepcopy(record), {**tensors, name: wrong})
        with pytest.raises(InputError):
            fresh().restore(copy.deepcopy(record), {key: part for key, part in tensors.items() if key != name})


@pytest.mark.parametrize(
    ("which", "wrong", "told"),
    [
        ("last", {"state": {"progress": {"epoch": 9}, "tree": {}}}, "progress.epoch has to be from 0 to 2, not 9"),
        ("last", {"state": {"progress": {"epoch": "x"}, "tree": {}}}, "progress.epoch has to be a whole number"),
        ("last", {"state": {"progress": {}, "tree": {"dict": 3}}}, "no nest of lists and tensors"),
        ("last", {"state": []}, "it has no training state"),
        ("best", {"epoch": "x"}, "epoch has to be a whole number, not 'x'"),
        ("best", {"metrics": [1]}, "metrics has to be an object, not a list of 1"),
    ],
)
def test_a_resumption_names_the_file(which: str, wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    learn(tmp_path)
    path = tmp_path / f"{which}.safetensors"
    saved = checkpoint.read(path, state=True)
    tensors = saved.weights | {checkpoint.TRAIN + name: value for name, value in saved.state.items()}
    checkpoint.save(path, saved.header | wrong, tensors)
    with pytest.raises(InputError) as caught:
        learn(tmp_path, resume=True)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert str(caught.value).endswith("start a new run")


def test_the_state_of_another_system(tmp_path: Path) -> None:
    learn(tmp_path / "one")
    torch.manual_seed(0)
    other = foveal.create("lenet", labels=small_digits().labels)
    foveal.train(other, small_digits(60), TrainConfig(out=str(tmp_path / "two"), epochs=1, quiet=True, plan="eager"))
    (tmp_path / "two" / "last.safetensors").rename(tmp_path / "one" / "last.safetensors")
    with pytest.raises(InputError, match=r"last\.safetensors"):
        learn(tmp_path / "one", resume=True)
