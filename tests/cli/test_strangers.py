"""Files from strangers and outputs beside inputs, through the command line: one line, exit code 2, nothing changed."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer
from tests.cli.test_train import QUICK

Fails = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(print))


def damaged(path: Path) -> None:
    path.write_bytes(b"\xff" * 7 + b"\x7f{" + b"\0" * 100)


@pytest.mark.parametrize("write", [pickled, damaged])
@pytest.mark.parametrize("flag", ["--teacher", "--members", "--features", "--weights", "--judge", "--resume"])
def test_hostile_files(
    flag: str, write: Callable[[Path], None], fails: Fails, run: Path, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stranger.safetensors"
    data = ("--data", images, *QUICK)
    words = {
        "--teacher": ("train", "lenet", *data, "--teacher", path, "--out", tmp_path / "new"),
        "--members": ("train", "ensemble", *data, "--members", path, path, "--out", tmp_path / "new"),
        "--features": ("train", "knn", *data, "--features", path, "--out", tmp_path / "new"),
        "--weights": ("train", "lenet", *data, "--weights", path, "--out", tmp_path / "new"),
        "--judge": ("evaluate", run, "--data", images, "--judge", path),
        "--resume": ("train", "lenet", *data, "--epochs", 9, "--out", run, "--resume"),
    }[flag]
    write(path)
    if flag == "--resume":
        path = run / "run.json"
        write(path)
    before = contents(tmp_path)
    assert path.name in fails(*words)
    assert contents(tmp_path) == before


def test_outputs_do_not_replace_inputs(fails: Fails, run: Path, images: Path, tmp_path: Path) -> None:
    folder = images / "zero"
    image = next(folder.glob("*.png"))
    before = contents(tmp_path)
    for words in (
        ("predict", run, folder, "--out", folder),
        ("predict", run, image, "--out", folder),
        ("evaluate", run, "--data", images, "--out", images),
        ("evaluate", run, "--data", images, "--out", folder),
        ("explain", run, image, "--out", image),
    ):
        fails(*words)
        assert contents(tmp_path) == before
    link = tmp_path / "link.png"
    link.symlink_to(image)
    fails("explain", run, image, "--out", link)
    fails("explain", run, link, "--out", image)
    assert contents(images) == {
        name.removeprefix("images/"): data for name, data in before.items() if "images/" in name
    }


def test_links_out_of_the_data_folder(
    fails: Fails, call: Callable[..., Answer], works: Callable[..., Answer], run: Path, images: Path, tmp_path: Path
) -> None:
    image = next((images / "zero").glob("*.png"))
    shutil.move(image, tmp_path / "secret.png")
    image.symlink_to(tmp_path / "secret.png")
    for words in (
        ("evaluate", run, "--data", images),
        ("train", "lenet", "--data", images, *QUICK, "--out", tmp_path / "new"),
    ):
        assert "--outside" in fails(*words)
    assert not (tmp_path / "new").exists()
    works("evaluate", run, "--data", images, "--outside")
    answer = call("check", images)
    assert answer.code == 2
    assert "--outside" in answer.out
    works("check", images, "--outside")
