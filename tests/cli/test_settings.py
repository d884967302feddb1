"""foveal train: each setting on the command line reaches the configuration, and no other does."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from foveal.catalog import FAMILIES, family, holds_systems, settable, variant
from foveal.cli.train import read
from foveal.errors import InputError
from foveal.train.config import TrainConfig

NAMES = [variants.split()[-1] for variants in FAMILIES.values()]
EXAMPLES: dict[Any, tuple[str, Any]] = {
    int: ("7", 7),
    float: ("-0.25", -0.25),
    str: ("some", "some"),
    bool: ("True", True),
}


def example(hint: Any) -> tuple[list[str], Any]:
    """Words that stand for a value of a type, and the value."""
    if hint in EXAMPLES:
        word, value = EXAMPLES[hint]
        return [word], value
    if get_origin(hint) is Literal:
        return [str(get_args(hint)[-1])], get_args(hint)[-1]
    if get_origin(hint) is not tuple:  # a union: its last part that is not None
        return example([part for part in get_args(hint) if part is not type(None)][-1])
    inner = get_args(hint)
    if inner[1:] == (...,) and get_origin(inner[0]) is tuple and get_args(inner[0])[1:] == (...,):
        words, value = example(get_args(inner[0])[0])
        return [f"{words[0]},{words[0]}", words[0]], ((value, value), (value,))
    parts = [example(part) for part in (inner[:1] * 2 if inner[1:] == (...,) else inner)]
    return [word for words, _ in parts for word in words], tuple(value for _, value in parts)


def given(hint: Any, name: str, default: Any) -> tuple[list[str], Any]:
    """The option of a setting: a flag that turns its default, or an example."""
    option = name.replace("_", "-")
    if hint is bool:
        return ([f"--no-{option}"], False) if default is True else ([f"--{option}"], True)
    if holds_systems(hint):
        hint = tuple[str, ...] if get_origin(hint) is tuple else str
    words, value = example(hint)
    return [f"--{option}", *words], value


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_reaches_the_configuration(name: str) -> None:
    words, training, own = [name, "--data", "digits"], {}, {}
    for field in fields(TrainConfig):
        if field.name != "transforms":
            default = variant(name).recipe.get(field.name, field.default)
            option, training[field.name] = given(get_type_hints(TrainConfig)[field.name], field.name, default)
            words += option
    preparation = {"image_size": int | tuple[int, int], "mean": tuple[float, ...], "std": tuple[float, ...]}
    hints = get_type_hints(type(variant(name))) | preparation
    for setting in settable(variant(name)):
        if setting != "preprocess":
            option, own[setting] = given(hints[setting], setting, getattr(variant(name), setting, None))
            words += option
    if not family(name).can("fit"):
        words, own["init"] = [*words, "--init", "zero"], "zero"
    found, options = read(words)
    assert (found, options.training, options.variant) == (name, training, own)


def test_no_setting_means_none() -> None:
    options = read(["detr_nano", "--data", "digits"])[1]
    assert (options.training, options.variant) == ({}, {})


@pytest.mark.parametrize(
    "words",
    [
        ["--no-object", "0.1"],  # the default counts as given
        ["--no-object=0.1"],
        ["--no_object", "0.1"],
    ],
)
def test_a_setting_whose_name_begins_with_no(words: list[str]) -> None:
    assert read(["detr_nano", "--data", "digits", *words])[1].variant == {"no_object": 0.1}


def test_such_a_setting_reaches_the_system(
    fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(name: str, **settings: Any) -> None:
        raise InputError(f"{name} with {settings['no_object']}")

    monkeypatch.setattr("foveal.cli.train.create", create)
    assert "detr_nano with 0.7" in fails("train", "detr_nano", "--data", "scenes", "--no-object", "0.7")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--teacher", "lenet", "linear_softmax"], "linear_softmax"),
        (["linear_softmax", "--teacher", "lenet"], "linear_softmax"),
        (["--flip", "lenet", "--epochs", "3"], "lenet"),
        (["--epochs=3", "lenet"], "lenet"),
        (["--backbone", "resnet50", "faster_rcnn_nano"], "faster_rcnn_nano"),
        (["--milestones", "3", "5", "lenet"], "lenet"),
        (["--members", "lenet", "vgg_nano", "ensemble"], "ensemble"),
    ],
)
def test_where_the_name_stands(words: list[str], name: str) -> None:
    assert read(["--data", "digits", *words])[0] == name


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--teacher", "lenet"], "NAME"),
        (["--teacher", "lenet", "letne"], "unknown system 'letne'; did you mean lenet"),
        (["lenet", "vgg_nano"], "Unrecognized options: vgg_nano"),
        (["--flip", "lenet", "--epochs", "many"], "--epochs"),
        (["faster_rcnn_nano", "--anchors", "16,a"], "--anchors"),
    ],
)
def test_words_that_fit_no_parser(words: list[str], error: str) -> None:
    with pytest.raises(InputError, match=error):
        read(["--data", "digits", *words])
