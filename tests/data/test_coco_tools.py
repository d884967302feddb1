"""COCO's JSON as tools write it that are not COCO's own: ids, encodings, names of images, shapes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.data.check import check_source
from foveal.data.sources import load_dataset, survey
from tests.data.annotated import coco, picture, write_json
from tests.data.test_coco import objects, refused

CLASSES = {1: "cat", 2: "dog"}
NAMES = [f"{n}.jpg" for n in range(8)]
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        picture(tmp_path / "images" / name)
    return tmp_path


def document(**more: Any) -> dict[str, Any]:
    """A box 2, 3, 10, 10 in each image, of classes in turn; more: what is put into the first annotation."""
    found = coco(CLASSES, {name: [(1 + n % 2, 2, 3, 10, 10)] for n, name in enumerate(NAMES)})
    found["annotations"][0].update(more)
    return found


WHOLE = {name: [(("cat", "dog")[n % 2], [2, 3, 12, 13])] for n, name in enumerate(NAMES)}


# --- ids ---


@pytest.mark.parametrize("write", [float, str, lambda number: f"{number}.0", lambda number: f" {number}"])
@pytest.mark.parametrize("key", ["image id", "image_id", "category id", "category_id", "annotation id"])
def test_ids_as_floats_and_text(root: Path, write: Any, key: str) -> None:
    found = document()
    lists = {"image id": "images", "category id": "categories"}
    for entry in found[lists.get(key, "annotations")]:
        place = "id" if key.endswith(" id") else key
        entry[place] = write(entry[place])
    assert objects(load_dataset(write_json(root / "a.json", found))) == WHOLE


def test_ids_that_are_text_stay_apart(root: Path) -> None:
    found = document()
    for number, entry in enumerate(found["images"]):
        entry["id"] = f"{number:03}" if number else "0"
    for number, entry in enumerate(found["annotations"]):
        entry["image_id"] = f"{number:03}" if number else 0
    assert objects(load_dataset(write_json(root / "a.json", found))) == WHOLE
    found["annotations"][1]["image_id"] = 1
    refused(write_json(root / "a.json", found), "annotation 2", "no image with the id 1")


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), True, None, [], {}, ""])
def test_what_is_no_id(root: Path, value: Any) -> None:
    found = document()
    found["images"][1]["id"] = value
    refused(write_json(root / "a.json", found), "image 2", "no id")
    refused(write_json(root / "a.json", document(image_id=value)), "annotation 1", "no image with the id")
    refused(write_json(root / "a.json", document(category_id=value)), "annotation 1", "no category has the id")


def test_two_ids_that_are_one(root: Path) -> None:
    found = document()
    found["images"][1]["id"] = str(found["images"][0]["id"])
    refused(write_json(root / "a.json", found), "image 2: 1.jpg has the id of 0.jpg, 10")


# --- encodings ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings(root: Path, encoding: str, capsys: Shown) -> None:
    found = document()
    found["categories"][0]["name"] = "Käfer"
    text = json.dumps(found, ensure_ascii=False)
    (root / "instances.json").write_text(text, encoding)
    assert load_dataset(root).labels == ("Käfer", "dog")
    assert ("code page of Windows" in capsys.readouterr().err) == (encoding == "cp1252")


def test_keys_that_are_there_twice(root: Path) -> None:
    text = json.dumps(document())
    once = text.replace('"image_id": 10,', '"image_id": 10, "image_id": 10,', 1)
    (root / "a.json").write_text(once)
    assert objects(load_dataset(root / "a.json")) == WHOLE
    (root / "a.json").write_text(text.replace('"image_id": 10,', '"image_id": 20, "image_id": 10,', 1))
    refused(root / "a.json", str(root / "a.json"), "two values of 'image_id'")


def test_numbers_that_are_none(root: Path) -> None:
    found = document(area=float("nan"))
    found["images"][0]["width"] = float("inf")
    found["annotations"][1]["area"] = "12,5"
    dataset = load_dataset(write_json(root / "a.json", found))
    assert objects(dataset) == WHOLE
    assert dataset.targets.areas.tolist()[:3] == [100, 12.5, 100]  # type: ignore[union-attr]


# --- categories ---


def rooted(name: str = "pets", **change: Any) -> dict[str, Any]:
    found = document()
    top = {"id": 0, "name": name, "supercategory": "none"} | change
    found["categories"] = [top, *({**entry, "supercategory": name} for entry in found["categories"])]
    return found


@pytest.mark.parametrize("name", ["pets", "cat"])
def test_the_root_of_roboflow_is_left_out(root: Path, name: str, capsys: Shown) -> None:
    dataset = load_dataset(write_json(root / "a.json", rooted(name)))
    assert dataset.labels == ("cat", "dog")
    assert f"category 0, {name!r}, groups the others" in capsys.readouterr().err


def test_a_category_0_that_is_a_class_stays(root: Path) -> None:
    found = rooted()
    found["annotations"][0]["category_id"] = 0
    assert load_dataset(write_json(root / "a.json", found)).labels == ("pets", "cat", "dog")
    assert load_dataset(write_json(root / "a.json", rooted(supercategory="animals"))).labels[0] == "pets"
    found = rooted()
    for entry in found["categories"]:
        entry["supercategory"] = "none"  # as converters write it into each
    assert load_dataset(write_json(root / "a.json", found)).labels == ("pets", "cat", "dog")


def test_classes_of_another_order_and_some_that_nothing_is_of(root: Path) -> None:
    found = document()
    found["categories"] = [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 9, "name": "emu"}]
    dataset = load_dataset(write_json(root / "a.json", found)).relabel(("cow", "cat", "dog"))
    swapped = {
        name: [({"cat": "dog", "dog": "cat"}[label], box) for label, box in rows] for name, rows in WHOLE.items()
    }
    assert objects(dataset) == swapped
    assert dataset.class_counts() == {"cow": 0, "cat": 4, "dog": 4}


# --- layouts ---


def test_key_points_alone(root: Path) -> None:
    write_json(root / "annotations" / "person_keypoints_val.json", document(keypoints=[3, 4, 2]))
    write_json(root / "annotations" / "captions_val.json", {"images": [], "annotations": []})
    dataset = load_dataset(root)
    assert objects(dataset) == WHOLE
    assert dataset.split_counts() == {"val": 8}
    write_json(root / "annotations" / "instances_train.json", document())
    assert load_dataset(root).split_counts() != {"val": 8}


def test_a_file_without_annotations(root: Path, capsys: Shown) -> None:
    found = document()
    del found["annotations"]
    dataset = load_dataset(write_json(root / "image_info_test.json", found))
    assert dataset.class_counts() == {"cat": 0, "dog": 0}
    assert "has no annotations: its images have no objects" in capsys.readouterr().err


def test_a_file_in_each_folder_of_a_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        images = {f"{split}{n}.jpg": [(1, 2, 3, 10, 10)] for n in range(3)}
        for name in images:
            picture(tmp_path / split / "images" / name)
        write_json(tmp_path / split / "labels.json", coco(CLASSES, images))
    assert load_dataset(tmp_path).split_counts() == {"train": 3, "val": 3}


@pytest.mark.parametrize(
    "name",
    [
        "images\\{}",
        "images/{}",
        ".\\images\\{}",
        "C:\\Users\\me\\set\\{}",
        "/home/me/set/images/{}",
        "http://localhost:8080/data/upload/3/{}?token=1",
        "s3://bucket/set/{}",
        "/data/local-files/?d=set%5Cphotos/{}",
        "0123abcd-{}",
        "../../upload/0123abcd-{}",
    ],
)
def test_paths_of_other_machines(root: Path, name: str, capsys: Shown) -> None:
    found = document()
    for entry in found["images"]:
        entry["file_name"] = name.format(entry["file_name"])
    assert objects(load_dataset(write_json(root / "a.json", found))) == WHOLE
    err = capsys.readouterr().err
    assert ("images at another path than their file gives: 8, first" in err) == (name != "images/{}")


def test_quoted_names(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / f"a b{n}.jpg")
    picture(tmp_path / "a%20b0.jpg", seed=99)
    found = coco(CLASSES, {f"a%20b{n}.jpg": [(1, 2, 3, 4, 5)] for n in range(8)})
    names = set(objects(load_dataset(write_json(tmp_path / "a.json", found))))
    assert names == {"a%20b0.jpg", *(f"a b{n}.jpg" for n in range(1, 8))}  # as it stands, where there is such a file


def test_images_that_may_be_several(root: Path) -> None:
    for name in NAMES:
        picture(root / "more" / name)
    for name in NAMES:
        (root / "images" / name).rename(root / "images" / f"0123abcd-{name}")
    refused(write_json(root / "a" / "a.json", document()), "no image that it names is there")
    for name in NAMES:
        picture(root / "others" / name)
    file = write_json(root / "a.json", document())
    refused(file, "there is no", "0.jpg, but", "others", "of which each may be it")


def test_a_missing_image_is_not_taken_from_another_place(root: Path) -> None:
    found = document()
    for entry in found["images"]:
        entry["file_name"] = f"images/{entry['file_name']}"
    picture(root / "images" / "other" / "0.jpg")
    (root / "images" / "0.jpg").unlink()
    picture(root / "0.jpg")
    refused(write_json(root / "a.json", found), "image with the id 10", "there is no", "images/0.jpg")


def test_images_of_another_split_are_left_alone(root: Path) -> None:
    (root / "images").rename(root / "train")
    refused(write_json(root / "instances_val.json", document()), "no image that it names is there")


# --- boxes and shapes ---


def test_boxes_in_shares(root: Path) -> None:
    found = document()
    for n, entry in enumerate(found["annotations"]):
        entry["bbox"] = [0.05, 0.1, 0.25 + n / 20, 0.5]
    file = write_json(root / "a.json", found)
    words = (str(file), "annotation 1 (id 1)", "0.jpg", "8 of 8 boxes", "not shares of the sides")
    refused(file, *words)
    assert check_source(file).faults == 1
    found["annotations"][1]["bbox"] = [0, 0, 1, 1]
    refused(write_json(file, found), *words)
    found["annotations"][2]["bbox"] = [2, 3, 4, 5]
    refused(write_json(file, found), "7 of 8 boxes")


def test_a_box_within_the_first_pixel_is_noted(root: Path, capsys: Shown) -> None:
    load_dataset(write_json(root / "a.json", document(bbox=[0, 0, 1, 1])))
    assert "boxes within the first pixel, as if in shares of the image: 1, first" in capsys.readouterr().err


def test_corners_of_all_boxes(root: Path) -> None:
    found = document()
    for n, entry in enumerate(found["annotations"]):
        entry["bbox"] = [20 + n, 10, 32 + n, 28]
    file = write_json(root / "a.json", found)
    refused(file, str(file), "annotation 1", "8 of 8 boxes", "in place of the second corner")
    found["annotations"][0]["bbox"] = [20, 10, 12, 18]  # which no corner can be
    assert len(load_dataset(write_json(file, found))) == 8


def test_boxes_a_little_too_wide_are_no_corners(root: Path) -> None:
    found = document()
    for entry in found["annotations"]:
        entry["bbox"] = [1, 1, 40, 30]
    assert len(load_dataset(write_json(root / "a.json", found))) == 8


@pytest.mark.parametrize("bbox", [["2", "3", "10", "10"], ["2.0", " 3", "1e1", 10], ["2,0", "3", "10,0", "10"]])
def test_boxes_as_text(root: Path, bbox: list[Any], capsys: Shown) -> None:
    assert objects(load_dataset(write_json(root / "a.json", document(bbox=bbox)))) == WHOLE
    assert "boxes written as text: 1, first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "segmentation",
    [[SQUARE], SQUARE, [[2, 3], [12, 3], [12, 13], [2, 13]], [[str(value) for value in SQUARE]], "code"],
)
@pytest.mark.parametrize("bbox", [[2, 3, 10, 10], None, []])
def test_shapes(root: Path, segmentation: Any, bbox: list[int] | None, capsys: Shown) -> None:
    """A polygon in a list, alone, as points, as text; a run-length code."""
    if segmentation == "code":
        runs = [2 * 30 + 3, *[10, 20] * 9, 10, 30 * 40 - 30 * 12 + 17]
        segmentation = {"size": [30, 40], "counts": runs}
    found = document()
    for entry in found["annotations"]:
        entry |= {"segmentation": segmentation, "bbox": bbox}
    dataset = load_dataset(write_json(root / "a.json", found))
    assert objects(dataset) == WHOLE
    expected = torch.zeros(1, 30, 40, dtype=torch.bool)
    expected[0, 3:13, 2:12] = True
    assert torch.equal(dataset.targets.with_masks()[0].masks.stack(), expected)  # type: ignore[union-attr]
    assert ("boxes that are missing and taken from the mask: 8" in capsys.readouterr().err) == (bbox in (None, []))


@pytest.mark.parametrize(
    "more",
    [
        {"segmentation": [SQUARE[:-1]]},
        {"segmentation": [SQUARE[:4]]},
        {"segmentation": [SQUARE, [1, float("nan"), 3, 4, 5, 6]]},
        {"segmentation": [[value / 40 for value in SQUARE]]},
        {"segmentation": {"size": [3, 4], "counts": [12]}},
        {"segmentation": {"size": [30, 40], "counts": [1201]}},
        {"segmentation": {"size": [30, 40], "counts": "\0"}},
        {"segmentation": {"size": "x", "counts": [1200]}},
        {"segmentation": 7},
        {"keypoints": [1, 2]},
        {"keypoints": "x"},
        {"keypoints": [0.2, 0.3, 2]},
    ],
)
def test_shapes_that_cannot_be_read_leave_their_box(root: Path, more: dict[str, Any], capsys: Shown) -> None:
    file = write_json(root / "a.json", document(**more))
    dataset = load_dataset(file)
    assert objects(dataset) == WHOLE
    target: Any = dataset.target(next(i for i in range(8) if dataset.name(i).endswith("/0.jpg")))
    assert target.keypoints is None
    assert dataset.targets.segments is None  # type: ignore[union-attr]
    what = "key points" if "keypoints" in more else "masks"
    err = capsys.readouterr().err
    assert f"{what} that are left out, while their boxes stay: 1, first {file}, annotation 1 (id 1), 0.jpg: " in err
    _, complaints = survey(file)
    assert complaints.collected == []
    assert len(complaints.notes) == 1
