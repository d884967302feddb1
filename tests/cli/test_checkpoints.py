"""Files that are offered as checkpoints and are none."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal.train import checkpoint
from tests.cli.conftest import Answer
from tests.toys import Captioner, Detector


class Payload:
    """A pickle of this, when it is opened, makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def write_pickle(path: Path, marker: Path, kind: str) -> Path:
    content = {"state_dict": {"weight": torch.zeros(2)}, "more": Payload(marker)}
    if kind == "torch":
        torch.save(content, path)
    elif kind == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(kind)))
    return path


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *itertools.product(["torch", "old torch", "0", "1", "2", "4", "5"], [".safetensors", ".pt"]),
    ],
)
def test_a_pickle_is_never_opened(
    fails: Callable[..., str], shared_images: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    marker, image = tmp_path / "executed", shared_images / "one/1.png"
    path = write_pickle(tmp_path / f"evil{suffix}", marker, kind)
    for words in (
        ("predict", path, image),
        ("evaluate", path, "--data", shared_images),
        ("cost", path),
        ("predict", "lenet", image, "--weights", path),
        ("train", "lenet", "--data", shared_images, "--weights", path, "--out", tmp_path / "run"),
    ):
        assert str(path) in fails(*words)
        assert not marker.exists(), words
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()  # so it would have been seen


def test_a_pickle_in_a_run(fails: Callable[..., str], shared_images: Path, run: Path, tmp_path: Path) -> None:
    words = ("--epochs", "4", "--batch-size", "8", "--plan", "eager", "--data", shared_images, "--out", run, "--resume")
    for which in ("best", "last"):
        write_pickle(run / f"{which}.safetensors", tmp_path / "executed", "2")
    assert f"{run / 'best.safetensors'} is a pickle" in fails("predict", run, shared_images / "one/1.png")
    assert f"{run / 'last.safetensors'} is a pickle" in fails("train", "lenet", *words)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_checkpoint(fails: Callable[..., str], shared_images: Path, run: Path, share: float) -> None:
    best = run / "best.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[: int(share * len(whole))])
    image = shared_images / "one/1.png"
    for words in (
        ("predict", run, image),
        ("evaluate", best, "--data", shared_images),
        ("predict", "lenet", image, "--weights", best),
    ):
        line = fails(*words)
        assert str(best) in line
        assert "truncated" in line


def test_the_other_checkpoint_still_serves(works: Callable[..., Answer], shared_images: Path, run: Path) -> None:
    (run / "best.safetensors").unlink()
    works("predict", run, shared_images / "one/1.png")


def test_a_folder_that_is_no_run(fails: Callable[..., str], shared_images: Path, tmp_path: Path) -> None:
    line = fails("predict", shared_images, shared_images / "one/1.png")
    assert f"{shared_images} has no best.safetensors or last.safetensors" in line


def test_an_image_as_a_checkpoint(fails: Callable[..., str], shared_images: Path) -> None:
    image = shared_images / "one/1.png"
    assert f"{image} is not a whole safetensors file" in fails("predict", image, image)


@pytest.mark.parametrize("toy", [Detector, Captioner])
def test_a_checkpoint_of_another_task(
    fails: Callable[..., str], shared_images: Path, tmp_path: Path, toy: type
) -> None:
    system, path = toy(), tmp_path / "toy.safetensors"
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    assert str(path) in fails("predict", path, shared_images / "one/1.png")
    assert str(path) in fails("evaluate", path, "--data", shared_images)
    loaded = foveal.load(path, system=toy())
    with pytest.raises(
        foveal.InputError, match=f"{toy.__name__} is a system to {toy.task}, but .* is data to classify"
    ):
        foveal.evaluate(loaded, foveal.load_dataset(shared_images))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (None, "is not a checkpoint of foveal"),
        ("{}", "header"),
        ("not JSON", "header"),
        ('{"format": 1, "foveal": "0.1.0", "epoch": 3}', "holds no system"),
        ('{"format": 99, "foveal": "9.9"}', "written by a newer foveal (9.9)"),
    ],
)
def test_another_safetensors_file(
    fails: Callable[..., str], shared_images: Path, tmp_path: Path, header: str | None, told: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path, None if header is None else {"foveal": header})
    line = fails("predict", path, shared_images / "one/1.png")
    assert str(path) in line
    assert told in line


def test_a_checkpoint_of_another_system(
    fails: Callable[..., str], shared_images: Path, run: Path, tmp_path: Path
) -> None:
    best = run / "best.safetensors"
    line = fails("predict", "linear_softmax", shared_images / "one/1.png", "--weights", best)
    assert f"{best}" in line
    assert "does not fit linear_softmax" in line
    saved = checkpoint.read(best)
    for change, told in (
        ({"name": "lenet2030"}, "unknown system 'lenet2030'"),
        ({"name": "resnet_nano"}, "does not fit ResNet"),
        ({"labels": ["one", "two"]}, "does not fit LeNet"),
        ({"variant": {"bogus": 1}}, "no setting 'bogus'"),
    ):
        checkpoint.save(best, {**saved.header, **change}, saved.weights)
        assert told in fails("predict", run, shared_images / "one/1.png")


def test_weights_of_a_run_start_another(works: Callable[..., Answer], shared_images: Path, run: Path) -> None:
    best, out = run / "best.safetensors", run.parent / "tuned"
    words = ("--epochs", "1", "--lr", "1e-9", "--plan", "eager", "--quiet", "--json")
    answer = works("train", "lenet", "--data", shared_images, "--weights", best, "--out", out, *words)
    before = json.loads((run / "run.json").read_text())["result"]
    assert answer.document()["metrics"] == pytest.approx(before, rel=1e-4)
