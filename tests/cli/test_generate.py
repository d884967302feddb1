"""Odd images and odd wishes for systems that make images, from the command line on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.data.image import read_image
from tests.cli.conftest import write_digits

Run = Callable[..., Any]
SHORT = ("--epochs", 1, "--quiet")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of classes whose images have several sizes and kinds of pixels."""
    root = write_digits(tmp_path / "mixed", 6)
    folder = next(root.rglob("*.png")).parent
    for mode, size in (("L", (17, 31)), ("RGBA", (9, 40)), ("P", (50, 50)), ("1", (3, 3))):
        Image.new(mode, size, 1).save(folder / f"odd_{mode}.png")
    Image.new("CMYK", (20, 20)).save(folder / "odd.jpg")
    return root


def test_images_of_several_kinds(tmp_path: Path, mixed: Path, works: Run, fails: Run) -> None:
    run = tmp_path / "run"
    words = ("train", "ddpm_nano", "--data", mixed, "--out", run, "--timesteps", 9)
    works(*words, *SHORT)
    out = tmp_path / "made.png"
    works("sample", run, "--count", 2, "--steps", 2, "--out", out)
    assert read_image(out).float().std() > 0
    before = (run / "last.safetensors").read_bytes()
    for wish, told in (
        (("sample", run, "--guidance", 2, "--out", out), "cannot be guided: it was not trained with conditional"),
        (("sample", run, "--steps", 9999, "--out", out), "steps must be 1 to 9"),
        (("sample", run, "--steps", 0, "--out", out), "steps must be 1 to 9"),
        (
            (*words, *SHORT, "--resume", "--image-size", 16),
            "cannot go on with image_size [16, 16]: it runs with [8, 8]",
        ),
    ):
        assert told in fails(*wish)
    assert (run / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["ddpm_nano --timesteps 9", "gan_nano", "pixelcnn_nano", "vae_fc_nano"])
def test_images_of_one_colour(tmp_path: Path, works: Run, name: str) -> None:
    folder, run = tmp_path / "plain", tmp_path / "run"
    folder.mkdir()
    for shade in range(0, 256, 8):
        Image.new("RGB", (8, 8), (shade,) * 3).save(folder / f"{shade}.png")
    works("train", *name.split(), "--data", folder, "--out", run, *SHORT)
    figures = works("evaluate", run, "--data", folder, "--json").document()
    assert all(abs(value) < 1e6 for value in figures.values() if isinstance(value, float))


def test_classes_that_are_not_there(tmp_path: Path, fails: Run) -> None:
    folder = tmp_path / "unsorted"
    folder.mkdir()
    for shade in range(0, 256, 16):
        Image.new("L", (8, 8), shade).save(folder / f"{shade}.png")
    told = fails("train", "ddpm_nano", "--data", folder, "--conditional", "--out", tmp_path / "run", *SHORT)
    assert f"{folder} has no class for each image" in told
    (tmp_path / "empty").mkdir()
    told = fails("train", "ddpm_nano", "--data", tmp_path / "empty", "--out", tmp_path / "run", *SHORT)
    assert f"{tmp_path / 'empty'} has no images in it" in told
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(tmp_path: Path, mixed: Path, call: Run) -> None:
    run = tmp_path / "run"
    answer = call("train", "gan_nano", "--data", mixed, "--lr", 1e30, "--batch-size", 4, "--out", run, *SHORT)
    assert answer.code == 2
    assert "the loss of the generator is nan" in answer.err
    assert (run / "nonfinite.safetensors").exists()
    assert (run / "last.safetensors").exists()
