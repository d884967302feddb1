"""Which images measure a system: those that it was not trained on, as far as that is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveal
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.system import System
from foveal.train.origin import OTHER, measured_view, origin


def folder(root: Path, seed: int, each: int = 20) -> Path:
    """A folder of noise for each of two classes."""
    draw = np.random.default_rng(seed)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8)).save(root / label / f"{number}.png")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder(tmp_path / "data", 0)


def system_of(dataset: Dataset) -> System:
    system = foveal.create("linear_softmax", labels=("a", "b"), image_size=4)
    system.trained_on = origin(dataset)
    return system


def images(view: Dataset) -> set[str]:
    return {Path(view.name(index)).name + view.name(index)[-7] for index in range(len(view))}


def test_the_data_of_the_run_is_measured_on_its_test_split(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = foveal.load_dataset(data)
    system = system_of(whole)
    expected = images(whole.select("test"))
    copy, link = shutil.copytree(data, tmp_path / "copy"), tmp_path / "link"
    link.symlink_to(data, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for source in (data, copy, link, "data", "./copy/../data"):
        view, reason = measured_view(system, foveal.load_dataset(source))
        assert (view.split, len(view)) == ("test", 8)
        assert images(view) == expected
        assert reason == "the test split of the data that the system was trained on"


def test_other_data_is_measured_whole(data: Path, tmp_path: Path) -> None:
    system, other = system_of(foveal.load_dataset(data)), foveal.load_dataset(folder(tmp_path / "other", 1))
    view, reason = measured_view(system, other)
    assert (view.split, len(view)) == ("all", 40)
    assert reason == f"all images: {other.source} is not the data that the system was trained on"
    assert measured_view(system, other, "val").dataset.split == "val"
    system.trained_on = OTHER  # published weights
    assert len(measured_view(system, other).dataset) == 40


def test_a_part_of_the_training_data_is_called_one(data: Path) -> None:
    system = system_of(foveal.load_dataset(data))
    for label in ("a", "b"):
        shutil.copytree(data / label, data / "part" / label)
    (data / "part/a/0.png").unlink()
    view, reason = measured_view(system, foveal.load_dataset(data / "part"))
    assert (len(view), "lies in the data that the system was trained on" in reason) == (39, True)


def test_changed_data_is_called_so(data: Path) -> None:
    system = system_of(foveal.load_dataset(data))
    (data / "a/0.png").unlink()
    view, reason = measured_view(system, foveal.load_dataset(data))
    assert view.split == "test"
    assert "images were added or removed since" in reason


def test_named_splits_decide(data: Path, tmp_path: Path) -> None:
    system = system_of(foveal.load_dataset(data))
    for number, split in enumerate(("train", "val")):
        folder(tmp_path / "named" / split, 5 + number)
    view, reason = measured_view(system, foveal.load_dataset(tmp_path / "named"))
    assert (view.split, len(view)) == ("val", 40)
    assert reason == f"the val split that {tmp_path / 'named'} names"
    # A val split that foveal drew from training images of others is no split of theirs.
    shutil.rmtree(tmp_path / "named/val")
    view, reason = measured_view(system, foveal.load_dataset(tmp_path / "named"))
    assert (view.split, len(view)) == ("all", 40)


def test_a_split_that_was_chosen(data: Path) -> None:
    dataset = foveal.load_dataset(data)
    system = system_of(dataset)
    view, reason = measured_view(system, dataset, "all")
    assert (len(view), reason) == (40, "all images, as chosen; the system was trained on images of these")
    assert measured_view(system, dataset.select("val")).reason == "the val split, as chosen"
    assert len(measured_view(system, dataset.select("all")).dataset) == 40
    with pytest.raises(InputError, match="unknown split 'al'; did you mean val or all"):
        measured_view(system, dataset, "al")


def test_without_a_record_the_drawn_test_split_is_measured(data: Path) -> None:
    dataset = foveal.load_dataset(data)
    view, reason = measured_view(foveal.create("linear_softmax", labels=("a", "b")), dataset)
    assert images(view) == images(dataset.select("test"))
    assert "it is not recorded what the system was trained on" in reason


def test_evaluate_measures_the_same_images(data: Path, tmp_path: Path) -> None:
    system, other = system_of(foveal.load_dataset(data)), foveal.load_dataset(folder(tmp_path / "other", 1))
    assert foveal.evaluate(system, other) == foveal.evaluate(system, other.select("all"))
    assert foveal.evaluate(system, other) != foveal.evaluate(system, other.select("test"))


def test_a_run_from_before_strata_keeps_its_splits(data: Path, tmp_path: Path) -> None:
    dataset, run = foveal.load_dataset(data), tmp_path / "run"
    by_content = dataset.drawn_by("content")
    assert (by_content.splits != dataset.splits).any()
    system = foveal.create("linear_softmax", labels=("a", "b"), image_size=4)
    config = foveal.TrainConfig(epochs=1, out=str(run), quiet=True, report=False, workers=0)
    foveal.train(system, by_content, config)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["split_by"] == "content"
    del record["data"]["split_by"]  # as such a run has it
    (run / "run.json").write_text(json.dumps(record))
    # Its checkpoints say nothing of their data either, so run.json beside them does.
    loaded = foveal.load(run)
    loaded.trained_on = {"source": str(data)}
    assert images(measured_view(loaded, dataset).dataset) == images(by_content.select("test"))
    again = foveal.create("linear_softmax", labels=("a", "b"), image_size=4)
    again = foveal.train(again, dataset, foveal.TrainConfig(**{**vars(config), "resume": True}))
    assert again.record["data"]["splits"] == by_content.split_counts()


def test_a_checkpoint_without_its_data_takes_it_from_the_record(tmp_path: Path, data: Path) -> None:
    from foveal.weights.saved import Checkpoint, trained_on

    checkpoint = Checkpoint(tmp_path / "best.safetensors", {}, {}, {})
    assert trained_on(checkpoint) == {}
    (tmp_path / "run.json").write_text(json.dumps({"data": {"source": str(data)}}))
    assert trained_on(checkpoint) == {"source": str(data)}
    told = {"place": "x", "digest": "y", "split_by": "class"}
    assert trained_on(Checkpoint(checkpoint.path, {"trained_on": told}, {}, {})) == told
    (tmp_path / "run.json").write_text("[]")
    assert trained_on(checkpoint) == {}
