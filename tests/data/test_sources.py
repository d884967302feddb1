"""Folders and CSV files as data sets, and what is said of those that are none."""

import os
import shutil
from pathlib import Path

import pytest

from foveal.data.files import image_files
from foveal.data.sources import load_dataset
from foveal.errors import InputError
from tests.data.small import error, rows, write

# --- Folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(30)]
    write(tmp_path, *names)
    dataset = load_dataset(tmp_path)
    assert dataset.source == str(tmp_path)
    assert dataset.task == "classify"
    assert dataset.labels == ("cat", "dog")
    found = rows(dataset, tmp_path)
    assert {name: label for name, (label, _) in found.items()} == {name: name[:3] for name in names}
    assert set(dataset.split_counts()) == {"train", "val", "test"}
    assert rows(load_dataset(str(tmp_path)), tmp_path) == found
    assert len(load_dataset(tmp_path, task="classify", split="val")) == dataset.split_counts()["val"]


def test_the_split_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path, *[f"one/a/{i}.png" for i in range(40)], *[f"one/b/{i}.png" for i in range(40)])
    before = rows(load_dataset(tmp_path / "one"), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for path in list((tmp_path / "two/a").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        path.rename(path.with_name(f"renamed {path.name}"))
    after = rows(load_dataset(tmp_path / "two"), tmp_path / "two")
    for name, row in before.items():
        if name.startswith("a/"):
            assert after[f"a/copy of {name[2:]}"] == after[f"a/renamed {name[2:]}"] == row
        else:
            assert after[name] == row


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "valid", "TEST"), ("train", "Validation", "test")]
)
def test_folders_name_the_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    folders = {train: "train", val: "val", test: "test"}
    write(tmp_path, *[f"{folder}/{label}/{i}.png" for folder in folders for label in "ab" for i in range(3)])
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("a", "b")
    for name, (label, split) in rows(dataset, tmp_path).items():
        folder, below, _ = name.split("/")
        assert (label, split) == (below, folders[folder])


def test_training_images_give_some_for_validation(tmp_path: Path) -> None:
    write(tmp_path, *[f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "ab" for i in range(20)])
    dataset = load_dataset(tmp_path)
    assert set(dataset.split_counts()) == {"train", "val", "test"}
    assert {split for name, (_, split) in rows(dataset, tmp_path).items() if name.startswith("test/")} == {"test"}
    assert {split for name, (_, split) in rows(dataset, tmp_path).items() if name.startswith("train/")} == {
        "train",
        "val",
    }


def test_a_class_may_be_missing_in_a_split(tmp_path: Path) -> None:
    write(tmp_path, "train/a/0.png", "train/b/0.png", "train/c/0.png", "val/b/1.png")
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("a", "b", "c")
    assert dataset.select("val").class_counts() == {"a": 0, "b": 1, "c": 0}


def test_only_a_test_split(tmp_path: Path) -> None:
    write(tmp_path, "test/a/0.png", "test/b/0.png")
    assert load_dataset(tmp_path).split_counts() == {"test": 2}


def test_what_counts_as_an_image(tmp_path: Path) -> None:
    write(tmp_path, "a/deep/down/1.png", "a/2.PNG", "a/3.JPeG", "a/4.bmp", "b/5.png", "a/folder.png/6.png")
    write(tmp_path, "a/.hidden.png", "a/._2.png", "a/.cache/7.png", ".git/8.png")
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "a/no suffix").write_text("no image")
    found = rows(load_dataset(tmp_path), tmp_path)
    assert set(found) == {"a/deep/down/1.png", "a/2.PNG", "a/3.JPeG", "a/4.bmp", "b/5.png", "a/folder.png/6.png"}


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "data/a/1.png", "data/b/2.png", "data/b/in/3.png", "elsewhere/4.png")
    (tmp_path / "data/a/here").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/b/in/up").symlink_to("..")
    (tmp_path / "data/a/all").symlink_to(tmp_path / "data")  # would bring the images of b into a
    (tmp_path / "data/b/more").symlink_to(tmp_path / "elsewhere")
    error(tmp_path / "data", "data/b/more leads out of the data folder", "--outside")
    found = rows(load_dataset(tmp_path / "data", outside=True), tmp_path / "data")
    assert {name: label for name, (label, _) in found.items()} == {
        "a/1.png": "a",
        "b/2.png": "b",
        "b/in/3.png": "b",
        "b/more/4.png": "b",
    }


def test_a_class_that_is_a_link_to_all(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "loop").symlink_to(".")
    error(tmp_path, "no images in the folder of class loop")


@pytest.mark.parametrize("target", ["nowhere.png", "b.png"])
def test_a_link_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    write(tmp_path, "a/1.png", "a/2.png", "c/2.png")
    (tmp_path / "a/b.png").symlink_to(target)
    error(tmp_path, str(tmp_path / "a/b.png"), "cannot read")


def test_numbers_in_class_names(tmp_path: Path) -> None:
    names = ["10", "9", "1", "class 2", "class 10", "Class 1", "²", "x²", "_"]
    write(tmp_path, *[f"{name}/0.png" for name in names])
    labels = load_dataset(tmp_path).labels
    assert sorted(labels) == sorted(names)
    order = ["1", "9", "10", "class 2", "class 10"]
    assert [label for label in labels if label in order] == order


def test_image_files_of_one_folder(tmp_path: Path) -> None:
    write(tmp_path, "2.png", "in/1.png", ".hidden/3.png", ".4.png")
    (tmp_path / "loop").symlink_to(".")
    assert image_files(tmp_path) == ["2.png", "in/1.png"]


def test_bad_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error(tmp_path / "empty", str(tmp_path / "empty"), "no folders", "one folder for each class")
    (tmp_path / "hollow/cat").mkdir(parents=True)
    error(tmp_path / "hollow", str(tmp_path / "hollow"), "no images", ".png", "one folder for each class")
    write(tmp_path, *(f"single/cat/{n}.png" for n in range(4)))
    assert load_dataset(tmp_path / "single").labels == ("cat",)  # to be measured on, not to be trained on
    write(tmp_path, "gap/cat/1.png", "gap/dog/2.png")
    (tmp_path / "gap/owl").mkdir()
    (tmp_path / "gap/emu").mkdir()
    error(tmp_path / "gap", str(tmp_path / "gap"), "no images in the folder of class emu, owl")
    write(tmp_path, "two/a/1.png", "two/b/2.png")
    error(tmp_path / "two", str(tmp_path / "two"), "2 different images are too few")
    write(tmp_path, "flat/train/1.png", "flat/test/2.png")
    error(tmp_path / "flat", str(tmp_path / "flat"), "one folder for each class")


def test_bad_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "mixed/train/a/1.png", "mixed/train/b/1.png", "mixed/cat/2.png")
    error(tmp_path / "mixed", "train", "beside others (cat)")
    write(tmp_path, "twice/train/a/1.png", "twice/val/a/1.png", "twice/valid/b/1.png")
    error(tmp_path / "twice", "val and valid are two folders of one split")
    write(tmp_path, "bare/train/a/1.png", "bare/train/b/2.png", "bare/test/3.png")
    error(tmp_path / "bare", str(tmp_path / "bare/test"), "no images in folders of classes")
    write(tmp_path, "void/train/a/1.png", "void/train/b/2.png")
    (tmp_path / "void/val/c").mkdir(parents=True)
    error(tmp_path / "void", str(tmp_path / "void/val"), "no images in folders of classes")


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def refuse(path: Path):
        if Path(path) == tmp_path / "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    error(tmp_path, str(tmp_path / "b"), "Permission denied")


# --- What a name can mean --------------------------------------------------------------------------------------------


def test_names_that_are_no_data(tmp_path: Path) -> None:
    error("digitz", "there is no data at digitz", "did you mean digits")
    error(tmp_path / "gone", f"there is no data at {tmp_path / 'gone'}")
    error("", "there is no data at ''")
    write(tmp_path, "photo.png")
    error(tmp_path / "photo.png", "neither a folder nor a file of data: .csv, .tsv, .json, .yaml")


def test_the_task_has_to_fit() -> None:
    with pytest.raises(InputError, match="digits is data to classify, not to detect"):
        load_dataset("digits", task="detect")


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the images 0.png to 9.png and in/10.png."""
    write(tmp_path, *[f"{i}.png" for i in range(10)], "in/10.png")
    return tmp_path


def table(root: Path, text: str | bytes) -> Path:
    path = root / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


LINES = ["path,label", *[f"{i}.png,{'ab'[i % 2]}" for i in range(10)], "in/10.png,a"]
LABELS = {"in/10.png": "a", **{f"{i}.png": "ab"[i % 2] for i in range(10)}}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\n".join(LINES) + "\n\n\n",
        "\r\n".join(LINES) + "\r\n",
        "\r".join(LINES),
        b"\xef\xbb\xbf" + "\n".join(LINES).encode(),
        "\n".join(",".join(f'"{value}"' for value in line.split(",")) for line in LINES),
        "\n".join(line.replace(",", ", ") for line in LINES),
        "\n".join(",".join(reversed(line.split(","))) for line in LINES),
        "\n".join([LINES[0] + ",split", *[line + "," for line in LINES[1:]]]),
    ],
    ids=["plain", "empty lines", "windows", "old mac", "byte order mark", "quoted", "spaces", "swapped", "no split"],
)
def test_forms_of_csv(images: Path, text: str | bytes) -> None:
    dataset = load_dataset(table(images, text))
    assert dataset.labels == ("a", "b")
    assert {name: label for name, (label, _) in rows(dataset, images).items()} == LABELS
    assert set(dataset.split_counts()) == {"train", "val", "test"}


def test_csv_paths_are_relative_to_it(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "lists").mkdir()
    lines = ["path,label", *[f"../{i}.png,{'ab'[i % 2]}" for i in range(9)], f"{images / '9.png'},b"]
    table(images / "lists", "\n".join(lines))
    monkeypatch.chdir(images / "in")
    dataset = load_dataset("../lists/data.csv")
    assert {Path(dataset.name(i)).resolve() for i in range(10)} == {images / f"{i}.png" for i in range(10)}


def test_csv_with_strange_names(images: Path) -> None:
    strange = ["a,b.png", 'q"uote.png', "line\u2028end.png", "next\x85line.png", "größe.png"]
    write(images, *strange)
    quoted = ['"a,b.png"', '"q""uote.png"', *strange[2:]]
    lines = ["path,label", *[f"{name},{'xy'[i % 2]}" for i, name in enumerate(quoted)]]
    assert set(rows(load_dataset(table(images, "\n".join(lines))), images)) == set(strange)


def test_csv_names_the_splits(images: Path) -> None:
    splits = ["train", "Training", "val", "VALID", "validation", "test"]
    lines = ["path,label,split", *[f"{i}.png,{'ab'[i % 2]},{split}" for i, split in enumerate(splits)]]
    found = rows(load_dataset(table(images, "\n".join(lines))), images)
    assert [found[f"{i}.png"][1] for i in range(6)] == ["train", "train", "val", "val", "val", "test"]


def test_csv_takes_validation_from_training(images: Path) -> None:
    lines = ["path,label,split", *[f"{i}.png,{'ab'[i % 2]},{'test' if i > 7 else 'train'}" for i in range(10)]]
    found = rows(load_dataset(table(images, "\n".join(lines))), images)
    assert {found[f"{i}.png"][1] for i in range(8)} == {"train", "val"}
    assert {found[f"{i}.png"][1] for i in (8, 9)} == {"test"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no column 'path'", "no column 'label'"]),
        ("path,label\n", ["has no rows"]),
        ("path,klass\n0.png,a\n", ["unknown column 'klass'", "no column 'label'", "path, label and, if wanted, split"]),
        ("path;klass\n0.png;a\n", ["unknown column 'klass'"]),
        ("path,label,weight\n0.png,a,1\n", ["unknown column 'weight'"]),
        ("label\na\n", ["no column 'path'"]),
        ("path,label,label\n0.png,a,b\n", ["two columns 'label'"]),
        ("path,label\n0.png,a\n1.png,\n", ["line 3", "one value for each of path, label"]),
        ("path,label\n0.png,a\n,b\n", ["line 3"]),
        ("path,label\n0.png,a\n1.png\n", ["line 3"]),
        ("path,label\n0.png,a\n1.png,b,c\n", ["line 3"]),
        ("path,label,split\n0.png,a,train\n1.png,b,trian\n", ["line 3", "unknown split 'trian'", "did you mean train"]),
        ("path,label\n0.png,a\n2.png,b\n1.png,b\n3.png,b\n./1.png,a\n", ["1.png has two labels, 'b' and 'a'"]),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", ["filled in some rows and empty in others"]),
        ("path,label\n0.png,a\n0.png,b\n", ["0.png has two labels, 'a' and 'b'"]),
        ("path,label\n0.png,a\n./0.png,b\n", ["0.png has two labels, 'a' and 'b'"]),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n0.png,a,test\n", ["two splits, 'train' and 'test'"]),
        ("path,label\nx.png,a\n0.png,b\ny.png,a\n", ["2 of 3 images do not exist", "x.png"]),
        ("path,label\nin,a\n0.png,b\n", ["1 of 2 images do not exist", "in"]),
        ('path,label\n"0.png,a\n1.png,b\n', ["not a CSV file"]),
        (b"\xff\xfep\x00a\x00t\x00h", ["is not text in UTF-16", "save it as UTF-8"]),
        (b"path,label\n\xe9.png,a\n", ["byte 11 is not text in UTF-8", "save it as UTF-8"]),
        ("path,label\n0.png,a\n1.png,b\n", ["2 different images are too few"]),
    ],
)
def test_bad_csv(images: Path, text: str | bytes, words: list[str]) -> None:
    path = table(images, text)
    error(path, str(path), *words)


def test_the_same_row_twice_is_the_same_image(images: Path) -> None:
    dataset = load_dataset(table(images, "\n".join([*LINES, LINES[1]])))
    assert len(set(dataset.splits[[0, 11]])) == 1


def test_a_csv_that_cannot_be_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(images, "\n".join(LINES))

    opened = os.open

    def refuse(file: object, *arguments: object, **settings: object) -> object:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", refuse)
    error(path, str(path), "Permission denied")


def test_an_image_that_cannot_be_opened_is_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(images, "\n".join(LINES))
    (images / "4.png").unlink()
    monkeypatch.setattr(os.path, "isfile", lambda path: True)  # it goes between the check and the reading
    error(path, str(images / "4.png"), "No such file")
