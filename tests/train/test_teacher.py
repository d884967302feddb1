"""What a teacher says, who hears it, and runs that have one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

import foveal
from foveal.classify.classifier import Teaching
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.errors import InputError
from foveal.losses.classification import distillation
from foveal.structures import Label
from foveal.train import checkpoint
from foveal.train.augment import BatchAugment
from foveal.train.config import TrainConfig, resolve
from foveal.train.evaluate import measure
from foveal.train.record import read_metrics
from foveal.train.teacher import Teacher, digest, find_teacher
from tests.toys import Detector, small_digits

CPU = torch.device("cpu")


def build(name: str = "lenet", seed: int = 3, **fields: Any) -> Any:
    torch.manual_seed(seed)
    return foveal.create(name, **fields)


def batch_for(system: Any, size: int = 8) -> Any:
    loader = Loader(small_digits().select("train"), Pipeline((Fit(system.preprocess),)), batch_size=size)
    return next(loader.epoch()).float()


def settings(**values: Any) -> TrainConfig:
    return resolve(TrainConfig(**values), {}, "net")[0]


def run(tmp_path: Path, system: Any = None, **values: Any) -> Any:
    config = TrainConfig(**{"epochs": 2, "quiet": True, "out": str(tmp_path / "run"), **values})
    return foveal.train(system or build(), small_digits(), config)


def saved(system: Any, path: Path) -> str:
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    return str(path)


def test_a_teacher_sees_what_its_student_sees_in_its_own_size_and_speaks_of_the_same_classes() -> None:
    labels = list(small_digits().labels)
    student, teacher = build(labels=labels), build("resnet_nano", labels=[*reversed(labels), "eleven"])
    config = settings(mixup=1.0, label_smoothing=0.1, teacher=teacher)
    batch = batch_for(student)
    mixed = BatchAugment(config, small_digits().select("train"), find_teacher(config, student, CPU))(
        batch, np.random.default_rng(0)
    )
    assert not torch.equal(mixed.images, batch.images)
    assert student.preprocess.size == (32, 32) != teacher.preprocess.size
    seen = interpolate(mixed.images, teacher.preprocess.size, mode="bilinear", antialias=True)
    with torch.no_grad():
        scores = teacher.eval()(seen)
    for target, row in zip(mixed.targets, scores, strict=True):
        torch.testing.assert_close(target.teacher, row[:10].flip(0))
        assert (target.scores > 0).all()
        assert not target.teacher.requires_grad


def test_teaching_changes_neither_the_teacher_nor_what_is_random() -> None:
    system = build("resnet_nano").train()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    teacher, state = Teacher(build("resnet_nano", dropout=0.5).train(), system, "it", CPU), torch.get_rng_state()
    said = [torch.stack([t.teacher for t in teacher(batch_for(system), None).targets]) for _ in range(2)]
    assert torch.equal(*said)
    assert torch.equal(torch.get_rng_state(), state)
    find_teacher(settings(teacher=system), system, CPU)  # of itself
    assert system.training
    assert all(parameter.requires_grad for parameter in system.parameters())
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


@pytest.mark.parametrize("name", ["lenet", "linear_svm", "googlenet_nano", "deit_nano"])
@pytest.mark.parametrize("teaching", [Teaching("soft", 2.0, 0.3), Teaching("hard", weight=1.0)])
def test_terms_of_the_loss(name: str, teaching: Teaching) -> None:
    system = build(name).eval()
    system.teaching = teaching
    batch = batch_for(system)
    teacher = torch.randn(len(batch), 10)
    taught = replace(
        batch, targets=tuple(replace(t, teacher=row) for t, row in zip(batch.targets, teacher, strict=True))
    )
    heads, terms = system.heads(batch.images), system.loss(taught)
    scores = heads["distillation_token" if name == "deit_nano" else "class"]
    soft = distillation(scores, teacher, 2.0)
    said = soft if teaching.way == "soft" else cross_entropy(scores, teacher.argmax(1))
    torch.testing.assert_close(terms.pop("distill"), teaching.weight * said)
    labels = system.losses(heads, taught)
    assert terms.keys() == labels.keys()
    for term, value in terms.items():
        torch.testing.assert_close(value, (1 - teaching.weight) * labels[term])
    assert "distill" not in system.loss(batch)


def test_validation_is_without_the_teacher() -> None:
    system = build()
    loader = Loader(small_digits().select("val"), Pipeline((Fit(system.preprocess),)), batch_size=16)
    alone = measure(system, loader).values
    system.teaching = Teaching("hard", weight=1.0)
    assert measure(system, loader).values == alone


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"distill": "hard"}, "distill has no effect without a teacher"),
        ({"temperature": 2.0}, "temperature has no effect without a teacher"),
        ({"distill_weight": 0.3}, "distill_weight has no effect without a teacher"),
        ({"teacher": "x", "distill": "hard", "temperature": 2.0}, "temperature has no effect with hard"),
        ({"teacher": "x", "distill": "sof"}, "unknown distill 'sof'; did you mean soft"),
        ({"teacher": "x", "temperature": 0.0}, "temperature must be above 0"),
        ({"teacher": "x", "distill_weight": 0.0}, "distill_weight must be above 0"),
        ({"teacher": "x", "distill_weight": 1.5}, "distill_weight must be .* at most 1"),
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        settings(**values)


def test_settings_and_their_defaults() -> None:
    config, origins = resolve(TrainConfig(teacher="x"), {}, "net")
    assert (config.distill, config.temperature, config.distill_weight) == ("soft", 3.0, 0.5)
    assert (origins["teacher"], origins["distill"]) == ("user", "default")
    config = settings(teacher="x", distill="hard")
    assert (config.distill, config.temperature) == ("hard", None)
    assert settings().distill is None
    with pytest.raises(InputError, match="teacher has no effect: knn is fitted"):
        resolve(TrainConfig(teacher="x"), {}, "knn", fits=True)


def test_teachers_that_cannot_teach(tmp_path: Path) -> None:
    for teacher, said in [
        (str(tmp_path / "none"), "none is neither a run or checkpoint nor a system"),
        ("resnet18", "resnet18 has no trained weights here"),
        (build(labels=["x", *small_digits().labels[:2]]), "the teacher lenet does not know .* and 3 more"),
        (Detector(), "Detector cannot teach: it is a system to detect, not to classify"),
    ]:
        with pytest.raises(InputError, match=said):
            run(tmp_path, teacher=teacher)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", ["soft", "hard"])
def test_a_student_learns_from_the_teacher_alone(way: str, tmp_path: Path) -> None:
    teacher = run(tmp_path / "teacher", epochs=8).system
    accuracy = foveal.evaluate(teacher, small_digits().select("train"))["accuracy"]
    student = run(tmp_path / "student", build(seed=4), epochs=8, teacher=teacher, distill=way, distill_weight=1.0)
    terms = [record["train"] for record in student.history]
    assert all(term["class"] == 0 for term in terms)
    assert terms[-1]["distill"] < terms[0]["distill"] / 2
    assert foveal.evaluate(student.system, small_digits().select("train"))["accuracy"] > accuracy - 0.1 > 0.6


def test_a_run_resumes_bitwise_and_tells_when_its_teacher_has_changed(tmp_path: Path) -> None:
    path = saved(build("resnet_nano"), tmp_path / "teacher.safetensors")
    values = {"epochs": 3, "mixup": 0.3, "label_smoothing": 0.1, "teacher": path, "ema": 0.9, "batch_size": 16}
    whole = run(tmp_path / "a", **values)
    record = whole.record
    assert record["teacher"] == {"name": "resnet_nano", "digest": digest(build("resnet_nano"))}
    assert (record["config"]["teacher"], record["config"]["distill"]) == (path, "soft")
    assert {"class", "distill", "loss"} <= read_metrics(whole.directory / "metrics.jsonl")[-1]["train"].keys()

    stopped = build()
    loss, calls = type(stopped).loss, [0]

    def stop(self: Any, batch: Any, player: str | None = None) -> Any:
        calls[0] += self.training
        if calls[0] == 25:
            raise KeyboardInterrupt
        return loss(self, batch, player)

    type(stopped).loss = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", stopped, **values)
    finally:
        type(stopped).loss = loss
    again = {**values, "resume": True}
    with pytest.raises(
        InputError, match=r"cannot go on with the teacher None: it runs with resnet_nano with the weights"
    ):
        run(tmp_path / "b", **{**again, "teacher": None})
    with pytest.raises(InputError, match=r"with the teacher resnet_nano with the weights \w+: it runs with"):
        run(tmp_path / "b", **{**again, "teacher": saved(build("resnet_nano", 4), tmp_path / "other.safetensors")})
    with pytest.raises(InputError, match=r"cannot go on with distill_weight 0\.4: it runs with 0\.5"):
        run(tmp_path / "b", **again, distill_weight=0.4)
    moved = Path(path).rename(tmp_path / "moved.safetensors")
    resumed = run(tmp_path / "b", **{**again, "teacher": str(moved)})
    one, two = (checkpoint.read(r.directory, state=True, prefer="last") for r in (whole, resumed))
    for name, value in {**one.weights, **one.state}.items():
        assert torch.equal(value, {**two.weights, **two.state}[name]), name


def test_fields_that_are_packed() -> None:
    batch = batch_for(build())
    rows = torch.randn(len(batch), 10)
    batch = replace(batch, targets=tuple(Label(t.label, None, row) for t, row in zip(batch.targets, rows, strict=True)))
    assert torch.equal(torch.stack([target.teacher for target in batch.to("cpu").targets]), rows)
