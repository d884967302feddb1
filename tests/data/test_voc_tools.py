"""Pascal VOC's files as tools write them that are not VOC's own: names, lists, folders, encodings, numbers."""

from pathlib import Path
from typing import Any

import pytest

from foveal.data.sources import load_dataset, survey
from tests.data.annotated import picture, voc
from tests.data.test_coco import objects, refused
from tests.data.test_voc import lists

NAMES = [f"{n}" for n in range(8)]
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A box 2, 3, 10, 12 in each image."""
    for name in NAMES:
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        voc(tmp_path / "Annotations" / f"{name}.xml", [("dog", 3, 4, 10, 12)], filename=f"{name}.jpg")
    return tmp_path


WHOLE = {f"{name}.jpg": [("dog", [2, 3, 10, 12])] for name in NAMES}


def edit(root: Path, old: str, new: str, encoding: str = "utf-8") -> None:
    for name in NAMES:
        file = root / "Annotations" / f"{name}.xml"
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding)


# --- images ---


def test_the_image_that_is_named_not_a_mask_beside_it(root: Path, capsys: Shown) -> None:
    for name in NAMES:
        picture(root / "JPEGImages" / f"{name}.png", seed=7)
    assert objects(load_dataset(root)) == WHOLE
    assert capsys.readouterr().err == ""


def test_path_where_there_is_no_filename(root: Path) -> None:
    for name in NAMES:
        picture(root / "JPEGImages" / f"{name}.png", seed=7)
    edit(root, "</filename>", "</filename><path>D:\\set\\JPEGImages\\x</path>")
    for name in NAMES:
        file = root / "Annotations" / f"{name}.xml"
        text = file.read_text().replace(f"<filename>{name}.jpg</filename>", "").replace("\\x<", f"\\{name}.jpg<")
        file.write_text(text)
    assert objects(load_dataset(root)) == WHOLE


def test_two_images_of_which_none_is_named(root: Path) -> None:
    picture(root / "JPEGImages" / "3.png", seed=7)
    voc(root / "Annotations" / "3.xml", [("dog", 3, 4, 10, 12)], filename="elsewhere.jpg")
    refused(root, "3.xml", "3.jpg", "3.png", "it names none of them")


def test_the_name_of_the_file_where_the_named_image_is_gone(root: Path, capsys: Shown) -> None:
    edit(root, ".jpg</filename>", ".jpeg</filename>")
    assert objects(load_dataset(root)) == WHOLE
    assert "images that their annotation calls otherwise" in (err := capsys.readouterr().err)
    assert f": 8, first {root}/Annotations/0.xml with 0.jpeg" in err
    edit(root, ".jpeg</filename>", "</filename>")
    assert objects(load_dataset(root)) == WHOLE
    assert capsys.readouterr().err == ""


def test_a_filename_of_another_annotation_is_stale(root: Path, capsys: Shown) -> None:
    voc(root / "Annotations" / "3.xml", [("cat", 1, 1, 5, 5)], filename="4.jpg")
    found = objects(load_dataset(root))
    assert found["3.jpg"] == [("cat", [0, 0, 5, 5])]
    assert found["4.jpg"] == WHOLE["4.jpg"]
    assert (
        f"that name the image of another annotation; the one with the name of the XML file is taken: 1, first {root}/"
        in (capsys.readouterr().err)
    )


def test_a_filename_of_an_image_without_annotation(root: Path, capsys: Shown) -> None:
    picture(root / "JPEGImages" / "new.jpg")
    voc(root / "Annotations" / "3.xml", [("cat", 1, 1, 5, 5)], filename="new.jpg")
    found = objects(load_dataset(root))
    assert found["new.jpg"] == [("cat", [0, 0, 5, 5])]
    assert "3.jpg" not in found
    assert "the one they name is taken: 1, first" in capsys.readouterr().err


# --- lists and folders ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "line",
    ["{}\n", "{}\r\n", "{}  1\n", "{} -1\n", "{}.jpg\n", "{}.xml\r\n", "JPEGImages/{}.jpg\n", "\\set\\{}.jpg  0\n"],
)
def test_lists(root: Path, encoding: str, line: str) -> None:
    lists(root)
    for split, names in (("train", NAMES[:5]), ("val", NAMES[5:])):
        text = "".join(map(line.format, names))
        (root / f"ImageSets/Main/{split}.txt").write_bytes(text.encode(encoding))
    assert load_dataset(root).split_counts() == {"train": 5, "val": 3}


def test_lists_of_names_with_spaces(tmp_path: Path) -> None:
    for name in NAMES:
        picture(tmp_path / "JPEGImages" / f"my dog {name}.jpg")
        voc(tmp_path / "Annotations" / f"my dog {name}.xml", [("dog", 3, 4, 10, 12)], filename=f"my dog {name}.jpg")
    lists(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("my dog 0\nmy dog 1  -1\nmy dog 2\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("my dog 3 1\nmy dog 4\n\n")
    assert load_dataset(tmp_path).select("test").class_counts() == {"dog": 2}
    assert load_dataset(tmp_path).split_counts() == {"train": 2, "val": 1, "test": 2}


def test_what_no_list_names_is_noted(root: Path, capsys: Shown) -> None:
    lists(root, train="0 1 2", test="4 5")
    assert len(load_dataset(root)) == 5
    assert f"annotations that are in no list of ImageSets are left out: 3, first {root}/Annotations/3.xml" in (
        capsys.readouterr().err
    )
    lists(root, train="0 1 2 2", test="4 5")
    assert len(load_dataset(root)) == 5


def test_lists_of_single_classes_are_no_splits(root: Path, capsys: Shown) -> None:
    lists(root, dog_train="0 1", dog_val="2")
    assert len(load_dataset(root)) == 8
    assert "ImageSets/Main has no list train, val or test: class and content of each image" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["{split}/Annotations,{split}/JPEGImages", "Annotations/{split},JPEGImages/{split}"])
def test_folders_of_splits(tmp_path: Path, layout: str) -> None:
    for split in ("train", "val"):
        annotations, images = layout.format(split=split).split(",")
        for n in range(3):
            picture(tmp_path / images / f"{n}.jpg", seed=n + 10 * (split == "val"))
            voc(tmp_path / annotations / f"{n}.xml", [("dog", 3, 4, 10, 12)], filename=f"{n}.jpg")
    dataset = load_dataset(tmp_path)
    assert dataset.split_counts() == {"train": 3, "val": 3}
    for split in ("train", "val"):
        view = dataset.select(split)
        assert all(f"/{split}" in view.name(i) for i in range(3))


def test_folders_within(tmp_path: Path) -> None:
    for folder in ("a", "b/c"):
        for n in range(4):
            picture(tmp_path / "JPEGImages" / folder / f"{n}.jpg", seed=len(folder) * 10 + n)
            voc(tmp_path / "Annotations" / folder / f"{n}.xml", [(folder[0], 3, 4, 10, 12)], filename=f"{n}.jpg")
    dataset = load_dataset(tmp_path)
    for i in range(len(dataset)):
        target: Any = dataset.target(i)
        assert f"JPEGImages/{dataset.labels[int(target.labels[0])]}/" in dataset.name(i)
    lists(tmp_path, train="a/0 a/1 b/c/0 b/c/1", val="a/2 b/c/3")
    assert load_dataset(tmp_path).split_counts() == {"train": 4, "val": 2}


# --- what is in a file ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb2312", "gbk", "iso-8859-1", "windows-1251"])
def test_encodings(root: Path, encoding: str) -> None:
    name = {"gb2312": "狗", "gbk": "狗", "windows-1251": "пёс"}.get(encoding, "Köter")
    head = '<?xml version="1.0" encoding="{}"?>'.format(encoding.removesuffix("-sig"))
    edit(root, "<annotation>", f"{head}<annotation>")
    edit(root, "<name>dog", f"<name>{name}", encoding)
    assert load_dataset(root).labels == (name,)


def test_namespaces(root: Path) -> None:
    edit(root, "<annotation>", '<annotation xmlns="http://example.org/voc" xmlns:x="http://example.org/x">')
    edit(root, "<difficult>0</difficult>", "<x:difficult>1</x:difficult>")
    dataset = load_dataset(root)
    assert objects(dataset) == WHOLE
    assert all(bool(dataset.target(i).ignored.all()) for i in range(8))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("word", "hard"), [("True", True), ("yes", True), (" 1 ", True), ("0", False), ("False", False)]
)
def test_difficult(root: Path, word: str, hard: bool) -> None:
    edit(root, "<difficult>0<", f"<difficult>{word}<")
    ignored = load_dataset(root).target(0).ignored  # type: ignore[union-attr]
    assert (ignored is not None and bool(ignored[0])) == hard


@pytest.mark.parametrize("three", ["3.0", "3,0", "3e0", " 3\n", "+3"])
def test_numbers(root: Path, three: str) -> None:
    edit(root, "<xmin>3<", f"<xmin>{three}<")
    assert objects(load_dataset(root)) == WHOLE


def test_parts_have_names_and_boxes_of_their_own(root: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    edit(root, "<object>", f"<object>{part}")
    assert objects(load_dataset(root)) == WHOLE


@pytest.mark.parametrize(
    "polygon",
    [
        "<x1>2</x1><y1>3</y1><x2>10</x2><y2>3</y2><x3>5</x3><y3>12</y3>",
        "<pt><x>2</x><y>3</y></pt><pt><x>10</x><y>3</y></pt><pt><x>5</x><y>12</y></pt>",
    ],
)
def test_a_polygon_in_place_of_a_box(root: Path, polygon: str, capsys: Shown) -> None:
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>10</xmax><ymax>12</ymax></bndbox>"
    edit(root, box, f"<polygon>{polygon}</polygon>")
    assert objects(load_dataset(root)) == WHOLE
    assert "boxes that are missing and taken from the polygon: 8, first" in capsys.readouterr().err
    edit(root, polygon, "<x1>3</x1>")
    refused(root, "0.xml, object 1", "no bndbox")


def test_boxes_that_begin_at_0_are_noted_and_not_clipped(root: Path, capsys: Shown) -> None:
    voc(root / "Annotations" / "1.xml", [("dog", 0, 4, 10, 12), ("dog", 3, 0, 10, 12)], filename="1.jpg")
    assert objects(load_dataset(root))["1.jpg"] == [("dog", [0, 3, 10, 12]), ("dog", [2, 0, 10, 12])]
    err = capsys.readouterr().err
    assert "clipped" not in err
    assert "boxes that begin at pixel 0, while VOC counts from 1" in err
    assert f": 2, first {root}/Annotations/1.xml, object 1" in err
    assert survey(root)[1].told == {}


def test_boxes_in_shares(root: Path) -> None:
    edit(
        root,
        "<xmin>3</xmin><ymin>4</ymin><xmax>10</xmax><ymax>12</ymax>",
        "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.4</xmax><ymax>0.9</ymax>",
    )
    refused(root, "0.xml, object 1", "8 of 8 boxes", "not shares of the sides")


def test_names_that_are_quoted(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / "images" / f"a b{n}.jpg")
        voc(tmp_path / "Annotations" / f"{n}.xml", [("dog", 3, 4, 10, 12)], filename=f"a%20b{n}.jpg")
    assert set(objects(load_dataset(tmp_path))) == {f"a b{n}.jpg" for n in range(8)}
