"""Layers with learning rates of their own, and a frozen beginning."""

from pathlib import Path

import pytest
import torch

import foveal
from foveal import TrainConfig
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.system import Player, System
from foveal.train.config import resolve
from foveal.train.depth import frozen, layers, learning
from foveal.train.optim import build_optimizer


def settings(out: Path, **more: object) -> TrainConfig:
    return TrainConfig(out=str(out), epochs=1, plan="eager", quiet=True, batch_size=64, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return foveal.load_dataset("digits")


def names_of(system: System) -> list[list[str]]:
    name = {parameter: name for name, parameter in system.named_parameters()}
    return [[name[parameter] for parameter in layer] for layer in layers(system)]


@pytest.mark.parametrize("name", ["resnet_nano", "vit_nano", "lenet", "linear_softmax", "resnet18", "vit_t_16"])
def test_every_parameter_is_in_one_layer_in_order(name: str) -> None:
    system = foveal.create(name)
    found = names_of(system)
    assert [parameter for layer in found for parameter in layer] == [name for name, _ in system.named_parameters()]
    assert all(found)
    assert any("classifier" in parameter for parameter in found[-1])


def test_layers_are_blocks_with_what_is_before_and_behind() -> None:
    found = names_of(foveal.create("vit_nano"))
    assert len(found) == 3 + 2
    assert found[0] == ["class_token", "position_embedding", "patch_embedding.weight", "patch_embedding.bias"]
    assert {name.split(".")[1] for name in found[2]} == {"1"}
    assert {name.split(".")[0] for name in found[4]} == {"norm", "classifier"}


def test_rates_fall_towards_the_beginning() -> None:
    system = foveal.create("vit_nano")
    config = resolve(TrainConfig(lr=0.1, layer_decay=0.5, weight_decay=0.3), {}, "vit_nano")[0]
    rates = {}
    for group in build_optimizer(Player(system), config).param_groups:
        for parameter in group["params"]:
            rates[parameter] = group["lr"]
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    assert len(rates) == len(list(system.parameters()))
    for number, layer in enumerate(reversed(layers(system))):
        assert {rates[parameter] for parameter in layer} == {0.1 * 0.5**number}


@pytest.mark.parametrize(
    ("name", "last", "moves"),
    [
        ("resnet_nano", "stage2", {"stage3", "classifier"}),
        ("resnet_nano", "stage3.0.branch.conv1", {"stage3", "classifier"}),
        ("vit_nano", "blocks.1", {"blocks", "norm", "classifier"}),
    ],
)
def test_the_beginning_stays_as_it_is(name: str, last: str, moves: set[str], data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = foveal.create(name)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    foveal.train(system, data, settings(tmp_path / "run", freeze=last))
    changed = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == moves
    assert not any(name.startswith(f"{last}.") for name in changed)
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_statistics_of_what_is_frozen_are_used_and_stay() -> None:
    system = foveal.create("resnet_nano")
    with frozen(system, "stage1"):
        learning(system)
        modes = {name.split(".")[0]: m.training for name, m in system.named_modules() if "norm" in name}
        assert modes == {"stem": False, "stage1": False, "stage2": True, "stage3": True}
        before = system.stem.norm.running_mean.clone()
        system(torch.rand(4, 3, 16, 16))
        assert torch.equal(system.stem.norm.running_mean, before)


def test_a_frozen_run_goes_on_bitwise(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"freeze": "stage1", "layer_decay": 0.7, "shift": 0.1}
    torch.manual_seed(0)
    weights = foveal.create("resnet_nano").state_dict()

    def run(out: str, epochs: int, **extra: object) -> System:
        system = foveal.create("resnet_nano")
        system.load_state_dict(weights)
        config = TrainConfig(
            out=str(tmp_path / out),
            epochs=2,
            plan="eager",
            quiet=True,
            batch_size=64,
            schedule="constant",
            **more,
            **extra,
        )  # type: ignore[arg-type]
        if epochs == 1:
            monkeypatch.setattr("foveal.train.run.Run.log", stop)
        with pytest.raises(Stopped) if epochs == 1 else monkeypatch.context():
            foveal.train(system, data, config)
        monkeypatch.undo()
        return system

    run("cut", 1)
    resumed, whole = run("cut", 2, resume=True), run("whole", 2)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    moved = whole.state_dict()["stage2.0.branch.conv1.weight"]
    assert not torch.equal(moved, weights["stage2.0.branch.conv1.weight"])


class Stopped(Exception):
    """The run was killed."""


def stop(self: object, record: object) -> None:
    raise Stopped


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"freeze": "stage9"}, "there is no module 'stage9' to freeze up to; did you mean stage"),
        ({"freeze": ""}, "there is no module '' to freeze up to"),
        ({"freeze": "classifier"}, "nothing to train"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0 and at most 1"),
        ({"layer_decay": 0.5, "optimizer": "lbfgs"}, "layer_decay has no effect with lbfgs"),
    ],
)
def test_settings_that_cannot_be(more: dict[str, object], told: str, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        foveal.train(foveal.create("resnet_nano"), data, settings(tmp_path / "run", **more))
    assert not (tmp_path / "run" / "run.json").exists()
