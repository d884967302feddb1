import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from foveal.data.image import read_image
from tests.generate.toys import Means

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"toy": Means(), "classes": Means(tuple("0123456789"))}
    for name, system in made.items():
        system.name = name

    def find(name: str, *_: Any, **__: Any) -> Any:
        return made[name]

    monkeypatch.setattr("foveal.cli.sample.find_system", find)


def test_a_grid(tmp_path: Path, works: Run) -> None:
    out = tmp_path / "new" / "grid.png"
    assert f"written: {out}" in works("sample", "toy", "--count", 5, "--out", out).out
    first = read_image(out)
    works("sample", "toy", "--count", 5, "--out", out)
    assert torch.equal(read_image(out), first)
    works("sample", "toy", "--count", 5, "--out", out, "--seed", 1)
    assert not torch.equal(read_image(out), first)


def test_each_in_a_file(tmp_path: Path, works: Run) -> None:
    out = tmp_path / "made"
    words = ("--count", 2, "--label", "3", "7", "--out", out, "--json")
    document = works("sample", "classes", *words).document()
    assert document["images"] == 4
    assert document["files"] == [str(out / f"000{n}.png") for n in range(4)]
    assert read_image(out / "0003.png").shape == (3, 8, 8)


def test_a_film(tmp_path: Path, works: Run) -> None:
    film = tmp_path / "film.gif"
    works("sample", "toy", "--out", tmp_path / "grid.png", "--trace", film, "--steps", 7)
    with Image.open(film) as shown:
        assert shown.n_frames > 1  # type: ignore[attr-defined]


def test_given_images(tmp_path: Path, works: Run) -> None:
    image = tmp_path / "white.png"
    Image.new("RGB", (20, 30), "white").save(image)
    for show in ("reconstruct", "complete"):
        out = tmp_path / f"{show}.png"
        works("sample", "toy", "--show", show, "--images", image, "--out", out)
        shown = read_image(out)
        assert shown.shape == (3, 72, 140)
        assert (shown[:, 4:68, 4:68] == 255).all()
        assert (shown[:, 40:68, 76:136] < 255).any()
    assert (shown[:, 4:30, 76:136] == 255).all()  # what was known is kept


def test_ways_through_latent_space(tmp_path: Path, works: Run) -> None:
    for value, name in ((0, "black"), (255, "white")):
        Image.new("RGB", (9, 9), (value,) * 3).save(tmp_path / f"{name}.png")
    given = tmp_path / "black.png", tmp_path / "white.png"
    out = tmp_path / "ways.png"
    works("sample", "toy", "--show", "interpolate", "--images", *given, "--out", out)
    row = read_image(out)[:, 4:68, 4:].float()
    assert row.shape[2] == 9 * 68
    assert row[:, :, :64].max() == 0
    assert row[:, :, 8 * 68 : 8 * 68 + 64].min() == 255
    works("sample", "classes", "--show", "interpolate", "--count", 3, "--label", "3", "--out", out)
    assert read_image(out).shape == (3, 3 * 68 + 4, 9 * 68 + 4)
    works("sample", "toy", "--show", "traverse", "--out", out)
    assert read_image(out).shape == (3, 2 * 68 + 4, 9 * 68 + 4)


def test_an_attribute_is_added(tmp_path: Path, works: Run) -> None:
    """Brightness: from black to white half of it is to be added to grey, or taken from it."""
    for name, value in (("black", 0), ("grey", 128), ("white", 255)):
        Image.new("RGB", (9, 9), (value,) * 3).save(tmp_path / f"{name}.png")
    black, grey, white = (tmp_path / f"{name}.png" for name in ("black", "grey", "white"))
    out = tmp_path / "edited.png"
    works("sample", "toy", "--show", "edit", "--images", grey, "--having", white, "--lacking", black, "--out", out)
    row = read_image(out)[0, 4:68, 4:].float()
    brightness = [float(row[:, 68 * column : 68 * column + 64].mean()) for column in range(5)]
    assert brightness == pytest.approx([0, 0, 128, 255, 255], abs=2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("toy", "--count", 0), "count must be at least 1, not 0"),
        (("toy", "--guidance", 2), "guidance has no effect: toy has no such choice when it makes images"),
        (("toy", "--label", "3"), "toy cannot be asked for a class: it was not trained with conditional"),
        (("classes", "--label", "33"), "unknown class '33'"),
        (("toy", "--trace", "film.png"), "trace must be a file whose name ends in .gif"),
        (("toy", "--out", "grid.txt"), "the name must end in"),
        (("toy", "--images", "x.png"), "images have no effect without --show"),
        (("toy", "--show", "complete"), "show complete needs --images"),
        (("toy", "--show", "complete", "--images", "none.png"), "none.png"),
        (("toy", "--show", "traverse", "--images", "x.png"), "images have no effect with --show traverse"),
        (("toy", "--show", "traverse", "--steps", 3), "steps has no effect"),
        (("toy", "--show", "edit", "--images", "x.png"), "show edit needs --images, and --having and --lacking"),
        (("toy", "--having", "x.png"), "having has no effect without --show edit"),
        (("classes", "--show", "interpolate", "--label", "3", "4"), "show interpolate is of one class, not of 2"),
        (("classes", "--show", "reconstruct", "--label", "3", "--images", "x.png"), "label has no effect with --show"),
    ],
)
def test_bad_words(
    tmp_path: Path, fails: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert text in fails("sample", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("same", ["name", "link", "hard link", "trace", "folder"])
def test_no_input_is_replaced(tmp_path: Path, fails: Callable[..., str], same: str) -> None:
    image, out = tmp_path / "in" / "white.png", tmp_path / "out.png"
    image.parent.mkdir()
    Image.new("RGB", (20, 30), "white").save(image)
    before = image.read_bytes()
    words: tuple[object, ...] = ("--out", out)
    match same:
        case "name":
            words = ("--out", image)
        case "link":
            out.symlink_to(image)
        case "hard link":
            os.link(image, out)
        case "trace":
            words = ("--out", tmp_path / "grid.png", "--trace", image.rename(image.with_suffix(".gif")))
            image = image.with_suffix(".gif")
        case "folder":
            words = ("--out", image.parent)
    line = fails("sample", "toy", "--show", "complete", "--images", image, *words)
    assert "not overwritten: write to" in line
    assert image.read_bytes() == before
    assert not out.exists() or out.samefile(image)
