from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.train import checkpoint
from foveal.train.config import TrainConfig, resolve
from foveal.train.plan import WORTH_MEASURING, Plan, candidates, choose
from tests.toys import small_digits

EAGER, LAST = Plan(), Plan(channels_last=True)
LONG = int(WORTH_MEASURING) + 1  # steps of a second
HALF, HALF_LAST = Plan(precision="bfloat16"), Plan(True, "bfloat16")


def config(**settings: Any) -> TrainConfig:
    return resolve(TrainConfig(**settings), {}, "net")[0]


def fake(times: dict[Plan, float]) -> Any:
    def measure(plan: Plan) -> float:
        if plan not in times:
            raise RuntimeError("no compiler")
        return times[plan]

    return measure


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ({"plan": "eager"}, EAGER),
        ({}, EAGER),
        ({"plan": "channels_last"}, LAST),
        ({"plan": "channels_last+compile", "precision": "bfloat16"}, Plan(True, "bfloat16", True)),
        ({"precision": "auto"}, EAGER),
    ],
)
def test_settings_name_a_plan(settings: dict, plan: Plan) -> None:
    assert Plan.of(config(**settings)) == plan


@pytest.mark.parametrize(("plan", "text"), [("eagre", "did you mean eager"), ("eager+compile", "not both")])
def test_unknown_plans(plan: str, text: str) -> None:
    with pytest.raises(foveal.InputError, match=text):
        Plan.of(config(plan=plan))


def test_only_what_the_settings_allow_is_a_candidate() -> None:
    assert list(candidates(config(), compiling=False)) == [EAGER, LAST]
    assert list(candidates(config(precision="auto"), compiling=False)) == [EAGER, LAST, HALF, HALF_LAST]
    assert list(candidates(config(plan="eager", precision="auto"), compiling=False)) == [EAGER, HALF]
    assert list(candidates(config(plan="eager"), compiling=False)) == [EAGER]


def test_the_fastest_is_chosen_unless_the_gain_is_noise() -> None:
    assert choose(config(), fake({EAGER: 1.0, LAST: 0.5}), LONG)[0] == LAST
    assert choose(config(), fake({EAGER: 1.0, LAST: 0.97}), LONG)[0] == EAGER
    assert choose(config(), fake({EAGER: 1.0, LAST: 2.0}), LONG)[0] == EAGER
    assert choose(config(), fake({EAGER: 1.0}), LONG)[0] == EAGER


def test_short_runs_take_the_plain_way_and_long_ones_try_to_compile() -> None:
    fast = Plan(compile=True)
    times = {EAGER: 1.0, LAST: 1.1, fast: 0.3}
    assert choose(config(), fake(times), LONG - 2) == (EAGER, {str(EAGER): 1.0})
    assert choose(config(), fake({EAGER: 1.0, LAST: 0.5, fast: 0.49}), LONG)[0] == LAST
    plan, measured = choose(config(), fake(times), LONG)
    assert plan == fast
    assert measured == {"contiguous float32 eager": 1.0, "channels_last float32 eager": 1.1, str(fast): 0.3}


@pytest.mark.parametrize("plan", ["eager", "channels_last", "auto"])
def test_a_plan_is_kept_by_a_resumption(plan: str, tmp_path: Path) -> None:
    settings = TrainConfig(epochs=2, quiet=True, plan=plan, out=str(tmp_path / "a"))
    torch.manual_seed(0)
    whole = foveal.train(foveal.create("resnet_nano"), small_digits(), settings)
    header = checkpoint.read(whole.directory / "last.safetensors", state=True).header
    chosen = dict(header["state"]["tree"]["dict"])["plan"]["dict"]
    # The same run, cut after its first epoch, on a machine where another plan would be the fastest.
    torch.manual_seed(0)
    system, cut = foveal.create("resnet_nano"), replace(settings, out=str(tmp_path / "b"), plan=plan)
    original = foveal.train.loop.Screen.epoch

    def stop(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveal.train.preview.choose", lambda *_: (Plan(**dict(chosen)), {str(Plan(**dict(chosen))): 1}))
        patch.setattr(foveal.train.loop.Screen, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            foveal.train(system, small_digits(), cut)
    resumed = foveal.train(foveal.create("resnet_nano"), small_digits(), replace(cut, resume=True))
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[name]), name


def test_compiled_training_is_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = small_digits()
    runs = []
    for plan in ("eager", "compile"):
        torch.manual_seed(0)
        settings = TrainConfig(epochs=1, quiet=True, plan=plan, batch_size=80, out=str(tmp_path / plan))
        runs.append(foveal.train(foveal.create("lenet"), data, settings))
    for name, value in runs[0].system.state_dict().items():
        other = runs[1].system.state_dict()[name]
        assert (value - other).norm() < 1e-3 * value.norm(), name
    assert runs[1].system._compiled_call_impl is None
