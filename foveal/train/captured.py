"""Checks a training state read from a file against the system, optimizers and plan that it is to be restored to.

The structure that is expected comes from the running objects themselves, not from a list of keys.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.schema import check
from foveal.system import Player
from foveal.train.config import TrainConfig
from foveal.train.optim import build_optimizer
from foveal.train.plan import DTYPES, Plan

if TYPE_CHECKING:
    from foveal.train.state import State

SCHEDULE = ("last_epoch", "_step_count", "_last_lr")  # what changes in a LambdaLR from step to step


def check_tree(tree: Any, state: "State") -> None:
    """InputError where the tree of `State.capture`, read from a file, does not fit this state.

    The optimizers' own tensors are checked by `fitting_optimizer_state`.
    """
    _keys(tree, ("plan", "optimizers", "schedules", "scaler", "average", "random"), "state")
    check(tree["plan"], Plan, "plan")
    if tree["plan"].keys() != vars(state.plan).keys() or tree["plan"]["precision"] not in DTYPES:
        raise InputError("plan is none that this foveal knows")
    _keys(tree["optimizers"], state.optimizers, "optimizers")
    _keys(tree["schedules"], state.schedules, "schedules")
    for name, schedule in state.schedules.items():
        saved, place = tree["schedules"][name], f"schedules.{name}"
        own = schedule.state_dict()
        _alike(saved, {key: own[key] for key in SCHEDULE}, place)
        # In this process, trial steps may have gone further.
        if not 0 <= saved["last_epoch"] <= max(state.progress.step, own["last_epoch"]):
            raise InputError(f"{place}.last_epoch is {saved['last_epoch']}, after {state.progress.step} steps")
    _alike(tree["scaler"], state.scaler.state_dict(), "scaler")
    if state.average is not None:
        _alike(tree["average"], state.average, "average")
    others = tree.get("random of the others", [])
    if not isinstance(others, list) or len(others) != state.ranks.size - 1:
        raise InputError(f"random numbers are not those of {state.ranks.size} processes")
    for number, random in enumerate([tree["random"], *others]):
        place = f"random numbers of process {number}"
        _keys(random, ("cpu", "device"), place)
        _alike(random["cpu"], torch.get_rng_state(), place)
        if random["device"] is not None and state.system.device.type == "cuda":
            _alike(random["device"], torch.cuda.get_rng_state(state.system.device).cpu(), place)


def saved_players(tree: Any, players: Mapping[str, Player]) -> dict[str, Player]:
    """The players with their settings in a tree of `State.capture`; the defaults where an older foveal wrote it, which
    had none. Raises InputError for settings of another type, range or player."""
    _keys(tree, (), "state")
    saved = tree.get("players", {name: {} for name in players})
    _keys(saved, players, "players")
    hints, found = get_type_hints(Player), {}
    for name, player in players.items():
        place = f"players.{name}"
        _keys(saved[name], (), place)
        if unknown := sorted(saved[name].keys() - player.settings().keys()):
            raise InputError(f"{place} has no {unknown[0]!r}")
        for setting, value in saved[name].items():
            check(value, hints[setting], f"{place}.{setting}")
        betas = saved[name].get("betas")
        found[name] = Player(player.module, **{**saved[name], "betas": betas and tuple(betas)})
    return found


def fitting_optimizer_state(saved: Any, optimizer: torch.optim.Optimizer, config: TrainConfig) -> dict[str, Any]:
    """The state_dict of an optimizer from one in a file: its tensors, and of the groups the learning rates.

    All other settings of the groups are those of the run, and so of the optimizer. Raises InputError.
    """
    _keys(saved, ("state", "param_groups"), "optimizer")
    groups = optimizer.state_dict()["param_groups"]
    rates = [{"lr": group["lr"]} for group in groups]
    _alike(saved["param_groups"], rates, "param_groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(saved["state"], dict):
        raise InputError("the state of the optimizer has to be an object")
    example, state = _example(config), {}
    for number, kept in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise InputError(f"the optimizer has no parameter {str(number)[:20]}")
        place = f"the optimizer's state of parameter {number}"
        begun = not isinstance(kept, dict) or kept.get("n_iter") != 0  # L-BFGS may end before its first direction
        _keys(kept, example if begun else ("func_evals", "n_iter"), place)
        size = sum(parameter.numel() for parameter in parameters)
        for key, value in ((key, value) for key, value in kept.items() if key in example):
            _moment(value, example[key], parameters[number].shape, size, f"{place}, {key},")
        if float(kept.get("step", 0)) < 0:
            raise InputError(f"{place} has a step below 0")
        history = {len(kept[key]) for key, value in example.items() if isinstance(value, list) and key in kept}
        if len(history) > 1 or max(history, default=0) > optimizer.defaults.get("history_size", 0):
            raise InputError(f"{place} has a history of no such length")
        state[number] = {key: value for key, value in kept.items() if key in example}
    new = [{**group, "lr": old["lr"]} for group, old in zip(groups, saved["param_groups"], strict=True)]
    return {"state": state, "param_groups": new}


SHAPE = (2, 3)


def _example(config: TrainConfig) -> dict[str, Any]:
    """What the optimizer of a configuration keeps for a parameter of SHAPE after a few steps."""
    parameter = nn.Parameter(torch.ones(SHAPE))
    weights = torch.arange(1.0, 7.0).view(SHAPE)
    optimizer = build_optimizer(Player(nn.ParameterList([parameter])), replace(config, layer_decay=None))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((parameter - 3).square() * weights).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        for _ in range(2):
            optimizer.step(closure)  # type: ignore[arg-type]
    # "al" is scratch of L-BFGS, which makes it where it is missing.
    return {key: value for key, value in optimizer.state[parameter].items() if key != "al"}


def _moment(value: Any, example: Any, shape: torch.Size, size: int, place: str) -> None:
    """Check what an optimizer keeps under one key, for a parameter of a shape among `size` numbers in all."""
    alone = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
    scalar = _is_number(value) or (alone and bool(torch.isfinite(value)))
    match example:
        case Tensor() if example.ndim:
            expected = shape if example.shape == SHAPE else torch.Size((size,))
            fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape == expected
        case list():
            fits = isinstance(value, list)
            for part in value if fits else ():
                _moment(part, example[0], shape, size, place)
        case None:
            fits = value is None
        case _:
            fits = scalar
    if not fits:
        raise InputError(f"{place} is of another kind or shape")


def _alike(value: Any, own: Any, place: str) -> None:
    """InputError where a value has another structure than the state's own: keys, lengths, shapes and kinds."""
    match own:
        case Tensor():
            fits = isinstance(value, Tensor) and value.shape == own.shape
            fits = fits and value.is_floating_point() == own.is_floating_point()
            fits = fits and (own.is_floating_point() or value.dtype == own.dtype)
        case dict():
            _keys(value, own, place)
            for key, part in own.items():
                _alike(value[key], part, f"{place}.{key}")
            return
        case list() | tuple():
            fits = isinstance(value, list | tuple) and len(value) == len(own)
            for number, (one, part) in enumerate(zip(value, own, strict=True) if fits else ()):
                _alike(one, part, f"{place}[{number}]")
        case bool():
            fits = isinstance(value, bool)
        case int():
            fits = type(value) is int and abs(value) < 2**63
        case float():
            fits = _is_number(value)
        case _:
            fits = value == own
    if not fits:
        raise InputError(f"{place} is of another kind or shape")


def _is_number(value: Any) -> bool:
    # Torch converts them to int64 and float32.
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and abs(value) < 3.4e38)


def _keys(value: Any, expected: Any, place: str) -> None:
    """InputError where a value is no dict, or lacks one of these keys."""
    if not isinstance(value, Mapping):
        raise InputError(f"{place} has to be an object")
    if missing := [key for key in expected if key not in value]:
        raise InputError(f"{place} lacks {missing[0]}")
