"""Players: their rates, betas and turns, in a step, in a run that is resumed, and in one that an older foveal began."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import Player
from foveal.train import checkpoint
from foveal.train.config import TrainConfig, resolve
from foveal.train.optim import build_optimizer, schedule
from foveal.train.state import Progress, State
from foveal.train.step import step
from tests.toys import Gan, small_digits, unlabelled

RATE, BETAS = 0.01, (0.5, 0.9)
SLOW: dict[str, Any] = {"lr": 0.25, "betas": (0.4, 0.99), "every": 3}
SLOWER = {**SLOW, "parts": {"0": 0.1}}


class Uneven(Gan):
    """Whose generator is slow, and whose discriminator has a penalty in every other step."""

    settings: Mapping[str, Any] = SLOW

    @property
    def players(self) -> dict[str, Player]:
        return {"discriminator": Player(self.discriminator), "generator": Player(self.generator, **self.settings)}

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        terms = super().loss(batch, player)
        if player == "discriminator" and batch.step % 2 == 0:
            terms["penalty"] = self(batch.images).square().mean()
        return terms


def build(kind: type[Gan] = Uneven) -> Gan:
    torch.manual_seed(0)
    return kind()


def state_of(system: Any, **settings: Any) -> State:
    config, _ = resolve(TrainConfig(optimizer="adam", lr=RATE, betas=BETAS, **settings), {}, "net")
    return State(system, config, schedule(config, 10))


def batch_of(count: int = 8) -> Batch:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(images, (), torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


def test_each_player_moves_in_its_turn_by_its_own_rate_and_betas() -> None:
    system, by_hand, batch = build(), build(), batch_of()
    state = state_of(system, schedule="constant")
    adams = {
        "discriminator": torch.optim.Adam(by_hand.discriminator.parameters(), RATE, betas=BETAS),
        "generator": torch.optim.Adam(by_hand.generator.parameters(), RATE / 4, betas=(0.2, 0.891)),
    }
    torch.manual_seed(2)
    terms = []
    for _ in range(8):
        terms.append(step(state, [batch]))
        state.progress.add(terms[-1], 1)
    torch.manual_seed(2)
    for number in range(8):
        for player, adam in adams.items():
            if player == "discriminator" or number in (0, 3, 6):
                by_hand.zero_grad()
                sum(by_hand.loss(replace(batch, step=number), player).values()).backward()
                adam.step()
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert [n for n, each in enumerate(terms) if "generator_fool" in each] == [0, 3, 6]
    assert [n for n, each in enumerate(terms) if "discriminator_penalty" in each] == [0, 2, 4, 6]
    means = state.progress.means()
    for name in ("generator_fool", "discriminator_penalty", "discriminator_real", "discriminator_loss"):
        own = [each[name] for each in terms if name in each]
        assert means[name] == pytest.approx(sum(own) / len(own), rel=1e-12)
    assert state.learning_rate() == RATE


def test_means_go_on_where_an_older_foveal_left_them() -> None:
    progress = Progress(totals={"loss": 6.0, "steps": 3}, batch=3, step=3)
    progress.add({"loss": 2.0, "rare": 5.0}, 1)
    assert progress.means() == {"loss": 2.0, "rare": 5.0}


def test_parts_learn_at_rates_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    config, _ = resolve(TrainConfig(optimizer="adamw", lr=0.1, weight_decay=0.3), {}, "net")
    player = Player(net, lr=2.0, parts={"1": 0.5, "1.1": 0.1})
    groups = build_optimizer(player, config).param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    expected = {"0": 0.2, "1.0": 0.1, "1.1": 0.02}
    for name, parameter in net.named_parameters():
        assert rates[parameter] == pytest.approx(expected[name.rsplit(".", 1)[0]])
    assert all(group["weight_decay"] == (0.3 if p.ndim > 1 else 0.0) for group in groups for p in group["params"])

    deep, _ = resolve(TrainConfig(optimizer="adamw", lr=0.1, layer_decay=0.5), {}, "net")
    rates = {p: group["lr"] for group in build_optimizer(player, deep).param_groups for p in group["params"]}
    assert rates[net[0].weight] == pytest.approx(0.2 * 0.25)
    assert rates[net[1][1].bias] == pytest.approx(0.02)

    # Without factors the groups are as ever, so that optimizer states of older runs fit.
    whole, same = (build_optimizer(Player(net, parts=parts), config).state_dict() for parts in ({}, {"1": 1.0}))
    assert whole == same
    assert len(whole["param_groups"]) == 2


def test_the_backbone_of_detr_is_slower() -> None:
    rates = {
        name: foveal.create(name, backbone="resnet10_nano", **fields).players["system"].parts
        for name, fields in {"detr_nano": {}, "detr_resnet50": {"strides": (8,)}}.items()
    }
    assert rates == {"detr_nano": {"backbone": 1.0}, "detr_resnet50": {"backbone": 0.1}}


def run(out: Path, system: Any = None, **settings: Any) -> Any:
    settings = {"epochs": 3, "batch_size": 16, "ema": 0.9, "quiet": True, "report": False, **settings}
    return foveal.train(system or build(), unlabelled(small_digits()), TrainConfig(out=str(out), **settings))


def cut(out: Path, **settings: Any) -> None:
    """A run that stops within its second epoch, its state saved."""
    original, calls = foveal.train.loop.Screen.step, [0]

    def stop(self: Any, progress: Any, meter: Any) -> None:
        original(self, progress, meter)
        calls[0] += 1
        if calls[0] == 14:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foveal.train.loop.Screen, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(out, **settings)


def test_players_resume_bitwise(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", save_minutes=1e-9)
    cut(tmp_path / "b", save_minutes=1e-9)
    saved = checkpoint.read(tmp_path / "b", state=True, prefer="last").header["state"]["progress"]
    assert 0 < saved["counts"]["generator_fool"] < saved["totals"]["steps"]
    resumed = run(tmp_path / "b", resume=True, save_minutes=1e-9)
    one, two = (checkpoint.read(r.directory, state=True, prefer="last") for r in (whole, resumed))
    for name, value in {**one.weights, **one.state}.items():
        assert torch.equal(value, {**two.weights, **two.state}[name]), name
    assert [record["train"] for record in whole.history] == [record["train"] for record in resumed.history]


def captured(state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
    record, tensors = state.capture()
    return json.loads(json.dumps(record)), {name: tensor.clone() for name, tensor in tensors.items()}


def test_a_run_keeps_the_players_that_it_began_with() -> None:
    class Slower(Uneven):
        settings = SLOWER

    begun, batch = state_of(build()), batch_of()
    begun.progress.add(step(begun, [batch]), 1)
    record, tensors = captured(begun)
    system = build(Slower)
    system.load_state_dict(begun.system.state_dict())
    later = state_of(system)
    later.restore(copy.deepcopy(record), tensors)
    assert later.players["generator"].settings() == Player(system.generator, **SLOW).settings()
    for state in (begun, later):
        torch.manual_seed(4)
        for _ in range(4):
            state.progress.add(step(state, [batch]), 1)
    for name, value in begun.system.state_dict().items():
        assert torch.equal(value, system.state_dict()[name]), name


def test_a_run_of_a_foveal_without_players_goes_on_as_it_was() -> None:
    begun = state_of(build(Gan))
    begun.progress.add(step(begun, [batch_of()]), 1)
    record, tensors = captured(begun)
    record["tree"]["dict"] = [pair for pair in record["tree"]["dict"] if pair[0] != "players"]
    del record["progress"]["counts"]
    state = state_of(build())
    state.restore(record, tensors)
    assert state.players["generator"].settings() == Player(state.system.generator).settings()
    groups = state.optimizers["generator"].param_groups
    assert {group["initial_lr"] for group in groups} == {RATE}
    assert {group["betas"] for group in groups} == {BETAS}
    assert step(state, [batch_of()]).keys() >= {"generator_fool"}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"every": 0}, "every is at least 1"),
        ({"every": 1.5}, "players.generator.every has to be a whole number"),
        ({"lr": -1.0}, "factors are above 0"),
        ({"lr": "x"}, "players.generator.lr has to be a number"),
        ({"betas": [0.5]}, "players.generator.betas"),
        ({"betas": [2.0, 2.0]}, "become .* by the factors of a player"),
        ({"parts": {"nothing": 0.5}}, "no part 'nothing'"),
        ({"pace": 1}, "players.generator has no 'pace'"),
    ],
)
def test_settings_of_players_in_a_file_are_checked(wrong: dict[str, Any], text: str) -> None:
    state = state_of(build())
    record, tensors = state.capture()
    tree = dict(record["tree"]["dict"])
    saved = {"dict": [["discriminator", {"dict": []}], ["generator", {"dict": []}]]}
    flat: dict[str, Tensor] = {}
    saved["dict"][1][1] = checkpoint.flatten({**SLOW, **wrong}, "", flat)
    record["tree"] = {"dict": list({**tree, "players": saved}.items())}
    with pytest.raises(InputError, match=text):
        state.restore(json.loads(json.dumps(record)), tensors)
    for missing in ({"dict": []}, [], 3):
        record["tree"] = {"dict": list({**tree, "players": missing}.items())}
        with pytest.raises(InputError, match="players"):
            state.restore(json.loads(json.dumps(record)), tensors)


def test_a_batch_keeps_its_step() -> None:
    batch = replace(batch_of(), step=5)
    assert [batch.to("cpu").step, batch.float().step, batch.first(2).step, len(batch.first(2))] == [5, 5, 5, 2]
