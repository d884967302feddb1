"""data.yaml, obj.data and files of class names."""

import time
from pathlib import Path

import pytest

from foveal.data.files import Complaints, split_folder
from foveal.data.sources import load_dataset
from foveal.data.yolo_settings import read_settings
from tests.data.annotated import picture
from tests.data.test_coco import objects, refused
from tests.data.test_yolo import make, notes

TAIL = "\ntrain: images/train\nval: images/val\n"


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ("names: [no, yes, on, 1, 1.0, null, ~, 2020-01-01, 0x1f, 1e3]", "no yes on 1 1.0 null ~ 2020-01-01 0x1f 1e3"),
        ("names: ['cat',\n        'dog']", "cat dog"),
        ("names: [\n  cat,\n  dog,\n]", "cat dog"),
        ('"names": [cat, dog]', "cat dog"),
        ("names : [cat, dog]", "cat dog"),
        ("names: ['part #1', 'it''s', \"a\\tb\"]", "part #1|it's|a\tb"),
        ("names:\n  1: dog\n  '0': cat", "cat dog"),
        ("names: {1: dog, 0: cat, 10: k, 9: j, 8: i, 7: h, 6: g, 5: f, 4: e, 3: d, 2: c}", "cat dog c d e f g h i j k"),
        ("base: &a [cat, dog]\nnames: *a", "cat dog"),
        ("names: !!python/tuple [cat, dog]", "cat dog"),
        ("names:\n- cat # one\n# between\n- big dog", "cat|big dog"),
        ("---\nnames: [cat, dog]\nnc:", "cat dog"),
    ],
)
def test_names_are_the_text_that_was_written(tmp_path: Path, names: str, meant: str) -> None:
    (tmp_path / "data.yaml").write_text(names + TAIL)
    settings = read_settings(tmp_path / "data.yaml", Complaints())
    assert settings.names == (meant.split("|") if "|" in meant else meant.split(" "))
    assert settings.splits == {"train": ["images/train"], "val": ["images/val"]}


def test_json_is_yaml(tmp_path: Path) -> None:
    make(tmp_path, '{\n  "train": "images/train",\n  "val": "images/val",\n  "names": ["cat", "dog"]\n}\n')
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_yaml_of_windows(tmp_path: Path, encoding: str) -> None:
    make(tmp_path, None)
    text = "names: [cat, dög]\r\ntrain: images/train\r\nval: images/val\r\n"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "data.yaml").write_bytes(mark + text.encode(encoding))
    assert load_dataset(tmp_path).labels == ("cat", "dög")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [cat, dog]\nnc: 3\n", ["nc is 3, but there are 2 names"]),
        ("names: [cat, dog]\nnc: two\n", ["line 2", "'two' is not a whole number"]),
        ("names: [cat, cat]\n", ["classes 0 and 1 have one name, 'cat'"]),
        ("names: [cat, '']\n", ["class 1 has an empty name"]),
        ("names:\n- cat\n-\n", ["class 1 has an empty name"]),
        ("names: []\n", ["names no class"]),
        ("names: cat\n", ["line 1", "names is not a list"]),
        ("names: [[cat, dog]]\n", ["line 1", "not a list or a mapping"]),
        ("names:\n  0: cat\n  2: dog\n", ["not numbered 0, 1, 2", "there is no 1"]),
        ("names:\n  1: cat\n  2: dog\n", ["not numbered 0, 1, 2", "there is no 0"]),
        ("names:\n  cat: 0\n  dog: 1\n", ["line 2", "'cat' under names is not the number of a class"]),
        ("names:\n  0: cat\n  0: dog\n", ["line 3", "0 is there twice"]),
        ("names:\n  0: cat\n  00: dog\n", ["line 3", "class 0 is there twice"]),
        ("names:\n  - cat\n  1: dog\n", ["line 3", "not YAML"]),
        ("names: [cat, dog\ntrain: x\n", ["not YAML"]),
        ("names: [cat, dog]\n\ttrain: x\n", ["line 2", "not YAML"]),
        ("names: [cat, dog]\nnames: [cat, dog]\n", ["line 2", "names is there twice"]),
        ("names: [cat, dog]\nval: images/val\nval: images/train\n", ["line 3", "val is there twice"]),
        ("names: [cat, dog]\ntrain\n", ["not YAML"]),
        ("names: [cat, dog]\n---\nnames: [a]\n", ["line 2", "single document"]),
        ("names: &a [*a]\n", ["data.yaml"]),
        ("names: *a\n", ["line 1", "undefined alias"]),
        ("a: &a {val: images/val}\n<<: *a\nnames: [cat, dog]\n", ["line 1", "merge keys"]),
        ("names: [cat, dog]\ntrain: {a: images/train}\n", ["line 2", "a text is expected"]),
        ("names: [cat, dog]\ntrain: nowhere\n", ["train is at nowhere"]),
        ("names: [cat, dog]\ntrain: images/train\nval: nowhere\n", ["val is at nowhere"]),
        ("names: [cat, \x07]\n", ["data.yaml", "not YAML"]),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, yaml: str, words: list[str]) -> None:
    refused(make(tmp_path, yaml), "data.yaml", *words)


@pytest.mark.parametrize("text", ["[names]\n", "names\n", "", "- names: x\n"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    refused(tmp_path / "data.yaml", "data.yaml", "names")


def test_yaml_that_would_fill_memory_or_take_long(tmp_path: Path) -> None:
    begin = time.perf_counter()
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    make(tmp_path / "bomb", "\n".join([*bomb, "names: *a29\n"]))
    refused(tmp_path / "bomb", "data.yaml, line 29: a text is expected")
    make(tmp_path / "deep", "names: " + "[" * 200 + "]" * 200 + "\n")
    refused(tmp_path / "deep", "data.yaml, line 1", "nested more than 50 times")
    make(tmp_path / "deeper", "names: " + "[" * 100_000 + "\n")
    refused(tmp_path / "deeper", "data.yaml, line 1", "nest")
    many = tmp_path / "many.yaml"
    many.write_text("names:\n" + "".join(f"  {number}: class {number}\n" for number in range(20_000)))
    assert len(read_settings(many, Complaints()).names or ()) == 20_000
    make(tmp_path / "huge", "names: [cat, dog]\n" + "# more\n" * 200_000)
    refused(tmp_path / "huge", "data.yaml has 1,400,018 bytes")
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("test", ["null", "~", "", "[]", "''", "[null]"])
def test_no_test_split(tmp_path: Path, test: str) -> None:
    make(tmp_path, f"names: [cat, dog]{TAIL}test: {test}\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3}
    assert notes(tmp_path) == []


@pytest.mark.parametrize("test", ["../test/images", "images/test", "test.txt", "/home/me/set/images/test"])
def test_a_missing_test_folder_is_noted(tmp_path: Path, test: str) -> None:
    make(tmp_path, f"names: [cat, dog]{TAIL}test: {test}\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3}
    (note,) = notes(tmp_path)
    assert f"test is at {test}, which is not there" in note


def test_several_folders_of_a_split(tmp_path: Path) -> None:
    make(tmp_path, "names: [cat, dog]\ntrain: images/train\nval: [images/val, images/more]\n")
    picture(tmp_path / "images" / "more" / "more.jpg")
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 4}


@pytest.mark.parametrize(
    ("path", "train", "noted"),
    [
        ("C:\\Users\\me\\set", "images\\train", False),
        ("/home/me/set", "images/train", False),
        ("", "/home/me/set/images/train", True),
        ("", "C:\\Users\\me\\set\\images\\train", True),
        ("", "./data/set/images/train/", True),
        ("", "Images/Train", True),
        (".", "./images/train", False),
    ],
)
def test_paths_of_another_machine(tmp_path: Path, path: str, train: str, noted: bool) -> None:
    make(tmp_path, f"names: [cat, dog]\npath: {path}\ntrain: {train}\nval: images/val\n")
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3}
    found = notes(tmp_path)
    assert [f"{tmp_path / 'images' / 'train'} was read" in note for note in found] == [True] * noted


def test_a_path_with_two_readings_is_noted(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "names: [cat, dog]\ntrain: ../images/train\nval: ../images/val\n")
    make(tmp_path, None)
    dataset = load_dataset(root)
    assert {Path(dataset.name(i)).parts[-4] for i in range(6)} == {"set"}
    assert [note.partition("was read, not ")[2] for note in notes(root)] == [
        str(root / ".." / "images" / split) for split in ("train", "val")
    ]


def test_obj_data(tmp_path: Path) -> None:
    make(tmp_path, None)
    (tmp_path / "voc.names").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    for split in ("train", "val"):
        (tmp_path / f"{split}.list").write_text(f"images/{split}/{split}0.jpg\n")
    text = (
        "# a\nclasses= 2\ntrain  = /home/me/train.list\nvalid  = cfg/val.list # b\nnames = data/voc.names\nbackup = x\n"
    )
    (tmp_path / "voc.data").write_text(text)
    dataset = load_dataset(tmp_path)
    assert (dataset.labels, dataset.split_counts()) == (("cat", "dog"), {"train": 1, "val": 1})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes = 3\nnames = obj.names\n", ["classes is 3, but", "has 2 names"]),
        ("names = gone.names\n", ["names is at gone.names"]),
        ("names = obj.names\ntrain = gone.txt\n", ["train is at gone.txt"]),
        ("names = obj.names\nnames = obj.names\n", ["line 2", "twice"]),
        ("names = obj.names\ntrain\n", ["line 2", "key = value"]),
    ],
)
def test_obj_data_that_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    make(tmp_path, None)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(text)
    refused(tmp_path, "obj.data", *words)


@pytest.mark.parametrize("name", ["classes.txt", "Classes.txt", "obj.names", "labels/classes.txt", "labels.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_files_of_names(tmp_path: Path, name: str, encoding: str) -> None:
    (make(tmp_path, None) / name).write_bytes("çat\r\ndog\r\n\r\n".encode(encoding))
    assert load_dataset(tmp_path).labels == ("çat", "dog")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"cat\n\ndog\n", ["line 2", "blank line"]),
        (b"cat\ncat\n", ["classes 0 and 1"]),
        (b"", ["names no class"]),
        (b"c\xe4t\ndog\n", ["byte 1 is not text in UTF-8"]),
        (b"cat\n\0dog\n", ["zero bytes"]),
        (b"\0" * 40, ["zero bytes"]),
    ],
)
def test_files_of_names_that_are_refused(tmp_path: Path, data: bytes, words: list[str]) -> None:
    (make(tmp_path, None) / "classes.txt").write_bytes(data)
    refused(tmp_path, "classes.txt", *words)


def test_files_of_other_names(tmp_path: Path) -> None:
    make(tmp_path / "one")
    (tmp_path / "one" / "classes.txt").write_text("dog\ncat\n")
    assert load_dataset(tmp_path / "one").labels == ("cat", "dog")
    (note,) = notes(tmp_path / "one")
    assert "classes.txt names other classes than" in note
    for split, names in (("train", "cat\ndog\n"), ("valid", "dog\ncat\n")):
        picture(tmp_path / "two" / split / f"{split}.jpg")
        (tmp_path / "two" / split / f"{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (tmp_path / "two" / split / "classes.txt").write_text(names)
    refused(tmp_path / "two", "train/classes.txt and", "valid/classes.txt name other classes")
    (tmp_path / "two" / "valid" / "classes.txt").write_text("cat\ndog\n")
    assert {name: rows[0][0] for name, rows in objects(load_dataset(tmp_path / "two")).items()} == {
        "train.jpg": "cat",
        "valid.jpg": "cat",
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Valid", "val"), ("val2017", "val"), ("test-dev", "test"), ("test-dev2017", "test"),
        ("obj_Train_data", "train"), ("training_logs", None), ("latest", None), ("train_val", None), ("images", None),
    ],
)  # fmt: skip
def test_folders_of_splits(name: str, split: str | None) -> None:
    assert split_folder(name) == split
