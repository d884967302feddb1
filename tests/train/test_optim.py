import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from foveal.system import Player
from foveal.train.config import TrainConfig, resolve
from foveal.train.optim import build_optimizer, penalty, schedule

RATE, STEPS = 0.05, 20


def config(**settings: object) -> TrainConfig:
    return resolve(TrainConfig(**settings), {}, "net")[0]


def by_hand(kind: str, weight: torch.Tensor, gradient: torch.Tensor, state: dict, t: int) -> torch.Tensor:
    """One update as the seed text writes it."""
    g, zero = gradient, torch.zeros_like(weight)
    if kind == "momentum":  # v <- rho v + g
        state["v"] = 0.9 * state.get("v", zero) + g
        return weight - RATE * state["v"]
    if kind == "nesterov":  # the step looks ahead along v
        state["v"] = 0.9 * state.get("v", zero) + g
        return weight - RATE * (g + 0.9 * state["v"])
    if kind == "adagrad":  # s <- s + g^2
        state["s"] = state.get("s", zero) + g**2
        return weight - RATE * g / (state["s"].sqrt() + 1e-10)
    if kind == "rmsprop":  # s <- gamma s + (1 - gamma) g^2
        state["s"] = 0.95 * state.get("s", zero) + 0.05 * g**2
        return weight - RATE * g / (state["s"].sqrt() + 1e-8)
    state["m"] = 0.8 * state.get("m", zero) + 0.2 * g  # adam, adamw
    state["v"] = 0.99 * state.get("v", zero) + 0.01 * g**2
    m, v = state["m"] / (1 - 0.8**t), state["v"] / (1 - 0.99**t)
    decayed = weight * (1 - RATE * 0.1) if kind == "adamw" else weight
    return decayed - RATE * m / (v.sqrt() + 1e-8)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("momentum", {"optimizer": "sgd", "weight_decay": 0.0}),
        ("nesterov", {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.0}),
        ("adagrad", {"optimizer": "adagrad"}),
        ("rmsprop", {"optimizer": "rmsprop", "decay": 0.95}),
        ("adam", {"optimizer": "adam", "betas": (0.8, 0.99)}),
        ("adamw", {"optimizer": "adamw", "betas": (0.8, 0.99), "weight_decay": 0.1}),
    ],
)
def test_update_rules_follow_their_equations(kind: str, settings: dict) -> None:
    torch.manual_seed(0)
    player = nn.Linear(4, 3, bias=False).double()
    weight, state = player.weight.detach().clone(), {}
    optimizer = build_optimizer(Player(player), config(lr=RATE, **settings))
    target = torch.randn(3, 4, dtype=torch.float64)
    for t in range(1, STEPS + 1):
        weight = by_hand(kind, weight, 4 * (weight - target) ** 3, state, t)
        optimizer.zero_grad()
        ((player.weight - target) ** 4).sum().backward()
        optimizer.step()
        assert (player.weight - weight).norm() < 1e-10 * weight.norm()


def test_biases_and_norms_are_not_decayed() -> None:
    player = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, free = build_optimizer(Player(player), config(weight_decay=0.5)).param_groups
    assert decayed["weight_decay"] == 0.5
    assert [p.ndim for p in decayed["params"]] == [4]
    assert free["weight_decay"] == 0
    assert [p.ndim for p in free["params"]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 12),
        ({"schedule": "linear"}, [1 - t / 12 for t in range(12)]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]),
        ({"schedule": "inverse_sqrt"}, [1 / math.sqrt(1 + t / 3) for t in range(12)]),
        ({"schedule": "step"}, [1.0] * 6 + [0.1] * 3 + [0.01] * 3),
        ({"schedule": "step", "milestones": (1, 3), "gamma": 0.5}, [1.0] * 3 + [0.5] * 6 + [0.25] * 3),
        ({"schedule": "constant", "warmup": 1.0}, [1 / 3, 2 / 3] + [1.0] * 10),
        ({"schedule": "linear", "warmup": 2.0}, [n / 6 for n in range(1, 7)] + [1 - t / 6 for t in range(6)]),
    ],
)
def test_schedules(settings: dict, expected: list[float]) -> None:
    factor = schedule(config(epochs=4, **settings), steps_per_epoch=3)
    assert [factor(step) for step in range(12)] == pytest.approx(expected)


def test_penalties() -> None:
    player = nn.Linear(5, 2)
    terms = penalty(player.parameters(), config(l1=0.1, l2=0.2))
    assert terms["l1"].item() == pytest.approx(0.1 * float(player.weight.abs().sum()), rel=1e-6)
    assert terms["l2"].item() == pytest.approx(0.1 * float((player.weight**2).sum()), rel=1e-6)
    assert penalty(player.parameters(), config()) == {}


def test_lbfgs_finds_the_optimum_of_softmax_regression() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 4)), np.arange(60) % 3
    x += y[:, None] * [1.0, 0.5, 0, 0]
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, y)
    player = nn.Linear(4, 3).double()
    settings = config(optimizer="lbfgs", l2=1 / 60)  # theirs: C * sum of losses + |W|^2 / 2
    optimizer = build_optimizer(Player(player), settings)
    inputs, truth = torch.tensor(x), torch.tensor(y)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = nn.functional.cross_entropy(player(inputs), truth) + sum(
            penalty(player.parameters(), settings).values()
        )
        total.backward()
        return total

    for _ in range(20):
        optimizer.step(closure)
    assert np.allclose(player.weight.detach(), theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("rule", ["cosine", "linear", "inverse_sqrt", "step", "constant"])
def test_the_rate_is_never_zero_on_the_way_nor_in_a_trial_after_it(rule: str) -> None:
    factor = schedule(resolve(TrainConfig(epochs=2, schedule=rule, warmup=1), {}, "x")[0], 3)
    assert all(0 < factor(step) <= 1 for step in range(20))
