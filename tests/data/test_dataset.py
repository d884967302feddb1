"""Views of a data set, and where its pixels come from."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.builtin import digits
from foveal.data.dataset import Dataset, ImageArray, ImageFiles, LabelColumn
from foveal.data.image import ImageError
from foveal.errors import InputError
from foveal.structures import Label

LABELS = ("cat", "dog", "owl")


def make(splits: list[int], classes: list[int]) -> Dataset:
    """One image of two pixels for each entry; image i has the value i."""
    images = ImageArray([torch.full((3, 1, 2), i, dtype=torch.uint8) for i in range(len(classes))], "made")
    return Dataset("made", "classify", LABELS, images, LabelColumn(classes), np.array(splits, np.int8))


@pytest.fixture
def dataset() -> Dataset:
    return make([0, 1, 0, 2, 0, 2], [0, 1, 2, 0, 0, 1])


def values(dataset: Dataset) -> list[int]:
    return [int(dataset.image(i)[0, 0, 0]) for i in range(len(dataset))]


def classes(dataset: Dataset) -> list[str]:
    return [dataset.labels[int(dataset.target(i).label)] for i in range(len(dataset))]  # type: ignore[union-attr]


def test_the_whole_and_its_splits(dataset: Dataset) -> None:
    assert len(dataset) == 6
    assert values(dataset) == [0, 1, 2, 3, 4, 5]
    assert dataset.split_counts() == {"train": 3, "val": 1, "test": 2}
    train, test = dataset.select("train"), dataset.select("test")
    assert values(train) == [0, 2, 4]
    assert classes(train) == ["cat", "owl", "cat"]
    assert values(test) == [3, 5]
    assert classes(test) == ["cat", "dog"]
    assert [test.name(i) for i in range(2)] == ["made/3", "made/5"]
    image, target = test[1]
    assert int(image[0, 0, 0]) == 5
    assert int(target.label) == 1  # type: ignore[union-attr]
    assert test.split_counts() == {"test": 2}
    assert values(test.select("test")) == [3, 5]


def test_select_says_what_there_is(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="did you mean test"):
        dataset.select("tests")
    with pytest.raises(InputError, match=r"the test split, which has no split 'train'"):
        dataset.select("test").select("train")
    with pytest.raises(InputError, match=r"no images in split 'val'; it has train, test"):
        make([0, 2], [0, 1]).select("val")


@pytest.mark.parametrize(
    ("splits", "chosen"), [([0, 1, 2], "test"), ([0, 1, 1], "val"), ([0, 0, 0], None), ([2, 2, 2], "test")]
)
def test_evaluation_split(splits: list[int], chosen: str | None) -> None:
    view = make(splits, [0, 1, 2]).evaluation_split()
    assert view.split == chosen
    assert len(view) == (splits.count(("train", "val", "test").index(chosen)) if chosen else 3)


def test_evaluation_split_keeps_a_chosen_one(dataset: Dataset) -> None:
    assert dataset.select("train").evaluation_split().split == "train"


@pytest.mark.parametrize("index", [-1, 2, 6])
def test_index_out_of_a_view(dataset: Dataset, index: int) -> None:
    with pytest.raises(IndexError):
        dataset.select("test").image(index)


def test_class_counts(dataset: Dataset) -> None:
    assert dataset.class_counts() == {"cat": 3, "dog": 2, "owl": 1}
    assert dataset.select("test").class_counts() == {"cat": 1, "dog": 1, "owl": 0}


def test_class_counts_need_classes(dataset: Dataset) -> None:
    bare = Dataset("bare", "generate", (), dataset.images, None, dataset.splits)
    assert bare.target(0) is None
    with pytest.raises(InputError, match="bare has no classes that could be counted"):
        bare.class_counts()


def test_relabel_keeps_names(dataset: Dataset) -> None:
    order = ("owl", "bee", "dog", "cat")
    changed = dataset.relabel(order)
    assert changed.labels == order
    assert classes(changed) == classes(dataset)
    assert changed.class_counts() == {"owl": 1, "bee": 0, "dog": 2, "cat": 3}
    assert classes(changed.select("train")) == classes(dataset.select("train"))
    assert changed.select("test").class_counts() == {"owl": 0, "bee": 0, "dog": 1, "cat": 1}


def test_relabel_twice(dataset: Dataset) -> None:
    # A cycle of three: taking the two maps in the wrong order would not give the names back.
    twice = dataset.relabel(("dog", "owl", "cat")).relabel(("bee", "dog", "cat", "owl"))
    assert classes(twice) == classes(dataset)
    assert classes(twice.relabel(("cat", "dog", "owl", "bee"))) == classes(dataset)


def test_relabel_names_what_is_unknown(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="made has a class that the system does not know: owl; it knows dog, cat"):
        dataset.relabel(("dog", "cat"))
    with pytest.raises(InputError, match="classes that the system does not know: cat, dog, owl"):
        dataset.relabel(("x",))


def test_relabel_passes_over_classes_that_nothing_is_of(dataset: Dataset) -> None:
    without = [index for index in range(len(dataset)) if classes(dataset)[index] != "owl"]
    view = replace(dataset, items=np.array(without))
    changed = view.relabel(("bee", "dog", "cat"))
    assert classes(changed) == classes(view)
    assert changed.class_counts()["bee"] == 0
    assert sum(changed.class_counts().values()) == len(without)
    with pytest.raises(InputError, match="does not know: cat"):
        view.relabel(("dog",))


def test_files_are_read_by_path(tmp_path: Path) -> None:
    names = ["a/1.png", "b/größe ü.png", "b/" + os.fsdecode(b"caf\xe9.png")]
    for value, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 1), (value, 9, 9)).save(tmp_path / name)
    images = pickle.loads(pickle.dumps(ImageFiles(tmp_path, names)))  # as it goes to a worker process
    assert len(images) == 3
    assert [images.name(i) for i in range(3)] == [str(tmp_path / name) for name in names]
    assert [images[i][0, 0, 0].item() for i in range(3)] == [0, 1, 2]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        ImageFiles(tmp_path, ["gone.png"])[0]


@pytest.mark.parametrize("place", [0, 7, 25_000, 50_000, 99_999])
def test_content_tells_large_files_apart(tmp_path: Path, place: int) -> None:
    data = bytearray(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "copy").write_bytes(data)
    data[place] ^= 1
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "longer").write_bytes(data + b"\0")
    images = ImageFiles(tmp_path, ["a", "copy", "b", "longer"])
    assert images.content(0) == images.content(1)
    # A flip at a quarter lies outside the three parts that are read: such twins count as copies.
    assert (images.content(0) == images.content(2)) == (place == 25_000)
    assert images.content(2) != images.content(3)


def test_in_memory(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.in_memory
    files = ImageFiles(tmp_path, ["x.png"])
    assert not Dataset("f", "classify", LABELS, files, LabelColumn([0]), np.zeros(1, np.int8)).in_memory


def test_label_column() -> None:
    column = LabelColumn([3, 1])
    assert len(column) == 2
    assert isinstance(column[0], Label)
    assert column[0].label.dtype == torch.int64
    assert [int(label.label) for label in column] == [3, 1]


def test_digits() -> None:
    dataset = digits()
    assert len(dataset) == 1797
    assert dataset.labels == tuple("0123456789")
    assert dataset.image(0).shape == (3, 8, 8)
    assert dataset.image(0).dtype == torch.uint8
    assert (int(dataset.images.images.min()), int(dataset.images.images.max())) == (0, 255)  # type: ignore[attr-defined]
    assert list(dataset.class_counts().values()) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The split is part of every figure that is reported on this set.
    assert dataset.split_counts() == {"train": 1257, "val": 182, "test": 358}


def test_a_system_without_class_names_keeps_its_targets(dataset: Dataset) -> None:
    assert classes(dataset.relabel(())) == classes(dataset)
    assert dataset.relabel(()).labels == dataset.labels
    images_alone = dataset.serving("generate").relabel(())
    assert (images_alone.targets, images_alone.labels) == (None, ())
