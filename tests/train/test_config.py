from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal import catalog
from foveal.errors import InputError
from foveal.train.config import TrainConfig, resolve
from foveal.train.defaults import DEFAULTS, OPTIMIZER_DEFAULTS, FineTuning

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


def tuned(task: str = "classify", recipe: dict = RECIPE, images: int | None = None, **own: object) -> FineTuning:
    return FineTuning.of(task, recipe, own, images)


def test_weights_bring_a_fine_tuning_recipe_before_that_of_the_family() -> None:
    recipe = {**RECIPE, "crop_scale": (0.08, 1.0), "mixup": 0.8, "label_smoothing": 0.1}
    config, origins = resolve(TrainConfig(warmup=0.0), recipe, "net", tuning=tuned(recipe=recipe))
    assert (config.optimizer, config.lr, config.layer_decay, config.schedule) == ("adamw", 1e-3, 0.85, "cosine")
    assert (config.crop_scale, config.mixup, config.cutmix) == ((0.5, 1.0), 0.0, 0.0)
    assert (config.norm_statistics, config.epochs, config.momentum, config.gamma) == ("keep", 10, None, None)
    assert {origins[name] for name in ("optimizer", "lr", "layer_decay", "mixup", "epochs")} == {"fine-tuning recipe"}
    assert (config.flip, origins["flip"]) == (True, "recipe of net")
    assert (config.label_smoothing, origins["label_smoothing"]) == (0.1, "recipe of net")
    assert (config.warmup, origins["warmup"], origins["cutmix"]) == (0.0, "user", "default")


def test_crops_are_not_what_fine_tuning_adds_where_the_family_has_none() -> None:
    config, _ = resolve(TrainConfig(), {"shift": 0.125}, "net", tuning=tuned(recipe={"shift": 0.125}))
    assert (config.crop_scale, config.shift, config.flip) == (None, 0.125, False)
    config, _ = resolve(TrainConfig(shift=0.1), {"crop_scale": (0.1, 1.0)}, "net", tuning=tuned())
    assert (config.crop_scale, config.shift) == (None, 0.1)


def test_fine_tuning_is_fully_overridable() -> None:
    user = {"lr": 0.3, "layer_decay": None, "ema": None, "norm_statistics": "update", "epochs": 3, "clip": None}
    recipe = {"optimizer": "adamw", "lr": 1e-3, "ema": 0.99}
    config, origins = resolve(TrainConfig(**user), recipe, "net", tuning=tuned(recipe=recipe, images=40))
    assert {name: getattr(config, name) for name in user} == user
    assert {origins[name] for name in user} == {"user"}
    assert config.warmup == 1.0
    assert resolve(TrainConfig(epochs=1), {}, "net", tuning=tuned())[0].warmup == 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZER_DEFAULTS)
def test_the_users_optimizer_takes_neither_rate_of_the_recipes(optimizer: str) -> None:
    config, origins = resolve(TrainConfig(optimizer=optimizer), RECIPE, "net", tuning=tuned())
    scratch = OPTIMIZER_DEFAULTS[optimizer]["lr"]
    # A tenth of the rate from scratch, which for sgd is that of the family.
    expected = {"adamw": 1e-3, "lbfgs": scratch, "sgd": 0.03}.get(optimizer, 0.1 * scratch)
    assert config.lr == pytest.approx(expected)
    assert config.layer_decay == (None if optimizer == "lbfgs" else 0.85)
    if optimizer not in ("adamw", "lbfgs"):
        assert origins["lr"] == "fine-tuning recipe"
    if optimizer not in ("adamw", "sgd"):
        assert config.weight_decay == OPTIMIZER_DEFAULTS[optimizer].get("weight_decay")


def test_contradictions_stay_errors_in_fine_tuning() -> None:
    for settings, text in (
        ({"momentum": 0.9}, "momentum has no effect with adamw"),
        ({"optimizer": "lbfgs", "layer_decay": 0.9}, "layer_decay has no effect with lbfgs"),
        ({"warmup": 20.0}, "leaves nothing of 10 epochs"),
        ({"norm_statistics": "freeze"}, "unknown norm_statistics 'freeze'"),
    ):
        with pytest.raises(InputError, match=text):
            resolve(TrainConfig(**settings), RECIPE, "net", tuning=tuned())
    with pytest.raises(InputError, match="no setting 'rate'"):
        resolve(TrainConfig(), RECIPE, "net", tuning=tuned(rate=1.0))


@pytest.mark.parametrize(
    ("images", "settings", "epochs"),
    [
        (None, {}, 10),
        (800, {}, 10),  # 25 steps an epoch
        (440, {}, 12),  # 13
        (440, {"batch_size": 8}, 10),
        (440, {"accumulate": 2}, 22),  # 7
        (10, {}, 100),  # 1
        (100_000, {}, 10),
    ],
)
def test_few_images_are_passed_more_often(images: int | None, settings: dict, epochs: int) -> None:
    config, origins = resolve(TrainConfig(**settings), {}, "net", tuning=tuned(recipe={}, images=images))
    assert (config.epochs, origins["epochs"]) == (epochs, "fine-tuning recipe")


def test_the_rate_is_a_third_of_that_of_the_recipe_with_the_same_optimizer() -> None:
    assert tuned(recipe={"lr": 3e-4}).settings["lr"] == pytest.approx(1e-4)
    assert tuned(recipe={}).settings["lr"] == pytest.approx(1e-3 / 3)
    assert resolve(TrainConfig(), {}, "net", tuning=tuned(recipe={}))[0].norm_statistics == "update"
    assert tuned("detect", {"lr": 0.01, "clip": 0.1}).settings["clip"] == 0.1
    assert tuned("detect", {"optimizer": "sgd", "lr": 0.01}).settings["lr"] == 2e-4
    assert tuned(recipe={"lr": 2e-4}, lr=0.5).settings["lr"] == 0.5  # a family's own


def test_a_detector_whose_backbone_alone_has_weights_keeps_rate_and_epochs() -> None:
    recipe = {"lr": 5e-4, "batch_size": 8, "epochs": 90, "schedule": "step", "milestones": (60,), "clip": 5.0}
    config, origins = resolve(TrainConfig(), recipe, "net", tuning=FineTuning.of("detect", recipe, {}, 800, "base"))
    assert (config.lr, config.epochs, config.clip, config.batch_size) == (5e-4, 90, 5.0, 8)
    assert (config.schedule, config.milestones, config.warmup) == ("cosine", None, 0.5)
    assert (origins["epochs"], origins["batch_size"], origins["lr"]) == (*["recipe of net"] * 2, "fine-tuning recipe")
    few = FineTuning.of("detect", recipe, {}, 40, "base")  # 5 steps an epoch, and 600 are the fewest
    config, origins = resolve(TrainConfig(), recipe, "net", tuning=few)
    assert (config.epochs, origins["epochs"]) == (100, "fine-tuning recipe")


def test_the_settings_of_the_photograph_recipe_are_those_that_were_tuned_for_it() -> None:
    spec = catalog.variant("fasterrcnn_efficientnet_lite0_fpn")
    before, _ = resolve(TrainConfig(), spec.recipe, "net")
    tuning = FineTuning.of("detect", spec.recipe, spec.finetune, 205, "base")
    assert resolve(TrainConfig(), spec.recipe, "net", tuning=tuning)[0] == before


def test_other_tasks_keep_their_recipe_at_a_third_of_its_rate() -> None:
    recipe = {"optimizer": "adam", "lr": 2e-3, "betas": (0.5, 0.999), "epochs": 60, "crop_scale": (0.2, 1.0)}
    config, origins = resolve(TrainConfig(), recipe, "net", tuning=tuned("generate", recipe, 10))
    assert (config.lr, config.betas, config.epochs) == (pytest.approx(2e-3 / 3), (0.5, 0.999), 60)
    assert (config.crop_scale, origins["crop_scale"], origins["betas"]) == (
        (0.2, 1.0),
        "recipe of net",
        "recipe of net",
    )


def test_every_family_fine_tunes_by_settings_that_exist() -> None:
    for name in catalog.ENTRIES:
        spec = catalog.variant(name)
        if not catalog.family(name).can("fit"):
            config, _ = resolve(
                TrainConfig(),
                spec.recipe,
                name,
                tuning=FineTuning.of(catalog.task_of(name), spec.recipe, spec.finetune),
            )
            assert config.lr <= 0.01 / 3
