"""docs/parts.md tells of files, names and settings that exist."""

import re
from dataclasses import fields
from pathlib import Path

import foveal
from foveal.catalog import settable, variant
from foveal.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "parts.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and "`" in line
]


def test_every_part_has_a_test() -> None:
    assert len(ROWS) > 40
    for part, _, _, test in ROWS:
        path, name = re.fullmatch(r"`(tests/[\w/]+\.py):(test_\w+)`", test).groups()  # type: ignore[union-attr]
        assert f"\ndef {name}(" in (ROOT / path).read_text("utf-8"), f"{part}: there is no {name} in {path}"


def test_every_part_is_where_it_is_said_to_be() -> None:
    systems = [variant(name) for name in ("resnet_nano", "lenet")]
    known = {field.name for field in fields(TrainConfig)} | {"weights", "init"}
    known |= {setting for spec in systems for setting in settable(spec)}
    for part, _, where, _ in ROWS:
        found = re.findall(r"`([^`]+)`", where)
        assert found or where == "torch", part
        for place in found:
            if place.startswith("--"):
                assert place.split()[0].removeprefix("--").replace("-", "_") in known, f"{part}: {place}"
            else:
                path, _, name = place.partition(":")
                definition = rf"^\s*(def|class) {name}\b|^\s*{name}\b.*[:=]"
                text = (ROOT / path).read_text("utf-8")
                assert re.search(definition, text, re.MULTILINE), f"{part}: there is no {name} in {path}"


def test_the_values_of_the_settings_exist() -> None:
    for value in re.findall(r"`--criterion (\w+)`", str(ROWS)):
        foveal.create("lenet", criterion=value)
    for value in re.findall(r"`--init (\w+)`", str(ROWS)):
        foveal.create("lenet", init=value)
