"""What a run reports about its own result, and how runs that start from weights are resolved."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import foveal
from foveal.metrics.chance import classify_chance, detect_chance
from foveal.train import checkpoint
from foveal.train.config import TrainConfig
from foveal.train.defaults import TUNED
from foveal.train.outcome import warnings
from foveal.train.prepare import fine_tuning, start_of
from tests.toys import small_digits


def run(out: Path, system: Any, data: Any = None, **settings: Any) -> Any:
    settings = {"plan": "eager", "quiet": True, **settings}
    return foveal.train(system, data or small_digits(), TrainConfig(out=str(out), **settings))


def lenet(**fields: Any) -> Any:
    torch.manual_seed(0)
    return foveal.create("lenet", labels=small_digits().labels, **fields)


@pytest.mark.parametrize(
    ("accuracy", "balanced", "counts", "warned"),
    [
        (0.10, 0.10, {"a": 50, "b": 50}, True),
        (0.59, 0.59, {"a": 50, "b": 50}, True),  # chance is 0.5 +- 2 x 0.05
        (0.62, 0.62, {"a": 50, "b": 50}, False),
        (0.95, 0.50, {"a": 95, "b": 5}, True),
        (0.93, 0.90, {"a": 95, "b": 5}, False),  # which found the rare ones
        (0.25, 0.25, {"a": 100, "b": 100, "c": 100, "d": 100}, True),
        (0.31, 0.31, {"a": 100, "b": 100, "c": 100, "d": 100}, False),
        (1.00, 1.00, {"a": 9, "b": 0}, False),  # one class
        (0.60, 0.33, {"a": 3, "b": 1, "c": 1}, False),  # too few images
    ],
)
def test_chance_of_a_classifier(accuracy: float, balanced: float, counts: dict[str, int], warned: bool) -> None:
    assert bool(classify_chance({"accuracy": accuracy, "balanced_accuracy": balanced}, counts)) is warned


def test_chance_of_a_detector() -> None:
    assert (
        detect_chance({"mAP": 0.0, "mAP50": 0.002}, {"a": 7, "b": 5})
        == "mAP50 0.002: of 12 objects almost none is found"
    )
    assert detect_chance({"mAP": 0.01, "mAP50": 0.05}, {"a": 7}) is None


def test_a_run_that_learned_needs_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(tmp_path / "run", lenet(weights="package"), epochs=1).record
    assert record["warnings"] == []
    assert "warning" not in capsys.readouterr().err


def test_a_run_at_chance_whose_loss_rose_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", lenet(), epochs=3, optimizer="sgd", lr=2.0, schedule="constant", warmup=0.0)
    lines = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    assert len(lines) == 2
    assert "is at chance" in lines[0]
    assert "a lower lr (it was 2)" in lines[0]
    assert lines[1].startswith("the training loss rose from ")
    assert capsys.readouterr().err == "".join(f"foveal: warning: {line}\n" for line in lines)


def test_a_detector_that_finds_nothing_says_so() -> None:
    val_set = SimpleNamespace(targets=small_digits().targets, class_counts=lambda: {"cat": 3, "dog": 0})
    phase: Any = SimpleNamespace(val_loader=SimpleNamespace(dataset=val_set))
    epoch = {
        "event": "epoch",
        "epoch": 1,
        "phase": "train",
        "best": True,
        "train": {"loss": 1.0},
        "val": {"mAP": 0.0, "mAP50": 0.0},
    }
    (line,) = warnings("detect", TrainConfig(lr=0.1), [epoch], phase, None)
    assert line.startswith("val mAP50 0.000: of 3 objects almost none is found; try a lower lr (it was 0.1)")
    assert warnings("detect", TrainConfig(lr=0.1), [{**epoch, "val": {"mAP": 0.2, "mAP50": 0.5}}], phase, None) == []


def test_a_run_below_the_features_that_it_began_with_says_so(tmp_path: Path) -> None:
    settings = {"epochs": 8, "optimizer": "sgd", "lr": 0.9}
    record = run(tmp_path / "run", lenet(weights="package"), **settings).record
    assert record["frozen_accuracy"] > 0.85
    assert record["result"]["accuracy"] < record["frozen_accuracy"]
    (line,) = [line for line in record["warnings"] if "nearest neighbours" in line]
    assert f"below the {record['frozen_accuracy']:.3f}" in line


def test_the_probe_costs_little_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One pass over the images is more than a twentieth of one epoch.
    without = run(tmp_path / "without", lenet(weights="package"), epochs=1)
    assert without.record["frozen_accuracy"] is None
    monkeypatch.setattr("foveal.train.outcome.PROBE_SHARE", 1.0)
    probed = run(tmp_path / "with", lenet(weights="package"), epochs=1)
    assert probed.record["frozen_accuracy"] > 0.85
    for name, value in probed.system.state_dict().items():
        assert torch.equal(value, without.system.state_dict()[name])
    assert run(tmp_path / "scratch", lenet(), epochs=1).record["frozen_accuracy"] is None
    monkeypatch.setattr("foveal.train.outcome.PROBED", 100)
    assert run(tmp_path / "many", lenet(weights="package"), epochs=1).record["frozen_accuracy"] is None


def test_what_starts_from_weights_is_fine_tuned(tmp_path: Path) -> None:
    scratch = run(tmp_path / "scratch", lenet(), epochs=1)
    assert TUNED not in scratch.record["origins"].values()
    assert scratch.record["config"]["lr"] == 2e-3
    for system in (lenet(weights="package"), lenet(weights=tmp_path / "scratch"), foveal.load(tmp_path / "scratch")):
        record = run(tmp_path / "tuned", system, epochs=1, overwrite=True).record
        assert (record["config"]["lr"], record["origins"]["lr"]) == (pytest.approx(2e-3 / 3), TUNED)


def test_what_is_built_upon_a_system_with_weights_starts_from_a_base(tmp_path: Path) -> None:
    def start(system: Any) -> str | None:
        return start_of(system, TrainConfig())

    torch.manual_seed(0)
    backbone = foveal.create("resnet10_nano")
    checkpoint.save(tmp_path / "net.safetensors", checkpoint.describe(backbone), backbone.state_dict())
    small = {"image_size": (32, 32)}
    detector = foveal.create("retinanet_nano", weights=tmp_path / "net.safetensors", **small)
    assert start(detector) == "base"
    assert "for its backbone resnet10_nano" in detector.started_from
    assert start(foveal.create("retinanet_nano", backbone=str(tmp_path / "net.safetensors"), **small)) == "base"
    assert start(foveal.create("retinanet_nano", **small)) is None
    checkpoint.save(tmp_path / "whole.safetensors", checkpoint.describe(detector), detector.state_dict())
    assert start(foveal.create("retinanet_nano", weights=tmp_path / "whole.safetensors", **small)) == "whole"
    assert start(foveal.load(tmp_path / "whole.safetensors")) == "whole"


def test_a_system_that_only_holds_one_with_weights_starts_from_scratch() -> None:
    codes = foveal.create("vqvae_nano")
    codes.started_from = "a run"
    prior = foveal.create("vqvae_prior_nano", codes=codes)
    assert prior.started_from == "a run"
    assert start_of(prior, TrainConfig()) is None


def test_a_resumed_run_keeps_the_recipe_that_it_began_with(tmp_path: Path) -> None:
    """Whether or not its weights are named again."""
    whole = run(tmp_path / "whole", lenet(weights="package"), epochs=2)
    tuned = whole.record["origins"]
    again = run(tmp_path / "whole", lenet(), epochs=2, resume=True).record
    assert (again["origins"], again["status"]) == (tuned, "finished")
    run(tmp_path / "scratch", lenet(), epochs=2)
    path = tmp_path / "scratch" / "run.json"
    record = json.loads(path.read_text())
    record["started_from"] = "weights, by a foveal that had no such recipe"
    path.write_text(json.dumps(record))
    assert run(tmp_path / "scratch", lenet(weights="package"), epochs=2, resume=True).record["status"] == "finished"


def test_the_number_of_images_decides_of_the_epochs() -> None:
    data, system = small_digits(), lenet(weights="package")
    images = data.split_counts()["train"]
    for view in (data, data.select("train")):
        tuning = fine_tuning(system, view, "whole")
        assert tuning is not None
        assert (tuning.images, tuning.epochs(10, images, 1)) == (images, 100)


def test_a_fitted_system_has_no_fine_tuning(tmp_path: Path) -> None:
    knn = foveal.create("knn", features=foveal.create("lenet", weights="package"))
    record = foveal.train(knn, small_digits(), TrainConfig(out=str(tmp_path / "run"), quiet=True)).record
    assert (TUNED in record["origins"].values(), record["frozen_accuracy"], record["warnings"]) == (False, None, [])


def test_statistics_of_batch_norms_stay_where_they_are_to_be_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = foveal.create("resnet_nano", labels=small_digits().labels)
    before = {name: value.clone() for name, value in system.named_buffers() if "running" in name}
    weights = {name: value.clone() for name, value in system.named_parameters()}
    run(tmp_path / "kept", system, epochs=1, batch_size=128, norm_statistics="keep")
    after = dict(system.named_buffers())
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    trained = dict(system.named_parameters())
    assert not any(torch.equal(value, trained[name]) for name, value in weights.items())  # affine terms too
    run(tmp_path / "updated", system, epochs=1, batch_size=128)
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_norm_statistics_of_a_system_without_batch_norms_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(foveal.InputError, match="norm_statistics has no effect: lenet has no batch norms"):
        run(tmp_path / "run", lenet(), epochs=1, norm_statistics="keep")
