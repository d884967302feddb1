"""Data to detect is found by the content of its files, whatever its folders are called."""

from pathlib import Path

import pytest

from foveal.data.sources import load_dataset, survey
from foveal.errors import InputError
from tests.data.annotated import coco, picture, voc, write_json
from tests.data.test_coco import objects

NAMES = [f"{n}" for n in range(4)]
LINE = "0 0.5 0.5 0.5 0.4\n"  # of an image of 40 x 30 pixels: (10, 9, 30, 21)


def pictures(folder: Path, names: list[str] = NAMES) -> None:
    for name in names:
        picture(folder / f"{name}.jpg")


def as_voc(folder: Path, names: list[str] = NAMES) -> None:
    for name in names:
        voc(folder / f"{name}.xml", [("dog", 11, 10, 30, 21)])


def as_yolo(folder: Path, names: list[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(LINE)


def as_coco(file: Path, names: list[str] = NAMES) -> None:
    write_json(file, coco({1: "dog"}, {f"{name}.jpg": [(1, 10, 9, 20, 12)] for name in names}))


def check(root: Path, count: int = len(NAMES)) -> None:
    """All images, each with its one dog."""
    dataset = load_dataset(root)
    assert (dataset.task, dataset.labels, len(dataset)) == ("detect", ("dog",), count)
    for found in objects(dataset).values():
        assert found == [("dog", pytest.approx([10, 9, 30, 21], abs=1e-4))]


@pytest.mark.parametrize("annotations", ["annots", "xmls", "labels", "Annotation", "voc/xml", "XML files"])
@pytest.mark.parametrize("images", ["images", "photos", "."])
def test_voc(tmp_path: Path, annotations: str, images: str) -> None:
    pictures(tmp_path / images)
    as_voc(tmp_path / annotations)
    check(tmp_path)


@pytest.mark.parametrize("file", ["labels/a.json", "coco/a.json", "coco/instances/a.json", "annots/instances_all.json"])
@pytest.mark.parametrize("images", ["images", "photos", "."])
def test_coco(tmp_path: Path, file: str, images: str) -> None:
    pictures(tmp_path / images)
    as_coco(tmp_path / file)
    check(tmp_path)


@pytest.mark.parametrize("annotations", ["annotations", "txt", "yolo labels", "labels"])
@pytest.mark.parametrize("images", ["images", "photos", "."])
@pytest.mark.parametrize("names", [".", "there"])
def test_yolo(tmp_path: Path, annotations: str, images: str, names: str) -> None:
    pictures(tmp_path / images)
    as_yolo(tmp_path / annotations)
    (tmp_path / (annotations if names == "there" else names) / "classes.txt").write_text("dog\n")
    check(tmp_path)


def test_a_data_yaml_whose_labels_are_in_another_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "photos" / "train", NAMES[:3])
    pictures(tmp_path / "photos" / "val", NAMES[3:])
    as_yolo(tmp_path / "annotations" / "train", NAMES[:3])
    as_yolo(tmp_path / "annotations" / "val", NAMES[3:])
    (tmp_path / "data.yaml").write_text("train: photos/train\nval: photos/val\nnames: [dog]\n")
    check(tmp_path)
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 1}


def write(kind: str, folder: Path, names: list[str]) -> None:
    {"voc": as_voc, "yolo": as_yolo}.get(kind, lambda at, of: as_coco(at / "a.json", of))(folder, names)


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco"])
@pytest.mark.parametrize("images", ["photos/{}", "{}"])
@pytest.mark.parametrize("annotations", ["annots/{}"])
def test_folders_of_splits(tmp_path: Path, kind: str, images: str, annotations: str) -> None:
    for split, names in {"train": NAMES[:3], "val": NAMES[3:]}.items():
        pictures(tmp_path / images.format(split), names)
        write(kind, tmp_path / annotations.format(split), names)
    (tmp_path / "classes.txt").write_text("dog\n")
    check(tmp_path)
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 1}


def test_the_folder_of_the_image_names_its_split(tmp_path: Path) -> None:
    pictures(tmp_path / "train", NAMES[:3])
    pictures(tmp_path / "val", NAMES[3:])
    as_voc(tmp_path / "annots")
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 1}


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco"])
def test_one_folder_too_high(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "download" / "export"
    pictures(root / "images")
    write(kind, root / {"voc": "Annotations", "yolo": "labels", "coco": "annotations"}[kind], NAMES)
    (root / "classes.txt").write_text("dog\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.txt").write_text("how it was made\n")
    check(tmp_path)


@pytest.mark.parametrize("part", ["JPEGImages", "Annotations"])
def test_one_folder_too_low(tmp_path: Path, part: str) -> None:
    pictures(tmp_path / "JPEGImages")
    as_voc(tmp_path / "Annotations")
    with pytest.raises(InputError, match=f"{part} is a part of Pascal VOC data: pass {tmp_path}"):
        load_dataset(tmp_path / part)


def test_images_of_coco_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    as_coco(tmp_path / "annotations" / "a.json")
    with pytest.raises(InputError, match=f"images is a part of COCO data: pass {tmp_path}"):
        load_dataset(tmp_path / "images")


def test_what_was_found_is_noted(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    as_voc(tmp_path / "annots")
    notes = survey(tmp_path)[1].notes
    assert any("read as Pascal VOC, by the content of the files" in note for note in notes)


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco"])
@pytest.mark.parametrize("where", ["cat", "dog", "notes"])
def test_folders_of_classes_stay_classes(tmp_path: Path, kind: str, where: str) -> None:
    """Whatever files lie in one of them, or beside them."""
    pictures(tmp_path / "cat", NAMES[:2])
    pictures(tmp_path / "dog", NAMES[2:])
    write(kind, tmp_path / where, NAMES)
    if where == "notes":
        pictures(tmp_path / "notes", ["other"])
    assert load_dataset(tmp_path).task == "classify"


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco"])
def test_splits_of_classes_stay_classes(tmp_path: Path, kind: str) -> None:
    for split in ("train", "val"):
        pictures(tmp_path / split / "cat", NAMES[:2])
        pictures(tmp_path / split / "dog", NAMES[2:])
    write(kind, tmp_path / "boxes", NAMES)
    dataset = load_dataset(tmp_path)
    assert (dataset.task, dataset.labels) == ("classify", ("cat", "dog"))


def test_other_xml_and_json_are_no_annotations(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "0.xml").write_text("<project><name>photos</name></project>")
    (tmp_path / "meta" / "0.json").write_text('{"images": ["0.jpg"], "annotations": "none"}')
    (tmp_path / "meta" / "1.txt").write_text("one image\n")
    with pytest.raises(InputError, match="no images in the folder of class meta"):
        load_dataset(tmp_path)


def test_named_folders_go_before_others(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    as_yolo(tmp_path / "labels")
    as_coco(tmp_path / "backup" / "a.json")
    (tmp_path / "classes.txt").write_text("dog\n")
    check(tmp_path)
