"""Names of classes in pictures, in any script."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.report import letters
from foveal.report.boxes import draw_objects, marks
from foveal.report.letters import default_font, drawn, font_of
from foveal.structures import Label, Objects
from foveal.tasks.label import Labels
from foveal.tasks.objects import Found
from tests.toys import Looker

ONE = Objects(torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([1]), torch.tensor([0.9]))


@pytest.fixture(autouse=True)
def fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the system there are none, whichever machine this is."""
    monkeypatch.setattr(letters, "_system_fonts", list)
    font_of.cache_clear()
    yield
    font_of.cache_clear()


def test_alphabets_are_drawn_and_the_rest_is_numbered() -> None:
    for name in ("cat", "Käse", "собака", "γάτα", "a\u0301", "x\ny"):
        assert drawn(name, 6) == name
    for name in ("猫", "고양이", "बिल्ली", "cat 猫", "\U0001f408"):
        assert drawn(name, 6) == "class 7"


def test_scripts_that_have_to_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, shown in ((True, "قطة"), (False, "class 1")):
        monkeypatch.setattr(letters.features, "check", lambda name, has=has: has)
        font_of.cache_clear()
        assert drawn("قطة", 0) == shown


def test_a_font_of_the_system_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(default_font(), tmp_path / "other.ttf")
    (tmp_path / "none.ttf").write_bytes(b"no font")
    has = letters._letters
    monkeypatch.setattr(letters, "_system_fonts", lambda: [tmp_path / "none.ttf", tmp_path / "other.ttf"])
    more = lambda path: has(path) | ({ord("猫")} if path.name == "other.ttf" else set())  # noqa: E731
    monkeypatch.setattr(letters, "_letters", more)
    assert font_of("cat") == default_font()
    assert font_of("cat 猫") == tmp_path / "other.ttf"
    assert font_of("犬") is None


def test_pictures_show_numbers_and_a_file_names_them(tmp_path: Path) -> None:
    labels = ("dog", "猫")
    assert [mark.text for mark in marks(ONE, labels)] == ["class 2 0.90"]
    image = torch.zeros(3, 32, 32)
    assert torch.equal(draw_objects(image, ONE, labels), draw_objects(image, ONE, ("dog", "class 2")))
    system: Any = Looker(labels=labels)
    found = Found(system, tmp_path / "objects", None)
    entry = found.take("x.png", image, ONE)
    found.save({})
    assert entry["objects"][0]["label"] == "猫"
    classes = Labels(system, tmp_path / "labels", None)
    rows = [classes.take("x.png", image, Label(torch.tensor(1), torch.tensor([0.1, 0.9])))]
    classes.save({"predictions": rows})
    for folder in ("objects", "labels"):
        assert (tmp_path / folder / "classes.txt").read_text("utf-8") == "class 2\t猫\n"
    plain = Found(Looker(), tmp_path / "plain", None)
    plain.take("x.png", image, ONE)
    plain.save({})
    assert not (tmp_path / "plain/classes.txt").exists()
