from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.errors import InputError
from foveal.train.config import DEFAULTS, OPTIMIZER_DEFAULTS, TrainConfig, resolve

RECIPE = {"optimizer": "sgd", "lr": 0.3, "momentum": 0.8, "schedule": "step", "gamma": 0.5, "flip": True, "epochs": 7}


def test_defaults_then_recipe_then_user() -> None:
    config, origins = resolve(TrainConfig(epochs=9, flip=False), RECIPE, "net")
    assert (config.epochs, origins["epochs"]) == (9, "user")
    assert (config.flip, origins["flip"]) == (False, "user")
    assert (config.lr, origins["lr"]) == (0.3, "recipe of net")
    assert (config.weight_decay, origins["weight_decay"]) == (1e-4, "default")
    assert (config.gamma, config.milestones) == (0.5, None)
    assert (config.batch_size, origins["batch_size"]) == (32, "default")


def test_a_recipes_warmup_leaves_half_of_a_shorter_run() -> None:
    recipe = {**RECIPE, "warmup": 2.0}
    assert [resolve(TrainConfig(epochs=n), recipe, "net")[0].warmup for n in (1, 3, 4, 50)] == [0.5, 1.5, 2.0, 2.0]
    with pytest.raises(InputError, match=r"warmup \(3.0 epochs\) leaves nothing of 3 epochs"):
        resolve(TrainConfig(epochs=3, warmup=3.0), recipe, "net")


def test_a_recipe_is_for_its_own_optimizer_and_schedule() -> None:
    config, origins = resolve(TrainConfig(optimizer="adam", schedule="cosine"), RECIPE, "net")
    assert (config.lr, origins["lr"]) == (0.001, "default")
    assert config.momentum is None
    assert config.gamma is None
    assert config.flip is True


@pytest.mark.parametrize("optimizer", OPTIMIZER_DEFAULTS)
def test_every_optimizer_resolves(optimizer: str) -> None:
    config, _ = resolve(TrainConfig(optimizer=optimizer), {}, "net")
    for name, value in OPTIMIZER_DEFAULTS[optimizer].items():
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"momentum": 0.9}, "momentum has no effect with adamw; it is a setting of sgd and rmsprop"),
        ({"optimizer": "sgd", "betas": (0.9, 0.99)}, "betas has no effect with sgd"),
        ({"optimizer": "lbfgs", "weight_decay": 0.1}, "weight_decay has no effect with lbfgs"),
        ({"milestones": (3,)}, "milestones has no effect with cosine"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"optimizer": "sgd", "l2": 0.1, "weight_decay": 0.1}, "the same thing"),
        ({"crop_scale": (0.5, 1.0), "shift": 0.1}, "two ways to move"),
        ({"scale_jitter": (2.0, 0.5)}, "smallest factor comes first"),
        ({"scale_jitter": (0.0, 0.5)}, "scale_jitter must be above 0"),
        ({"object_crop": 1.1}, "object_crop must be at least 0 and at most 1"),
        ({"mosaic": -0.1}, "mosaic must be at least 0"),
        ({"crop_scale": (0.9, 0.1)}, "smallest share comes first"),
        ({"epochs": 3, "warmup": 3}, "leaves nothing"),
        ({"optimizer": "lbfgs", "accumulate": 2}, "cannot be accumulated"),
        ({"shard": True, "plan": "compile"}, "plan compile has no effect on shards"),
        ({"shard": True, "optimizer": "lbfgs"}, "shard needs another optimizer"),
        ({"resume": True}, "resume needs out"),
        ({"resume": True, "overwrite": True, "out": "x"}, "contradict"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"lr": float("inf")}, "lr must be above 0, not inf"),
        ({"label_smoothing": 1.5}, "at least 0 and below 1, not 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1"),
        ({"shift": 1.5}, "shift must be at least 0 and at most 1"),
        ({"seed": 2**64}, "seed must be"),
        ({"optimizer": "adagradd"}, "did you mean adagrad"),
        ({"precision": "int8"}, "unknown precision"),
    ],
)
def test_what_cannot_be_meant_is_an_error(settings: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        resolve(TrainConfig(**settings), {}, "net")


def test_a_fitted_system_takes_no_gradient_settings() -> None:
    assert resolve(TrainConfig(seed=3), {}, "knn", fits=True)[0].epochs == 1
    with pytest.raises(InputError, match="lr has no effect: knn is fitted"):
        resolve(TrainConfig(lr=0.1), {}, "knn", fits=True)


def test_an_unknown_setting_in_a_recipe_is_an_error() -> None:
    with pytest.raises(InputError, match="no setting 'epoch'; did you mean epochs"):
        resolve(TrainConfig(), {"epoch": 3}, "net")


def test_defaults_name_real_settings() -> None:
    for table in (DEFAULTS, *OPTIMIZER_DEFAULTS.values()):
        assert set(table) <= set(TrainConfig.__dataclass_fields__)


def test_none_is_a_value_and_the_users_way_to_move_the_image_displaces_the_recipes() -> None:
    recipe = {"crop_scale": (0.2, 1.0), "clip": 1.0}
    assert resolve(TrainConfig(), recipe, "x")[0].clip == 1.0
    config, origins = resolve(TrainConfig(clip=None, shift=0.1), recipe, "x")
    assert (config.clip, config.crop_scale, config.shift) == (None, None, 0.1)
    assert (origins["clip"], origins["crop_scale"], origins["shift"]) == ("user", "default", "user")
    assert resolve(TrainConfig(crop_scale=(0.5, 1.0)), {"shift": 0.125}, "x")[0].shift == 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": "3"}, "epochs is a whole number, not '3'"),
        ({"epochs": 3.0}, "epochs is a whole number, not 3.0"),
        ({"epochs": True}, "epochs is a whole number, not True"),
        ({"lr": "fast"}, "lr is a number, not 'fast'"),
        ({"clip": [1]}, r"clip is a number or None, not \[1\]"),
        ({"flip": 1}, "flip is True or False, not 1"),
        ({"milestones": (3, "x")}, r"milestones is a tuple, each part a whole number or None, not \(3, 'x'\)"),
        ({"out": 7}, "out is a text or None, not 7"),
        ({"transforms": (7,)}, r"transforms is a tuple, each part a Callable, not \(7,\)"),
    ],
)
def test_a_value_of_another_type_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}$"):
        resolve(TrainConfig(**settings), {}, "x")


def test_numbers_of_numpy_and_paths_are_values_too() -> None:
    settings: dict[str, Any] = {
        "epochs": np.int64(3),
        "lr": 1,
        "clip": np.float32(2),
        "out": Path("x"),
        "workers": None,
    }
    assert resolve(TrainConfig(**settings), {}, "x")[0].epochs == 3
