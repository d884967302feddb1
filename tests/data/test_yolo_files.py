"""Which images and label files YOLO data has."""

from pathlib import Path

import pytest

from foveal.data.sources import load_dataset, survey
from tests.data.annotated import picture
from tests.data.test_coco import objects, refused
from tests.data.test_yolo import SPLITS, make, notes

BOX = "0 0.5 0.5 0.5 0.4\n"
LISTS = "names: [cat, dog]\ntrain: train.txt\nval: images/val\n"


def test_lists_of_images(tmp_path: Path) -> None:
    make(tmp_path, LISTS)
    (tmp_path / "train.txt").write_text("images/train/train0.jpg\n./images/train/train1.jpg\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 2, "val": 3}
    (note,) = notes(tmp_path)
    assert "images in no split, left out: 1" in note
    assert "train2.jpg" in note
    (tmp_path / "train.txt").write_text("images/train/gone.jpg\nimages/train/train1.jpg\nimages/train/train0.jpg\n")
    refused(tmp_path, "there is no", "gone.jpg", "train.txt")


@pytest.mark.parametrize(
    ("begin", "slash", "noted"),
    [
        ("", "/", False),
        ("./", "/", False),
        ("../set/", "/", False),
        ("data/", "/", False),
        ("/home/me/set/", "/", True),
        ("C:\\Users\\me\\set\\", "\\", True),
        ("D:/set/", "/", True),
        (".\\", "\\", False),
        ("my/data/", "/", True),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_paths_in_lists(tmp_path: Path, begin: str, slash: str, noted: bool, encoding: str) -> None:
    root = make(tmp_path / "set", LISTS)
    names = [slash.join(["images", "train", f"train{n}.jpg"]) for n in range(3)]
    text = "".join(f"{begin}{name}  \r\n\r\n" for name in names)
    (root / "train.txt").write_bytes(text.encode(encoding))
    dataset = load_dataset(root)
    assert dataset.split_counts() == {"train": 3, "val": 3}
    assert [name for name, _ in objects(dataset)["train0.jpg"]] == ["dog", "cat"]
    assert ["begin in" in note for note in notes(root)] == [True] * noted


def test_a_list_in_a_folder_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, "names: [cat, dog]\ntrain: lists/train.txt\nval: lists/val.txt\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("images/train/train0.jpg\n")  # from the root
    (tmp_path / "lists" / "val.txt").write_text("../images/val/val0.jpg\n")  # from the list
    assert load_dataset(tmp_path).split_counts() == {"train": 1, "val": 1}


def test_a_missing_image_is_not_taken_from_elsewhere(tmp_path: Path) -> None:
    make(tmp_path, LISTS)
    picture(tmp_path / "train2.jpg")
    (tmp_path / "images" / "train" / "train2.jpg").unlink()
    (tmp_path / "train.txt").write_text("".join(f"/home/me/images/train/train{n}.jpg\n" for n in range(3)))
    refused(tmp_path, "there is no", str(tmp_path / "images" / "train" / "train2.jpg"))


@pytest.mark.parametrize(
    "names", [("train.txt", "valid.txt"), ("Train.txt", "val.txt"), ("train2017.txt", "val2017.txt")]
)
def test_lists_go_before_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    (make(tmp_path, None) / "obj.names").write_text("cat\ndog\n")
    for name, split in zip(names, SPLITS, strict=True):
        (tmp_path / name).write_text(f"images/{split}/{split}0.jpg\nimages/{split}/{split}1.jpg\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 2, "val": 2}
    (note,) = notes(tmp_path)
    assert note.startswith("images in no split, left out: 2")


def test_a_label_file_called_train_is_no_list(tmp_path: Path) -> None:
    for name in ("train", "val", "images", "labels", "a", "b"):
        picture(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert load_dataset(tmp_path).class_counts() == {"cat": 6}


def test_images_that_are_named_twice(tmp_path: Path) -> None:
    make(tmp_path, "names: [cat, dog]\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "train.txt").write_text("images/train/train0.jpg\n./images//train/train0.jpg\n")
    (tmp_path / "val.txt").write_text("images/val/val0.jpg\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 1, "val": 1}
    assert any("images that are named again, read once: 1" in note for note in notes(tmp_path))
    (tmp_path / "val.txt").write_text("images/train/../train/train0.jpg\nimages/val/val0.jpg\n")
    refused(tmp_path, "train0.jpg", "train.txt", "val.txt")


def test_a_split_without_images_is_noted(tmp_path: Path) -> None:
    make(tmp_path)
    for n in range(3):
        (tmp_path / "images" / "val" / f"val{n}.jpg").unlink()
    (tmp_path / "labels" / "val" / "val0.txt").unlink()
    (tmp_path / "labels" / "train" / "train0.txt").write_text(BOX)
    assert load_dataset(tmp_path).split_counts().keys() == {"train", "val"}  # by content
    assert notes(tmp_path) == [f"{tmp_path / 'images' / 'val'} has no images"]


# --- Label files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}.jpg", "labels/{}.txt"),
        ("Images/{}.jpg", "Labels/{}.txt"),
        ("images/{}.jpg", "Labels/{}.TXT"),
        ("IMAGES/a/{}.jpg", "labels/A/{}.txt"),
        ("images/images/{}.jpg", "images/labels/{}.txt"),
        ("{}.JPG", "{}.txt"),
        ("{}.jpg", "labels/{}.txt"),
        ("JPEGImages/{}.jpg", "labels/{}.txt"),
        ("data/{}.jpg", "labels/data/{}.txt"),
        ("images/{}.v1.jpg", "labels/{}.v1.txt"),
    ],
)
def test_where_labels_are(tmp_path: Path, image: str, label: str) -> None:
    (tmp_path / "classes.txt").write_text("cat\n")
    for n in range(5):
        picture(tmp_path / image.format(n))
        (tmp_path / label.format(n)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / label.format(n)).write_text(BOX)
    dataset = load_dataset(tmp_path)
    assert len(dataset) == 5
    assert all(rows == [("cat", [10, 9, 30, 21])] for rows in objects(dataset).values())
    assert notes(tmp_path) == []


def test_folders_of_splits_in_other_letter_case(tmp_path: Path) -> None:
    for split in ("Train", "Valid"):
        picture(tmp_path / split / "Images" / f"{split}.jpg")
        (tmp_path / split / "Labels").mkdir()
        (tmp_path / split / "Labels" / f"{split}.txt").write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.split_counts() == {"train": 1, "val": 1}
    assert dataset.class_counts() == {"cat": 2}


def test_labels_in_other_letter_case_are_noted(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "labels" / "train" / "train0.txt").rename(tmp_path / "labels" / "train" / "TRAIN0.txt")
    assert len(objects(load_dataset(tmp_path))["train0.jpg"]) == 2
    (note,) = notes(tmp_path)
    assert note.startswith("label files that differ from their image in letter case: 1")
    # That of another image is not taken.
    picture(tmp_path / "images" / "train" / "TRAIN0.jpg")
    assert objects(load_dataset(tmp_path))["train0.jpg"] == []


def test_images_that_share_a_label_file_are_noted(tmp_path: Path) -> None:
    make(tmp_path)
    picture(tmp_path / "images" / "train" / "train0.png", seed=9)
    found = objects(load_dataset(tmp_path))
    assert found["train0.png"] == found["train0.jpg"] != []
    (note,) = notes(tmp_path)
    assert note.startswith("label files of several images: 1")
    assert "train0.jpg" in note
    assert "train0.png" in note


def test_an_image_with_two_label_files_is_noted(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "images" / "train" / "train0.txt").write_text(BOX)
    assert len(objects(load_dataset(tmp_path))["train0.jpg"]) == 2
    assert any(note.startswith("images with two label files: 1") for note in notes(tmp_path))


def test_labels_without_an_image(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("x/train7.txt", "train/train8.txt"):
        (tmp_path / "labels" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "labels" / name).write_text(BOX)
    (tmp_path / "README.txt").write_text("Nothing in here is a label.\n")
    (note,) = notes(tmp_path)
    assert note.startswith("label files without an image, left out: 2")
    (note,) = notes(tmp_path / "data.yaml")  # which looks in the folders of its images alone
    assert "train8.txt" in note


def test_labels_of_which_none_has_an_image(tmp_path: Path) -> None:
    make(tmp_path)
    for split in SPLITS:
        (tmp_path / "labels" / split / f"{split}1.txt").unlink()
        for file in (tmp_path / "labels" / split).iterdir():
            file.rename(file.with_name(f"of_{file.name}"))
    refused(tmp_path, "none of its 6 images has a label file", "train0.txt", "labels/a.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_label_files_of_windows(tmp_path: Path, encoding: str) -> None:
    file = make(tmp_path) / "labels" / "train" / "train0.txt"
    file.write_bytes("1 0.5 0.5 0.25 0.2\r\n\r\n".encode(encoding))
    assert objects(load_dataset(tmp_path))["train0.jpg"] == [("dog", pytest.approx([15, 12, 25, 18]))]


@pytest.mark.parametrize("data", [b"0 0.5 \xff 0.5", b"0 0.5 0.5 0.1 0.1\0"])
def test_label_files_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    file = make(tmp_path) / "labels" / "train" / "train1.txt"
    file.write_bytes(data)
    refused(tmp_path, f"cannot read {file}", "save it as UTF-8")
    dataset, complaints = survey(tmp_path)
    assert dataset is not None
    assert len(complaints.collected or ()) == 1
