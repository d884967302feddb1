import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.classify.classifier import Classifier
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.system import Preprocess, Spec
from foveal.train import checkpoint
from foveal.train.augment import BatchAugment, balanced_weights
from foveal.train.config import TrainConfig, resolve
from foveal.train.optim import schedule
from foveal.train.preview import measure_step
from foveal.train.record import read_metrics
from foveal.train.state import State
from foveal.train.step import NonFinite, step
from tests.toys import small_digits, unlabelled


def build(name: str = "lenet", **fields: Any) -> Any:
    torch.manual_seed(3)
    return foveal.create(name, **fields)


def state_of(system: Any, **settings: Any) -> State:
    config, _ = resolve(TrainConfig(**settings), system.spec.recipe, "net")
    return State(system, config, schedule(config, 10))


def batches(system: Any, size: int, count: int) -> list[Any]:
    loader = Loader(small_digits().select("train"), Pipeline((Fit(system.preprocess),)), batch_size=size)
    return [batch.float() for batch, _ in zip(loader.epoch(), range(count), strict=False)]


def run(tmp_path: Path, system: Any = None, data: Any = None, **settings: Any) -> Any:
    settings = {"epochs": 2, "quiet": True, "out": str(tmp_path / "run"), **settings}
    return foveal.train(system or build(), data or small_digits(), TrainConfig(**settings))


def test_accumulated_batches_are_one_large_batch() -> None:
    one, two = build(), build()
    settings = {"optimizer": "sgd", "lr": 0.1}
    whole = step(state_of(one, **settings), batches(one, 32, 1))
    parts = step(state_of(two, accumulate=2, **settings), batches(two, 16, 2))
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-5)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    system = build()
    before = nn.utils.parameters_to_vector(system.parameters()).detach().clone()
    settings = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    step(state_of(system, lr=1.0, clip=0.01, **settings), batches(system, 16, 1))
    moved = nn.utils.parameters_to_vector(system.parameters()) - before
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_average_follows_its_equation() -> None:
    """average <- d * average + (1 - d) * weights with d = min(ema, (1 + n) / (10 + n)) after n steps."""
    system = build("resnet_nano")
    state = state_of(system, ema=0.25)
    name = "stage1.0.branch.conv1.weight"
    expected = system.state_dict()[name].clone()
    for batch, decay in zip(batches(system, 16, 4), (1 / 10, 2 / 11, 3 / 12, 0.25), strict=True):
        state.progress.add(step(state, [batch]), 1)
        expected = decay * expected + (1 - decay) * system.state_dict()[name]
    own = system.state_dict()[name].clone()
    assert torch.allclose(state.average[name], expected, atol=1e-6)
    with state.averaged():
        assert torch.allclose(system.state_dict()[name], expected, atol=1e-6)
    assert torch.equal(system.state_dict()[name], own)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns(precision: str) -> None:
    system = build("resnet_nano")
    state = state_of(system, precision=precision)
    batch = batches(system, 32, 1)
    first = step(state, batch)["loss"]
    for _ in range(12):
        last = step(state, batch)["loss"]
    assert last < 0.7 * first
    assert all(parameter.dtype == torch.float32 for parameter in system.parameters())
    assert state.scaler.is_enabled() == (precision == "float16")


def test_too_high_a_loss_scale_skips_the_step_and_sinks() -> None:
    system = build()
    state = state_of(system, precision="float16")
    state.scaler._init_scale = 2.0**60
    before = {name: value.clone() for name, value in system.state_dict().items()}
    step(state, batches(system, 16, 1))
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert state.scaler.get_scale() < 2.0**60


def test_balanced_weights_have_mean_one_over_the_images() -> None:
    data = small_digits().select("train")
    weights, counts = balanced_weights(data), torch.tensor(list(data.class_counts().values()))
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1, rel=1e-6)
    assert torch.allclose(weights * counts, torch.full((10,), float(counts.sum() / 10)))


def test_mixing_and_smoothing_reach_the_loss() -> None:
    system, data = build(), small_digits().select("train")
    config, _ = resolve(TrainConfig(mixup=1.0, label_smoothing=0.1, class_weights="balanced"), {}, "net")
    batch = batches(system, 16, 1)[0]
    mixed = BatchAugment(config, data)(batch, np.random.default_rng(0))
    assert not torch.equal(mixed.images, batch.images)
    assert (mixed.targets[0].scores > 0).all()
    losses = [system.loss(shown)["class"].item() for shown in (mixed, batch)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_preview_leaves_no_trace() -> None:
    system = build("resnet_nano")
    state = state_of(system, ema=0.9)
    torch.manual_seed(5)
    step(state, batches(system, 16, 1))
    record, tensors = state.capture()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    weights = {name: value.clone() for name, value in system.state_dict().items()}
    assert measure_step(state, batches(system, 16, 1)) > 0
    after, later = state.capture()
    assert after == record
    assert all(torch.equal(value, later[name]) for name, value in tensors.items())
    assert all(torch.equal(value, weights[name]) for name, value in system.state_dict().items())


def test_run_directory_tells_the_whole_story(tmp_path: Path) -> None:
    finished = run(tmp_path, epochs=3)
    record = json.loads((finished.directory / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["origins"]["epochs"] == "user"
    assert record["origins"]["lr"] == "recipe of lenet"
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines == finished.history
    best = max(lines, key=lambda line: line["val"]["accuracy"])
    assert record["result"] == best["val"]
    data = small_digits().select("val")
    assert foveal.evaluate(foveal.load(finished.directory), data) == pytest.approx(best["val"])


def test_best_weights_are_those_in_use(tmp_path: Path) -> None:
    system = build()
    finished = run(tmp_path, system, epochs=3, ema=0.9)
    best = checkpoint.read(finished.directory)
    last = checkpoint.read(finished.directory, prefer="last")
    assert all(torch.equal(value, best.weights[name]) for name, value in system.state_dict().items())
    assert any(not torch.equal(value, best.weights[name]) for name, value in last.weights.items())
    assert not system.training


def test_patience_stops_and_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    class Still(Classifier):
        """Learns, but never changes its answer."""

        def __init__(self) -> None:
            super().__init__(Spec(tuple("0123456789"), Preprocess((8, 8), "squash")))
            self.weight = nn.Parameter(torch.zeros(2, 2))

        def forward(self, images: Tensor) -> Tensor:
            return images.new_zeros(len(images), 10) + self.weight.sum()

    finished = run(tmp_path, Still(), epochs=9, patience=2)
    assert len(finished.history) == 3
    again = run(tmp_path, Still(), epochs=9, patience=2, resume=True)
    assert len(again.history) == 3


def test_a_run_of_an_older_foveal_goes_on(tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    for name in ("keep", "refit", "distill", "temperature"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    assert run(tmp_path, epochs=2, resume=True).record["status"] == "finished"
    with pytest.raises(foveal.InputError, match="cannot go on with keep 2: it runs with 1"):
        run(tmp_path, epochs=2, keep=2, resume=True)


def test_non_finite_loss_keeps_the_weights_and_the_batch(tmp_path: Path) -> None:
    class Breaks(type(build())):  # type: ignore[misc]
        calls = 0

        def losses(self, heads: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
            Breaks.calls += self.training
            return {"class": super().losses(heads, batch)["class"] * (float("nan") if Breaks.calls > 12 else 1)}

    system = Breaks(build().spec)
    with pytest.raises(foveal.InputError, match=r"loss of the system is nan in epoch 2, step \d+; .*nonfinite"):
        run(tmp_path, system, epochs=5, plan="eager")
    directory = tmp_path / "run"
    assert json.loads((directory / "run.json").read_text())["status"] == "failed"
    dumped = checkpoint.read(directory / "nonfinite.safetensors")
    assert len(dumped.header["images"]) == len(dumped.weights["images"])
    assert all(torch.isfinite(value).all() for value in checkpoint.read(directory).weights.values())
    with pytest.raises(foveal.InputError, match="holds no system"):
        foveal.load(directory / "nonfinite.safetensors")


def test_non_finite_gradient_is_found_when_clipping() -> None:
    class Steep(type(build())):  # type: ignore[misc]
        def losses(self, heads: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
            return {
                "class": (heads["class"] - heads["class"].detach()).abs().sqrt().sum()
            }  # 0, with a gradient of 0 / 0

    system = Steep(build().spec)
    with pytest.raises(NonFinite, match="gradient"):
        step(state_of(system, clip=1.0), batches(system, 8, 1))


def test_lbfgs_trains_on_the_full_batch_and_on_nothing_less(tmp_path: Path) -> None:
    system = build("linear_softmax")
    finished = run(tmp_path, system, optimizer="lbfgs", batch_size=1000, epochs=2)
    assert finished.history[-1]["val"]["accuracy"] > 0.8
    with pytest.raises(foveal.InputError, match="set batch_size to 160 or more"):
        run(tmp_path / "other", build("linear_softmax"), optimizer="lbfgs", batch_size=32)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs"])
def test_every_optimizer_resumes_bitwise(optimizer: str, tmp_path: Path) -> None:
    settings = {"optimizer": optimizer, "batch_size": 1000 if optimizer == "lbfgs" else 32, "ema": 0.9, "epochs": 3}
    whole = run(tmp_path / "a", **settings)
    cut = foveal.train.loop.Run.log

    def stop(self: Any, record: dict) -> None:
        cut(self, record)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foveal.train.loop.Run, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", **settings)
    resumed = run(tmp_path / "b", foveal.create("lenet"), resume=True, **settings)
    one, two = (checkpoint.read(r.directory, state=True, prefer="last") for r in (whole, resumed))
    for name, value in {**one.weights, **one.state}.items():
        assert torch.equal(value, {**two.weights, **two.state}[name]), name
    assert len(resumed.history) == 3


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finished = run(tmp_path, track="tensorboard")
    events = EventAccumulator(str(finished.directory / "tensorboard")).Reload()
    shown = [event.value for event in events.Scalars("accuracy/val")]
    assert shown == pytest.approx([record["val"]["accuracy"] for record in finished.history])


def test_data_of_another_task_or_class(tmp_path: Path) -> None:
    with pytest.raises(foveal.InputError, match="lenet is a system to classify, but digits is data to generate"):
        run(tmp_path, data=unlabelled(small_digits()))
    other = replace(small_digits(), labels=(*"012345678", "ten"))
    with pytest.raises(foveal.InputError, match="a class that the system does not know: ten"):
        run(tmp_path, data=other)
    assert not (tmp_path / "run").exists()


def test_class_order_is_the_systems(tmp_path: Path) -> None:
    system = build(labels=tuple("9876543210"))
    finished = run(tmp_path, system, epochs=4)
    assert finished.history[-1]["val"]["accuracy"] > 0.5
    image, target = small_digits()[0]
    assert system.predict([image])[0].top(system.labels, 1)[0][0] == str(int(target.label))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_can_go_on_past_a_non_finite_loss(policy: str, tmp_path: Path) -> None:
    class Breaks(type(build("resnet_nano"))):  # type: ignore[misc]
        """Has one image that it cannot bear; it spoils the running statistics too."""

        bad: Any = None

        def loss(self, batch: Any, player: str | None = None) -> dict[str, Tensor]:
            if self.training and self.bad is not None and (batch.indices == self.bad).any():
                batch = replace(batch, images=batch.images * float("nan"))
            return super().loss(batch, player)

    system = Breaks(build("resnet_nano").spec)
    system.bad = 7
    finished = run(tmp_path, system, epochs=6, nonfinite=policy, shift=0.0)
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("skipped") == 6
    assert all(torch.isfinite(value).all() for value in system.state_dict().values())
    assert max(record["val"]["accuracy"] for record in finished.history) > (0.5 if policy == "skip" else 0.2)
    dumped = checkpoint.read(finished.directory / "nonfinite.safetensors")
    assert "digits/7" in " ".join(dumped.header["images"])


def test_out_of_memory_says_which_batch_fits(tmp_path: Path) -> None:
    class Large(type(build())):  # type: ignore[misc]
        def losses(self, heads: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
            if self.training and len(batch) > 10:
                raise torch.OutOfMemoryError("no memory")
            return super().losses(heads, batch)

    with pytest.raises(foveal.InputError, match="batch_size 32: 8 fits; set --batch-size 8 --accumulate 4"):
        run(tmp_path, Large(build().spec))


def test_one_process_writes_a_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    run(tmp_path)
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(foveal.InputError, match="another process is writing"):
            run(tmp_path, overwrite=True)
        other.stdin.close()
    assert (tmp_path / "run" / "best.safetensors").is_file()
    run(tmp_path, overwrite=True)


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = {"event": "epoch", "epoch": 1, "train": {"loss": 1}, "val": {}, "best": True, "lr": 0.1, "seconds": 1.0}
    path.write_text(json.dumps(line) + "\n" + json.dumps(line)[:-9])
    assert read_metrics(path) == [line]
    path.write_text("3\n" + json.dumps(line))
    with pytest.raises(foveal.InputError, match=r"metrics\.jsonl, line 1: it has to be an object, not 3"):
        read_metrics(path)
    assert read_metrics(tmp_path / "none.jsonl") == []
