"""Pascal VOC's files as a data set."""

from pathlib import Path
from typing import Any

import pytest

from foveal.data.sources import load_dataset, survey
from foveal.errors import InputError
from tests.data.annotated import picture, voc
from tests.data.test_coco import objects, refused

NAMES = [f"{n}" for n in range(8)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        voc(tmp_path / "Annotations" / f"{name}.xml", [("dog", 1, 1, 40, 30)])
    voc(tmp_path / "Annotations" / "0.xml", [("cat", 3, 4, 3, 4), ("dog", 11, 2, 20, 30, True)])
    return tmp_path


def lists(root: Path, **names: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for split, text in names.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(text.split()) + "\n")


def test_a_folder_with_lists(root: Path) -> None:
    lists(root, train="0 1 2", val="3", trainval="0 1 2 3", test="4 5", dog_train="0 1")
    picture(root / "JPEGImages" / "unlabelled.jpg")
    dataset = load_dataset(root)
    assert (dataset.task, dataset.labels) == ("detect", ("cat", "dog"))
    assert dataset.split_counts() == {"train": 3, "val": 1, "test": 2}
    found = objects(dataset)
    assert found["0.jpg"] == [("cat", [2, 3, 3, 4]), ("dog", [10, 1, 20, 30])]
    assert found["1.jpg"] == [("dog", [0, 0, 40, 30])]
    target: Any = dataset.target(0)
    assert target.ignored.tolist() == [False, True]
    assert target.areas is None


def test_a_list_of_train_and_val_together(root: Path) -> None:
    lists(root, trainval="0 1 2 3 4 5")
    assert load_dataset(root).split_counts() == {"train": 5, "val": 1}


def test_splits_by_content(root: Path) -> None:
    assert set(load_dataset(root).split_counts()) == {"train", "val", "test"}
    assert len(load_dataset(root)) == 8


@pytest.mark.parametrize(("annotations", "images"), [("annotations", "images"), (".", "."), (".", "images")])
def test_other_folders(tmp_path: Path, annotations: str, images: str) -> None:
    for name in NAMES:
        picture(tmp_path / images / f"{name}.png")
        voc(tmp_path / annotations / f"{name}.xml", [("dog", 2, 2, 9, 9)], size=None)
    dataset = load_dataset(tmp_path)
    assert len(dataset) == 8
    assert dataset.targets.sizes.tolist() == [[30, 40]] * 8  # type: ignore[union-attr]


def test_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in NAMES[:3]:
            picture(tmp_path / split / f"{split}{name}.jpg")
            voc(tmp_path / split / f"{split}{name}.xml", [("dog", 2, 2, 9, 9)])
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3, "test": 3}


def test_an_image_under_the_name_that_the_annotation_says(root: Path) -> None:
    (root / "JPEGImages" / "3.jpg").rename(root / "JPEGImages" / "three.jpg")
    voc(root / "Annotations" / "3.xml", [("cat", 2, 2, 9, 9)], filename="C:\\data\\three.jpg")
    assert objects(load_dataset(root))["three.jpg"] == [("cat", [1, 1, 9, 9])]


def test_boxes_that_stick_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(root / "Annotations" / "1.xml", [("dog", 0, 5, 50, 10), ("dog", 50, 5, 60, 10), ("dog", 5, 5, 4, 10)])
    assert objects(load_dataset(root))["1.jpg"] == [("dog", [0, 4, 40, 10])]
    err = capsys.readouterr().err
    assert "1 stuck out of the image and were clipped, 1 lay outside it, 1 had no area" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["cannot read"]),
        ("<annotation>", ["cannot read"]),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', ["cannot read", "DTD"]),
        ("<a><object><name>dog</name></object></a>", ["object 1", "no bndbox"]),
        ("<a><object><bndbox/></object></a>", ["object 1", "no name"]),
        ("<a><object><name>dog</name><bndbox/></object></a>", ["object 1", "none in pixels"]),
    ],
)
def test_what_cannot_be_understood(root: Path, text: str, words: list[str]) -> None:
    file = root / "Annotations" / "5.xml"
    file.write_text(text)
    refused(root, str(file), *words)
    dataset, complaints = survey(root)
    assert complaints.collected
    assert len(complaints.collected) == 1
    assert dataset is not None


def test_boxes_that_end_before_they_begin(root: Path) -> None:
    voc(root / "Annotations" / "5.xml", [("dog", 2, 2, 9, 9), ("dog", 20, 5, 9, 9), ("dog", "nan", 5, 9, 9)])
    refused(root, "5.xml, object 2", "ends before it begins")


def test_lists_and_files_that_do_not_agree(root: Path) -> None:
    lists(root, train="0 1 2 gone", test="4 5")
    refused(root, "gone.xml is in ImageSets, but missing")
    lists(root, train="0 1 2", test="4 2")
    refused(root, "test.txt, line 2: 2 is in train.txt too")
    lists(root, train="0 1 2", test="4 5")
    (root / "JPEGImages" / "5.jpg").unlink()
    refused(root, "5.xml: its image is not in", "JPEGImages")


def test_no_classes(tmp_path: Path) -> None:
    for name in NAMES:
        picture(tmp_path / f"{name}.jpg")
        voc(tmp_path / f"{name}.xml", [])
    with pytest.raises(InputError, match="names no classes"):
        load_dataset(tmp_path)
