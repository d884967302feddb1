"""Folders of classes as they are downloaded, unpacked and copied about."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.cli import main
from foveal.data.check import check_source
from foveal.data.files import split_folder, split_named
from foveal.data.sources import load_dataset
from tests.data.small import error, notes, rows, write

Capture = pytest.CaptureFixture[str]


def many(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


# --- Splits ----------------------------------------------------------------------------------------------------------


NAMES = {
    "train": "train Train TRAIN_SET training_set seg_train train_images trainset training-data train2017 images_train",
    "val": "val valid dev eval validate Validation_Set val_images dev-set evaluation",
    "test": "test test_set seg_test testing test1 TestSet",
    None: "test_tube train.station train_val images set invalid trainer cat",
}


@pytest.mark.parametrize(("name", "split"), [(name, split) for split, names in NAMES.items() for name in names.split()])
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_folder(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [("instances_val2017", "val"), ("my_dev_set", "val"), ("cats_trainset", "train"), ("train_val", None), ("a", None)],
)
def test_splits_in_names_of_files(name: str, split: str | None) -> None:
    assert split_named(name) == split


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "val_images"),
        ("Train", "EVAL"),
        ("TRAIN_SET", "dev"),
        ("train/images", "test/images"),
    ],
)
def test_folders_of_splits(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path, *many(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog"))
    found = rows(load_dataset(tmp_path), tmp_path)
    for name, (label, split) in found.items():
        assert label == Path(name).parent.name
        if name.startswith(test):
            assert split == split_folder(test.split("/")[0])
        else:
            assert split in ("train", "val")


def test_a_doubled_folder_is_noted(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("train/train/a", "train/train/b", "test/a", "test/b"))
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.labels == ("a", "b")
    assert f"read as the folder of the split train: {tmp_path}/train/train" in shown


def test_train_may_be_a_vehicle(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("train", "plane", "car"))
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.labels == ("car", "plane", "train")
    assert len(dataset) == 12
    assert "read as classes, not as splits, since images lie directly in them: train" in shown
    assert any("read as classes" in note for note in check_source(tmp_path).notes)


def test_a_class_in_splits_may_have_the_name_of_one(tmp_path: Path) -> None:
    write(tmp_path, *many("train/train", "train/car", "test/train", "test/car"))
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("car", "train")
    assert dataset.split_counts()["test"] == 8


def test_folders_beside_splits(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b", "seg_pred/seg_pred"))
    (tmp_path / "docs").mkdir()
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.labels == ("a", "b")
    assert len(dataset) == 16
    assert f"its images have no class: {tmp_path}/seg_pred" in shown
    assert f"it has no images: {tmp_path}/docs" in shown


@pytest.mark.parametrize("above", ["archive", "a/b", "cats and dogs"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_too_high(tmp_path: Path, capsys: Capture, above: str, split: str) -> None:
    write(tmp_path, *many(f"{above}/{split}cat", f"{above}/{split}dog"))
    (tmp_path / "__MACOSX").mkdir()
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.labels == ("cat", "dog")
    assert dataset.source == str(tmp_path)
    assert f"the only folder in it: {tmp_path / above}" in shown


def test_annotations_a_folder_too_high(tmp_path: Path) -> None:
    write(tmp_path, *many("set/images/train", "set/images/val"))
    for split in ("train", "val"):
        (tmp_path / "set/labels" / split).mkdir(parents=True)
        (tmp_path / "set/labels" / split / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set/data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
    dataset = load_dataset(tmp_path)
    assert dataset.task == "detect"
    assert dataset.split_counts() == {"train": 4, "val": 4}


# --- Files that no class has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_beside_folders_are_counted(tmp_path: Path, capsys: Capture, prefix: str) -> None:
    write(tmp_path, *many(f"{prefix}a", f"{prefix}b"), f"{prefix}loose.png", f"{prefix}more.png")
    dataset, shown = notes(tmp_path, capsys)
    assert len(dataset) == 8
    words = f"left out: 2 images lie beside the folders of classes, as {tmp_path}/{prefix}loose.png"
    assert words in shown
    assert words in check_source(tmp_path).notes


def test_most_images_beside_folders_to_generate(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many(".", count=20), *many("rejected", count=6))
    dataset, shown = notes(tmp_path, capsys, "generate")
    assert len(dataset) == 26
    assert dataset.labels == ()
    assert "26 images, 6 of them in folders, as rejected/0.png" in shown


def test_few_images_beside_folders_to_generate(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("a", "b"), "loose.png")
    dataset, shown = notes(tmp_path, capsys, "generate")
    assert dataset.labels == ("a", "b")
    assert len(dataset) == 8
    assert "1 image lies beside" in shown


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF", ".Jpe"])
def test_suffixes_of_browsers(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, *many("a", "b"))
    for path in (tmp_path / "b").iterdir():
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.with_suffix(".jpg").rename(path.with_suffix(suffix))
        path.unlink()
    assert load_dataset(tmp_path).class_counts() == {"a": 4, "b": 4}


def test_images_of_no_or_another_suffix_are_read_by_content(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("a", "b", "c"))
    for path in (tmp_path / "b").iterdir():
        path.rename(path.with_suffix(""))
    for path in (tmp_path / "c").iterdir():
        path.rename(path.with_suffix(".png_large"))
    (tmp_path / "b/LICENSE").write_text("free")
    (tmp_path / "a/notes.png.txt").write_text("about 0.png")
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.class_counts() == {"a": 4, "b": 4, "c": 4}
    assert f"read, as images by content though not by suffix: 8 files, as {tmp_path}/b/0" in shown


def test_pictures_that_are_not_read_are_counted(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("a", "b"))
    for name in ("a/1.NEF", "a/2.nef", "b/x.svg"):
        (tmp_path / name).write_bytes(b"II*\0")
    (tmp_path / "a/labels.txt").write_text("nothing")
    dataset, shown = notes(tmp_path, capsys)
    assert len(dataset) == 8
    assert f"formats that are not read: 2 .nef, as {tmp_path}/a/1.NEF, 1 .svg, as {tmp_path}/b/x.svg" in shown
    assert ".txt" not in shown
    assert any("2 .nef" in note for note in check_source(tmp_path).notes)


def test_a_class_of_pictures_that_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, *many("{a}", "b"))
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"MM\0*")
        path.rename(path.with_suffix(".NEF"))
    error(tmp_path, "no images in the folder of class b", f"not read: 4 .nef, as {tmp_path}/b/0.NEF")


def test_a_telephone_calls_a_jpeg_heic(tmp_path: Path) -> None:
    write(tmp_path, *many("a", "b"))
    for path in (tmp_path / "b").iterdir():
        path.rename(path.with_suffix(".HEIC"))
    assert load_dataset(tmp_path).class_counts() == {"a": 4, "b": 4}


def test_clutter_of_systems_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("a", "b"), "@eaDir/a/1.png", "a/@eaDir/0.png/SYNOFILE_THUMB_M.jpg", "__MACOSX/a/._0.png")
    write(tmp_path, "a/.ipynb_checkpoints/0-checkpoint.png", "b/.thumbnails/0.png", "b/._0.png")
    (tmp_path / "a/Thumbs.db").write_bytes(b"\xd0\xcf")
    dataset, shown = notes(tmp_path, capsys)
    assert dataset.class_counts() == {"a": 4, "b": 4}
    line = next(line for line in shown.splitlines() if "hidden" in line)
    assert "@eaDir (2)" in line
    found = " ".join(check_source(tmp_path).notes)
    assert "1 .db" in found
    assert line.partition("left out")[2] in found


def test_predict_on_a_folder_names_what_it_leaves_out(tmp_path: Path, capsys: Capture) -> None:
    from foveal.cli.common import image_files

    write(tmp_path, "a.png", "b.jfif.png", "@eaDir/c.png")
    (tmp_path / "d.nef").write_bytes(b"II*\0")
    (tmp_path / "a.png").rename(tmp_path / "a")
    assert image_files((str(tmp_path),)) == [tmp_path / "a", tmp_path / "b.jfif.png"]
    shown = capsys.readouterr().err
    assert f"1 .nef, as {tmp_path}/d.nef" in shown
    assert "@eaDir" in shown


# --- Names of classes ------------------------------------------------------------------------------------------------

CAFE = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    "pair", [("Cat", "cat"), CAFE, ("hot dog", "hot  dog"), ("cat", "cat "), ("cat", "cat.."), ("STRASSE", "straße")]
)
@pytest.mark.parametrize("layout", ["classes", "splits"])
def test_classes_that_differ_in_writing_alone(
    tmp_path: Path, capsys: Capture, pair: tuple[str, str], layout: str
) -> None:
    one, two = pair if layout == "classes" else (f"train/{pair[0]}", f"val/{pair[1]}")
    rest = [] if layout == "classes" else ["train/owl", "val/owl"]
    write(tmp_path, *many(one, two, *rest))
    dataset, shown = notes(tmp_path, capsys)
    assert set(pair) <= set(dataset.labels)
    named = [ascii(name) if pair == CAFE else repr(name) for name in sorted(pair, key=dataset.labels.index)]
    assert f"the classes {' and '.join(named)} differ only in how the name is written; merge them" in shown
    assert sum("differ only in how" in text for text in check_source(tmp_path).layout) == 1
    assert main(["check", str(tmp_path)]) == 2


def test_letters_of_an_alphabet_are_classes_of_their_own(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many(*"ABCDEFGabcdefg", "cat", "cats", "11", "1 1", count=1))
    assert "differ" not in notes(tmp_path, capsys)[1]


def test_yes_and_no_are_no_alphabet(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many(*"yYnN"))
    assert notes(tmp_path, capsys)[1].count("differ only in how") == 2


def test_labels_of_a_table_and_of_objects_too(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, *many("images/train", "images/val"))
    for split in ("train", "val"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.4 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, Cat]\n")
    assert "the classes 'cat' and 'Cat' differ" in notes(tmp_path, capsys)[1]
    lines = [f"images/train/{number}.png,{label}" for number, label in enumerate(("dog", "Dog", "owl", "owl"))]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    assert "the classes 'Dog' and 'dog' differ" in notes(tmp_path / "labels.csv", capsys)[1]


# --- What a name can mean --------------------------------------------------------------------------------------------


def test_a_built_in_name_that_is_a_folder_here(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *many("digits/a", "digits/b"))
    monkeypatch.chdir(tmp_path)
    dataset, shown = notes("digits", capsys)
    assert len(dataset) == 1797
    assert "read as the built-in set; ./digits stands for" in shown
    assert notes("./digits", capsys)[0].labels == ("a", "b")


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [
        ("images", "masks"),
        ("images", "labels"),
        ("Images", "GT"),
        ("train/images", "train/masks"),
        ("images/train", "masks/train"),
        ("train_images", "train_masks"),
    ],
)
def test_masks_are_no_class(tmp_path: Path, pictures: str, masks: str) -> None:
    write(tmp_path, *many(pictures, masks))
    error(tmp_path, "looks like data to segment", Path(pictures).parts[0])


def test_a_mask_may_be_worn(tmp_path: Path) -> None:
    write(tmp_path, *many("mask", "no mask", "images"))
    assert load_dataset(tmp_path).labels == ("images", "mask", "no mask")


def test_several_classes_an_image_are_refused(tmp_path: Path) -> None:
    write(tmp_path, *many("train", "valid"))
    (tmp_path / "train/_classes.csv").write_text("filename, cat, dog\n0.png, 1, 1\n")
    error(tmp_path, "_classes.csv", "multi-label")


def test_a_table_beside_images_is_named(tmp_path: Path) -> None:
    write(tmp_path, *many("train"))
    (tmp_path / "train.csv").write_text("id,breed\n0,a\n")
    error(tmp_path, "no images in the folders of its classes", "if train.csv names them, pass that file")


# --- How files are stored --------------------------------------------------------------------------------------------


def test_sixteen_bits_of_which_twelve_are_in_use(tmp_path: Path, capsys: Capture) -> None:
    draw = np.random.default_rng(0)
    for name in many("a", "b", count=10):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        values = draw.integers(0, 4000, (8, 8), np.uint16)
        values[0, 0] = 4001
        Image.fromarray(values).save(tmp_path / name)
    _, shown = notes(tmp_path, capsys)
    assert "16 of 16 images (of 20; foveal check reads all) have 16 bits a channel, but no value above 4001" in shown
    found = check_source(tmp_path)
    assert any("20 of 20 images have 16 bits a channel, but no value above 4001" in note for note in found.notes)
    values[0, 0] = 60000
    Image.fromarray(values).save(tmp_path / "a/0.png")
    assert "16 bits" not in notes(tmp_path, capsys)[1]


def test_files_without_an_end_are_counted(tmp_path: Path, capsys: Capture) -> None:
    draw = np.random.default_rng(0)
    for number, name in enumerate(many("a", "b", count=5)):
        path = (tmp_path / name).with_suffix(".jpg")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        if number in (3, 7):
            path.write_bytes(path.read_bytes()[:-2])
    words = f"2 of 10 images have no end marker, though every pixel is there: {tmp_path}/a/3.jpg"
    assert words in notes(tmp_path, capsys)[1]
    found = check_source(tmp_path)
    assert words in found.notes
    assert found.unreadable == {}


def test_files_that_differ_between_their_samples_are_no_copies(tmp_path: Path) -> None:
    for number, name in enumerate(many("train/a", "train/b", "test/a", "test/b", count=3)):
        pixels = np.full((256, 256, 3), 128, np.uint8)
        pixels[40 + number, 20:60] = 255
        path = (tmp_path / name).with_suffix(".bmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "test/a/copy.bmp").write_bytes((tmp_path / "train/b/0.bmp").read_bytes())
    found = check_source(tmp_path)
    assert [len(group) for group in found.leaks] == [2]
    assert [len(group) for group in found.two_labels] == [2]  # type: ignore[attr-defined]
    assert {"copy.bmp", "0.bmp"} == {Path(name.split(" (")[0]).name for name in found.leaks[0]}
    assert not any("cop" in note for note in found.notes)


def test_large_files_that_differ_between_their_samples_are_split(tmp_path: Path) -> None:
    for number, name in enumerate(many("a", "b", count=10)):
        pixels = np.full((256, 256, 3), 128, np.uint8)
        pixels[40 + number, 20:60] = 255
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save((tmp_path / name).with_suffix(".bmp"))
    assert set(load_dataset(tmp_path).split_counts()) == {"train", "val", "test"}
