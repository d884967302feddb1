"""Two processes under torchrun do what one does: the same curve, the same weights, the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import foveal
from foveal.system import evaluating
from foveal.train import checkpoint
from foveal.train.parallel import units
from tests.train import worker

ROOT = Path(__file__).parents[2]
# Without Adam, which blows the rounding of gradients that are zero, as that of a key's bias, up to whole steps.
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "lr": 0.05}
HARD = {**SGD, "epochs": 2, "batch_size": 16, "accumulate": 2, "clip": 0.5, "ema": 0.9, "l1": 1e-4, "l2": 0.01}
EASY = {"epochs": 3, "batch_size": 40, "label_smoothing": 0.1}
DROPPING = {"epochs": 3, "batch_size": 16, "accumulate": 2, "ema": 0.9, "save_minutes": 0.0005, "mixup": 0.2}
NET = {"system": "vit_nano", "fields": {"dropout": 0.1, "stochastic_depth": 0.1}}
REFIT = {**DROPPING, "epochs": 2, "refit": True}  # its first phase takes 20 batches
EQUAL = {
    "lenet": {"system": "lenet", "settings": EASY},
    "lenet_sharded": {"system": "lenet", "settings": {**EASY, "shard": True}},
    "vit": {"system": "vit_nano", "settings": HARD},
    "vit_sharded": {"system": "vit_nano", "settings": {**HARD, "shard": True}},
}


def torchrun(*words: str, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def run_all(directory: Path, name: str, cases: dict[str, dict[str, Any]]) -> tuple[int, str]:
    """Exit code and complaints of two processes that work through the cases."""
    plan = directory / f"{name}.json"
    plan.write_text(json.dumps([{"name": case, **told} for case, told in cases.items()]))
    with torchrun("-m", "tests.train.worker", str(plan)) as process:
        _, complaints = process.communicate(timeout=300)
    return process.returncode, complaints


def photographs(place: Path) -> Path:
    """Forty images of two classes, of which two do not decode."""
    for number in range(40):
        path = place / ("train" if number < 30 else "val") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number * 6, 80, 90 * (number % 2))).save(path)
    for broken in (place / "train" / "b" / "7.png", place / "val" / "a" / "36.png"):
        broken.write_bytes(broken.read_bytes()[:40])
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have worked through all cases, once for all workers of pytest."""
    fcntl = pytest.importorskip("fcntl")
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "distributed"
    directory.mkdir(exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            work_through(directory)
            (directory / "done").touch()
    return directory


def work_through(directory: Path) -> None:
    """Run all cases: first what needs no more than one start, then what is killed, then what goes on after that."""
    folder = photographs(directory / "images")
    sharded = {**DROPPING, "epochs": 2, "save_minutes": 0.005, "shard": True}
    photos = {"system": "lenet", "fields": {"labels": ["a", "b"]}, "data": str(folder)}
    command = ["train", "lenet", "--data", str(folder), "--epochs", "1", "--quiet", "--out"]
    cases = {
        **EQUAL,
        "gan": {"system": "gan", "settings": {"epochs": 2}},
        "gan_sharded": {"system": "gan", "settings": {"epochs": 2, "shard": True}},
        "photos": {**photos, "settings": {"epochs": 2, "batch_size": 6, "workers": 1}},
        "skipping": {
            "system": "vit_nano",
            "settings": {**SGD, "epochs": 2, "nonfinite": "rollback", "plan": "eager"},
            "befall": ["nan", 1, 10],
        },
        "whole": {**NET, "settings": DROPPING},
        "cut": {**NET, "settings": DROPPING, "befall": ["stop", 1, 17]},
        "whole_sharded": {**NET, "settings": sharded},
        "cut_sharded": {**NET, "settings": sharded, "befall": ["stop", 0, 17]},
        "whole_refit": {**NET, "settings": REFIT},
        "cut_refit": {**NET, "settings": REFIT, "befall": ["stop", 1, 27]},
        "uneven": {"system": "lenet", "settings": {"batch_size": 33}},
        "command": {"command": [*command, str(directory / "command"), "--json"]},
        "wrong": {"command": [*command, str(directory / "wrong"), "--batch-size", "9"]},
    }
    code, complaints = run_all(directory, "well", cases)
    assert code == 0, complaints
    for rank in (0, 1):
        assert told(directory, "cut", rank).startswith("Interrupted: stopped and saved; to go on, add --resume")
    again = {"cut_sharded": {**NET, "settings": {**sharded, "resume": True}}}
    again["cut_refit"] = {**NET, "settings": {**REFIT, "resume": True}}
    again["cut"] = {**NET, "settings": {**DROPPING, "resume": True}, "befall": ["kill", 1, 9]}
    code, complaints = run_all(directory, "killed", again)
    assert code != 0
    assert told(directory, "cut", 0).startswith("InputError: another process of this run has ended")
    ends = {"cut": {**NET, "settings": {**DROPPING, "resume": True}}}
    ends["memory"] = {"system": "lenet", "settings": {"epochs": 2, "plan": "eager"}, "befall": ["memory", 1, 9]}
    code, complaints = run_all(directory, "ended", ends)
    assert code == 0, complaints


def told(directory: Path, case: str, rank: int) -> str:
    return (directory / f"{case}.{rank}.txt").read_text()


def history(directory: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == "epoch"]


def tensors(directory: Path, which: str) -> dict[str, torch.Tensor]:
    saved = checkpoint.read(directory, state=True, prefer=which)
    return {**saved.weights, **saved.state}


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_equal_one(case: str, runs: Path, tmp_path: Path) -> None:
    name, settings = EQUAL[case]["system"], {**EQUAL[case]["settings"], "shard": False}
    config = foveal.TrainConfig(out=str(tmp_path / "one"), quiet=True, **settings)
    one = foveal.train(worker.build(name, {}), worker.load("digits", name), config)
    curve = history(runs / case)
    assert len(curve) == len(one.history) == settings["epochs"]
    for theirs, ours in zip(curve, one.history, strict=True):
        assert theirs["train"] == pytest.approx(ours["train"], rel=1e-6)
        assert theirs["val"] == pytest.approx(ours["val"], rel=1e-6)
        assert theirs["step"] == ours["step"]
    for which in ("best", "last"):
        expected, found = tensors(one.directory, which), tensors(runs / case, which)
        assert found.keys() - expected.keys() <= {"state/random of the others/0/cpu"}
        for tensor, value in expected.items():
            if "random" not in tensor:
                error = (found[tensor].double() - value.double()).norm() / value.double().norm().clamp(min=1e-12)
                assert error < 1e-5, f"{which}: {tensor}"


@pytest.mark.parametrize("case", ["lenet", "lenet_sharded"])
def test_after_training_the_system_is_whole_in_each_process(case: str, runs: Path) -> None:
    outcomes = [json.loads(told(runs, case, rank)) for rank in (0, 1)]
    assert outcomes[0] == outcomes[1]
    best = max(history(runs / case), key=lambda record: (record["val"]["accuracy"], -record["val"]["loss"]))
    assert outcomes[0]["after"] == pytest.approx(best["val"], rel=1e-6)


@pytest.mark.parametrize("case", EQUAL)
def test_a_checkpoint_of_two_processes_is_one_of_one(case: str, runs: Path) -> None:
    system = foveal.load(runs / case)
    record = json.loads((runs / case / "run.json").read_text())
    assert (record["status"], record["processes"]) == ("finished", 2)
    figures = foveal.evaluate(system, worker.load("digits", "lenet").select("val"))
    assert figures == pytest.approx(record["result"], rel=1e-6)


PAIRS = [("whole", "cut"), ("whole_sharded", "cut_sharded"), ("whole_refit", "cut_refit")]


@pytest.mark.parametrize(("whole", "cut"), PAIRS)
def test_a_resumed_run_of_two_processes_ends_bitwise_equal(whole: str, cut: str, runs: Path) -> None:
    for which in ("best", "last"):
        expected, found = tensors(runs / whole, which), tensors(runs / cut, which)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(value, found[name]), f"{which}: {name}"
    for one, two in zip(history(runs / whole), history(runs / cut), strict=True):
        assert (one["train"], one["val"]) == (two["train"], two["val"])
    random = tensors(runs / whole, "last")
    assert not torch.equal(random["state/random/cpu"], random["state/random of the others/0/cpu"])


@pytest.mark.parametrize("case", ["gan", "gan_sharded"])
def test_adversaries_learn_together(case: str, runs: Path) -> None:
    start, system = worker.build("gan", {}), foveal.load(runs / case, system=worker.build("gan", {}))
    for (name, before), after in zip(start.named_parameters(), system.parameters(), strict=True):
        assert torch.isfinite(after).all()
        assert not torch.equal(before, after), name
    figures = history(runs / case)[-1]["train"]
    assert {"discriminator_real", "discriminator_fake", "generator_fool"} < figures.keys()
    with evaluating(system):
        assert torch.isfinite(system.sample(4)).all()


def test_adversaries_are_the_same_replicated_and_sharded(runs: Path) -> None:
    one, two = tensors(runs / "gan", "last"), tensors(runs / "gan_sharded", "last")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (two[name].double() - value.double()).norm() <= 1e-4 * value.double().norm().clamp(min=1e-12), name


def test_batches_that_cannot_be_shared(runs: Path) -> None:
    for rank in (0, 1):
        assert told(runs, "uneven", rank).startswith("InputError: batches of 33 images cannot be shared evenly by 2")
    assert not (runs / "uneven").exists()


def test_unreadable_images_of_all_processes_are_listed(runs: Path) -> None:
    record = json.loads((runs / "photos" / "run.json").read_text())
    assert sorted(Path(name).name for name in record["unreadable"]) == ["36.png", "7.png"]


def test_a_loss_that_is_not_finite_in_one_process_is_so_for_all(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "skipping" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line["event"] == "skipped"]
    assert len(skipped) == 1
    assert history(runs / "skipping")[-1]["step"] == 10
    dumped = checkpoint.read(runs / "skipping" / "nonfinite.safetensors")
    assert len(dumped.weights["images"]) == len(set(dumped.header["images"])) == 32
    assert json.loads(told(runs, "skipping", 0)) == json.loads(told(runs, "skipping", 1))


def test_what_fails_in_one_process_ends_all_with_its_word(runs: Path) -> None:
    expected = "InputError: out of memory with 16 images a process; set --batch-size 16 --accumulate 2"
    assert all(told(runs, "memory", rank).startswith(expected) for rank in (0, 1))
    assert json.loads((runs / "memory" / "run.json").read_text())["status"] == "failed"


def test_a_run_goes_on_with_as_many_processes_as_before(runs: Path) -> None:
    settings = {**EASY, "resume": True, "out": str(runs / "lenet"), "quiet": True}
    with pytest.raises(foveal.InputError, match=r"cannot go on with 1 process.*: it runs with 2"):
        foveal.train(foveal.create("lenet"), worker.load("digits", "lenet"), foveal.TrainConfig(**settings))


def test_one_process_has_nothing_to_shard(tmp_path: Path) -> None:
    config = foveal.TrainConfig(out=str(tmp_path / "run"), shard=True)
    with pytest.raises(foveal.InputError, match="shard has no effect in one process"):
        foveal.train(foveal.create("lenet"), worker.load("digits", "lenet"), config)
    assert not (tmp_path / "run").exists()


def test_blocks_are_the_units_of_sharding() -> None:
    transformer, residual, plain = (foveal.create(name) for name in ("vit_nano", "resnet_nano", "lenet"))
    assert list(units(transformer)) == list(transformer.blocks)
    stages = [residual.get_submodule(f"stage{number}") for number in (1, 2, 3)]
    assert list(units(residual)) == [residual.stem.conv, *(block for stage in stages for block in stage)]
    layers = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert list(units(plain)) == layers


def test_one_process_talks_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("init_process_group", "new_group", "all_reduce", "broadcast", "all_gather_object"):
        monkeypatch.delattr(torch.distributed, name)
    config = foveal.TrainConfig(out=str(tmp_path / "run"), epochs=1, quiet=True)
    assert foveal.train(foveal.create("lenet"), worker.load("digits", "lenet"), config).record["processes"] == 1


def test_the_first_process_speaks_for_all(runs: Path) -> None:
    code, out, _ = json.loads(told(runs, "command", 0))
    assert code == 0
    assert json.loads(out)["run"] == str(runs / "command")
    assert (runs / "command" / "report.html").is_file()
    assert json.loads(told(runs, "command", 1)) == [0, "", ""]
    outcomes = [json.loads(told(runs, "wrong", rank)) for rank in (0, 1)]
    assert [code for code, _, _ in outcomes] == [2, 2]
    assert [complaint.count("foveal: batches of 9 images") for _, _, complaint in outcomes] in ([1, 0], [0, 1])


def test_the_command_is_stopped_by_ctrl_c(tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    words = ["-m", "foveal", "train", "vit_nano", "--data", "digits", "--epochs", "40", "--out", "run"]
    with torchrun(*words, cwd=tmp_path) as process:
        wait_for(lambda: metrics.is_file() and metrics.read_text().count("\n") >= 1, process)
        process.send_signal(signal.SIGINT)
        out, complaints = process.communicate(timeout=60)
    assert out == ""
    assert complaints.count("foveal: stopped and saved; to go on, add --resume --out run") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def wait_for(happened: Any, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_teacher_speaks_in_each_process(tmp_path: Path) -> None:
    torch.manual_seed(5)
    teacher = foveal.create("resnet_nano")
    path = tmp_path / "teacher.safetensors"
    checkpoint.save(path, checkpoint.describe(teacher), teacher.state_dict())
    settings = {**EASY, "epochs": 1, "teacher": str(path), "distill": "soft", "distill_weight": 0.7}
    code, complaints = run_all(tmp_path, "plan", {"two": {"system": "lenet", "settings": settings}})
    assert code == 0, complaints
    config = foveal.TrainConfig(out=str(tmp_path / "one"), quiet=True, **settings)
    one = foveal.train(worker.build("lenet", {}), worker.load("digits", "lenet"), config)
    (epoch,) = history(tmp_path / "two")
    assert epoch["train"].keys() == {"class", "distill", "loss"}
    for name, value in one.history[0]["train"].items():
        assert epoch["train"][name] == pytest.approx(value, rel=1e-4), name
