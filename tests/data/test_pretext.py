from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.pretext import TURNS, rotations
from foveal.data.sources import load_dataset
from foveal.train.config import TrainConfig
from tests.data.test_dataset import make
from tests.toys import small_digits, unlabelled


def pictures(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def test_each_image_in_four_turns() -> None:
    data = small_digits()
    turns = rotations(data)
    assert turns.labels == TURNS
    assert len(turns) == 4 * len(data)
    assert turns.in_memory
    for index in (0, 7):
        for quarters in range(4):
            image, target = turns[4 * index + quarters]
            assert int(target.label) == quarters  # type: ignore[union-attr]
            assert torch.equal(image, torch.rot90(data.image(index), quarters, (1, 2)))
    assert turns.split_counts() == {split: 4 * count for split, count in data.split_counts().items()}
    assert torch.equal(rotations(data.select("val")).image(5), rotations(data).select("val").image(5))


def test_turns_stay_in_the_split_of_their_image() -> None:
    turns = rotations(make([0, 1, 2], [0, 1, 2]))
    assert [turns.name(i) for i in turns.select("val").items] == [f"made turned/{i}" for i in range(4, 8)]  # type: ignore


def test_a_folder_of_nothing_but_images(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos")
    data = load_dataset(folder, "generate")
    assert (data.task, data.labels, len(data)) == ("generate", (), 12)
    assert set(data.split_counts()) == {"train", "val", "test"}
    turns = rotations(data)
    assert turns.image(0).shape == (3, 6, 8)
    assert turns.image(1).shape == (3, 8, 6)
    assert turns.name(1) == f"{folder}/0.png turned by 90 degrees"
    assert len({turns.content(i) for i in range(8)}) == 8
    assert not turns.in_memory


def test_nothing_else_turns_or_mirrors(tmp_path: Path) -> None:
    system = foveal.create("resnet_nano", labels=TURNS)
    for setting in ("flip", "trivial_augment"):
        with pytest.raises(foveal.InputError, match=r"digits\+rotation are others when images are mirrored or turned"):
            foveal.train(
                system, rotations(small_digits()), TrainConfig(out=str(tmp_path / "run"), quiet=True, **{setting: True})
            )


def test_what_was_learned_starts_another_network(tmp_path: Path) -> None:
    turns = rotations(unlabelled(small_digits()))
    torch.manual_seed(0)
    pretext = foveal.create("resnet_nano", labels=turns.labels)
    run = foveal.train(pretext, turns, TrainConfig(epochs=4, out=str(tmp_path / "pretext"), quiet=True))
    assert run.record["result"]["accuracy"] > 0.4  # by guessing 0.25
    system = foveal.create("resnet_nano", labels=small_digits().labels, weights=run.directory)
    assert system.started_from == "best.safetensors, its head anew: 0 of 10 classes are known to it"
    own, learned = system.state_dict(), pretext.state_dict()
    assert all(torch.equal(own[name], learned[name]) for name in own if not name.startswith("classifier"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foveal.cli import main

    words = ["--epochs", "1", "--plan", "eager", "--workers", "0", "--quiet", "--image-size", "8"]
    photos, run = str(pictures(tmp_path / "photos", 40)), str(tmp_path / "run")
    assert main(["train", "resnet20_cifar", "--data", photos, "--pretext", "rotation", "--out", run, *words]) == 0
    assert foveal.load(run).labels == TURNS
    assert not foveal.load(run).training
    capsys.readouterr()
    assert main(["train", "resnet20_cifar", "--data", photos, "--out", run + "2", *words]) == 2
    assert "images belong in one folder for each class" in capsys.readouterr().err
