"""Every kind of system goes through the same train, evaluate, save, load and resume."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.data.dataset import Dataset
from foveal.structures import Objects
from foveal.train import checkpoint
from tests.toys import Captioner, Detector, Gan, NearestMean, brightness, small_digits, squares, unlabelled


@dataclass(frozen=True)
class Case:
    make: Any
    data: Any
    figures: set[str]


CASES = {
    # The squares are all small ones.
    "detector": Case(Detector, squares, {"mAP", "mAP50", "mAP75", "mAPs", "AR1", "AR10", "AR100", "ARs"}),
    "gan": Case(
        Gan,
        lambda: unlabelled(small_digits()),
        {"discriminator_real", "discriminator_fake", "discriminator_loss", "generator_fool", "generator_loss"},
    ),
    "captioner": Case(Captioner, brightness, {"word", "loss"}),
    "fit": Case(lambda: NearestMean(tuple("0123456789")), small_digits, {"accuracy", "balanced_accuracy", "top5"}),
    "classifier": Case(lambda: foveal.create("lenet"), small_digits, {"accuracy", "balanced_accuracy", "top5", "loss"}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def build(case: Case) -> Any:
    torch.manual_seed(7)
    return case.make()


def config(directory: Path, **settings: Any) -> foveal.TrainConfig:
    return foveal.TrainConfig(out=str(directory), quiet=True, **settings)


def test_train_evaluate_save_load(case: Case, tmp_path: Path) -> None:
    system, data = build(case), case.data()
    before = copy.deepcopy(system.state_dict())
    run = foveal.train(system, data, config(tmp_path / "run"))
    assert any(not torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert {"run.json", "metrics.jsonl", "best.safetensors", "last.safetensors"} <= {
        path.name for path in run.directory.iterdir()
    }
    figures = foveal.evaluate(system, data)
    assert set(figures) == case.figures
    assert set(run.history[-1]["val"]) == case.figures

    loaded = foveal.load(run.directory, system=case.make())
    for name, value in system.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    if "generator_loss" not in figures:  # a GAN draws new noise each time
        assert foveal.evaluate(loaded, data) == figures


def test_interrupted_is_uninterrupted(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = case.data()
    whole = foveal.train(build(case), data, config(tmp_path / "whole"))
    system = build(case)
    settings = {} if system.can("fit") else {"epochs": len(whole.history)}
    stops = stop_after(system, 5)
    with pytest.raises(KeyboardInterrupt):
        foveal.train(system, data, config(tmp_path / "cut", **settings))
    stops.undo()
    torch.manual_seed(99)
    other = case.make()  # another start, which the resumption has to overwrite
    resumed = foveal.train(other, data, config(tmp_path / "cut", resume=True, **settings))
    for which in ("last", "best"):
        one = checkpoint.read(whole.directory, state=True, prefer=which)
        two = checkpoint.read(resumed.directory, state=True, prefer=which)
        assert one.weights.keys() == two.weights.keys()
        assert one.state.keys() == two.state.keys()
        for name, value in {**one.weights, **one.state}.items():
            assert torch.equal(value, {**two.weights, **two.state}[name]), f"{which}: {name}"
    assert [r["train"] for r in whole.history] == [r["train"] for r in resumed.history]
    assert [r["val"] for r in whole.history] == [r["val"] for r in resumed.history]


def stop_after(system: Any, calls: int) -> pytest.MonkeyPatch:
    """Ctrl-C at the given call of the system's loss or fit."""
    import os
    import signal

    patch, kind = pytest.MonkeyPatch(), type(system)
    verb = "fit" if system.can("fit") else "loss"
    original, count = getattr(kind, verb), [0]

    def counted(self: Any, *arguments: Any) -> Any:
        count[0] += 1
        if verb == "fit":
            raise KeyboardInterrupt
        if count[0] == calls + 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    patch.setattr(kind, verb, counted)
    return patch


def test_a_fit_stops_at_once_and_begins_anew(tmp_path: Path) -> None:
    import os
    import signal
    import time

    data = small_digits()
    whole = foveal.train(foveal.create("perceptron"), data, config(tmp_path / "whole"))
    system, seen = foveal.create("perceptron"), []

    def watched(batches: Any) -> None:
        seen.append([batch.images for batch in batches])
        seen.append([batch.images for batch in batches])
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        seen.append([])

    system.fit = watched
    with pytest.raises(KeyboardInterrupt, match="stopped and saved"):
        foveal.train(system, data, config(tmp_path / "cut"))
    assert len(seen) == 2
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))
    resumed = foveal.train(foveal.create("perceptron"), data, config(tmp_path / "cut", resume=True))
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[name]), name


def test_images_that_are_too_many_to_keep_are_read_in_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveal.train import fitting

    data = small_digits()
    kept = foveal.train(foveal.create("perceptron"), data, config(tmp_path / "kept"))
    monkeypatch.setattr(fitting, "KEPT", 3 * 32 * 32 * 40)
    read = foveal.train(foveal.create("perceptron"), data, config(tmp_path / "read"))
    for name, value in kept.system.state_dict().items():
        assert torch.equal(value, read.system.state_dict()[name]), name


def emptied(splits: set[int], crowd: bool = False) -> Dataset:
    """Squares without an object to be found in these splits: none at all, or a crowd."""
    data = squares()
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    targets = [
        (replace(target, crowd=torch.ones(1, dtype=torch.bool)) if crowd else Objects(*none))
        if split in splits
        else target
        for target, split in zip(data.targets, data.splits.tolist(), strict=True)  # type: ignore[arg-type]
    ]
    return replace(data, targets=targets)


@pytest.mark.parametrize("crowd", [False, True])
def test_a_split_without_an_object_is_told_before_the_first_step(tmp_path: Path, crowd: bool) -> None:
    with pytest.raises(foveal.InputError, match="squares: no image of the val split shows an object to be found"):
        foveal.train(Detector(), emptied({1}, crowd), config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(foveal.InputError, match="no image of the test split shows an object"):
        foveal.evaluate(Detector(), emptied({2}, crowd))


def test_a_training_split_without_an_object_is_learned_from(tmp_path: Path) -> None:
    run = foveal.train(Detector(), emptied({0}), config(tmp_path / "run", epochs=1))
    assert set(run.history[-1]["val"]) == CASES["detector"].figures
