"""YOLO's text files as a data set."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.data.sources import load_dataset, survey
from tests.data.annotated import picture
from tests.data.test_coco import objects, refused

SPLITS = ("train", "val")


def make(root: Path, yaml: str | None = "names: [cat, dog]\ntrain: images/train\nval: images/val\n") -> Path:
    """Three images a split, 40 x 30 pixels; the first of each has a box and a triangle, the last no file of labels."""
    for split in SPLITS:
        for n in range(3):
            picture(root / "images" / split / f"{split}{n}.jpg")
        labels = root / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{split}0.txt").write_text("1 0.5 0.5 0.25 0.2\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
        (labels / f"{split}1.txt").write_text("")
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [cat, dog]\ntrain: images/train\nval: images/val\nnc: 2\n",
        "# a\npath: .  # b\ntrain: images/train\nval:\n  - images/val\ntest:\nnames:\n  0: 'cat'\n  1: dog # two\n",
        'names:\n- cat\n- "dog"\ntrain: ../images/train\nval: ../images/val\nroboflow:\n  workspace: x\n',
        "names: {0: cat, 1: dog}\n",
        "path: ../datasets/ours\ntrain: images/train\nval: images/val\nnames: ['cat', \"dog\"]\ndownload: |\n  x y\n",
    ],
)
def test_a_folder(tmp_path: Path, yaml: str) -> None:
    make(tmp_path, yaml)
    dataset = load_dataset(tmp_path)
    assert (dataset.task, dataset.labels) == ("detect", ("cat", "dog"))
    assert dataset.split_counts() == {"train": 3, "val": 3}
    found = objects(dataset)
    (first, box), (second, triangle) = found["train0.jpg"]
    assert (first, second) == ("dog", "cat")
    assert box == pytest.approx([15, 12, 25, 18])
    assert triangle == pytest.approx([4, 6, 12, 18])
    assert found["val1.jpg"] == found["val2.jpg"] == []
    assert objects(load_dataset(tmp_path / "data.yaml")) == found


def test_names_in_a_text_file(tmp_path: Path) -> None:
    (make(tmp_path, None) / "classes.txt").write_text("cat\ndog\n")
    assert load_dataset(tmp_path).class_counts() == {"cat": 2, "dog": 2}


def test_labels_beside_images_in_one_folder(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.jpg")
        (tmp_path / f"{n}.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.class_counts() == {"cat": 6}
    assert set(dataset.split_counts()) == {"train", "val", "test"}


def test_polygons_are_masks(tmp_path: Path) -> None:
    (make(tmp_path) / "labels" / "train" / "train0.txt").write_text("0 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6\n")
    (tmp_path / "labels" / "val" / "val0.txt").write_text("")
    table: Any = load_dataset(tmp_path).targets
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[6:18, 10:20] = True
    assert torch.equal(table.with_masks()[0].masks[0], mask)


def test_shares_are_of_the_image_as_the_eye_sees_it(tmp_path: Path) -> None:
    picture(make(tmp_path) / "images" / "train" / "train0.jpg", turned=True)
    assert objects(load_dataset(tmp_path))["train0.jpg"][0][1] == pytest.approx([11.25, 16, 18.75, 24])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", ["class 2 is none of the 2, 0 to 1", "one too high, as if counted from 1"]),
        ("7 0.5 0.5 0.1 0.1", ["class 7 is none of the 2"]),
        ("-1 0.5 0.5 0.1 0.1", ["class -1 is none of the 2"]),
        ("0.5 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("nan 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("inf 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("cat 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("0 0.5 0.5 0.1", ["neither class x y"]),
        ("0 0.5 0.5 0.1 0.1 0.9", ["neither class x y"]),
        ("0 nan 0.5 0.1 0.1", ["not shares"]),
        ("0 250 130 40 40", ["not shares"]),
        ("0 0.5 0.5 -0.1 0.1", ["ends before it begins"]),
    ],
)
def test_what_cannot_be_understood(tmp_path: Path, line: str, words: list[str]) -> None:
    file = make(tmp_path) / "labels" / "train" / "train1.txt"
    file.write_text(f"0 0.5 0.5 1 1\n{line}\n")
    refused(tmp_path, f"{file}, line 2", *words)
    dataset, complaints = survey(tmp_path)
    assert dataset is not None
    assert complaints.collected
    assert len(objects(dataset)["train1.jpg"]) == 1


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [cat, dog]\nnc: 3\n", ["nc is 3, but there are 2 names"]),
        ("names: [cat, cat]\n", ["two alike"]),
        ("names: []\n", ["names no class"]),
        ("names: cat\n", ["names is not a list"]),
        ("names:\n  0: cat\n  2: dog\n", ["not numbered 0, 1, 2"]),
        ("names:\n  0: cat\n  0: dog\n", ["line 3", "cannot stand below names"]),
        ("names:\n  - cat\n  1: dog\n", ["line 3", "cannot stand below names"]),
        ("names: &a [cat, dog]\n", ["line 1", "not read here"]),
        ("names: [cat, dog]\ntrain: |\n", ["line 2", "not read here"]),
        ("names: [cat, dog]\nnames: [cat, dog]\n", ["line 2", "twice"]),
        ("names: [cat, dog]\ntrain\n", ["line 2", "key: value"]),
        ("names: [cat, dog]\ntrain: nowhere\n", ["train is at nowhere"]),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, yaml: str, words: list[str]) -> None:
    refused(make(tmp_path, yaml), "data.yaml", *words)


def test_folders_that_are_unclear(tmp_path: Path) -> None:
    make(tmp_path, None)
    refused(tmp_path, "does not name its classes", "classes.txt")
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("names: [cat, dog]\n")
    refused(tmp_path, "several files with names of classes, one.yaml and two.yaml")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "two.yaml").unlink()
    (tmp_path / "annotations" / "a.json").write_text('{"images": [], "annotations": []}')
    refused(tmp_path, "annotations of COCO and of YOLO")


def test_lists_of_images(tmp_path: Path) -> None:
    make(tmp_path, "names: [cat, dog]\ntrain: train.txt\nval: images/val\n")
    (tmp_path / "train.txt").write_text("images/train/train0.jpg\n./images/train/train1.jpg\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 2, "val": 3}
    (tmp_path / "train.txt").write_text("images/train/gone.jpg\nimages/train/train1.jpg\nimages/train/train0.jpg\n")
    refused(tmp_path, "there is no", "gone.jpg", "train.txt")
