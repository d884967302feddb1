"""COCO's JSON as a data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.data.dataset import Dataset
from foveal.data.sources import load_dataset, survey
from foveal.errors import InputError
from tests.data.annotated import coco, picture, write_json

CLASSES = {7: "owl", 3: "cat", 90: "dog"}
NAMES = [f"{n}.jpg" for n in range(12)]


def objects(dataset: Dataset) -> dict[str, list[tuple[str, list[float]]]]:
    found = {}
    for i in range(len(dataset)):
        target: Any = dataset.target(i)
        rows = zip(target.labels.tolist(), target.boxes.tolist(), strict=True)
        found[Path(dataset.name(i)).name] = [(dataset.labels[label], box) for label, box in rows]
    return found


def refused(source: Path, *words: str, task: str | None = None) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset(source, task)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        picture(tmp_path / "images" / name)
    return tmp_path


def document(**changes: Any) -> dict[str, Any]:
    images: dict[str, list[Any]] = {name: [] for name in NAMES}
    images["0.jpg"] = [(7, 1, 2, 10, 20), (3, 0.5, 0, 4.25, 6)]
    images["1.jpg"] = [(90, 30, 20, 10, 10, {"iscrowd": 1, "area": 17.5})]
    return {**coco(CLASSES, images), **changes}


def test_a_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset(write_json(root / "annotations.json", document()))
    assert (dataset.task, dataset.labels, len(dataset)) == ("detect", ("cat", "owl", "dog"), 12)
    found = objects(dataset)
    assert found["0.jpg"] == [("owl", [1, 2, 11, 22]), ("cat", [0.5, 0, 4.75, 6])]
    assert found["1.jpg"] == [("dog", [30, 20, 40, 30])]
    assert found["2.jpg"] == []
    assert dataset.class_counts() == {"cat": 1, "owl": 1, "dog": 1}
    assert set(dataset.split_counts()) == {"train", "val", "test"}
    assert dataset.image(0).shape == (3, 30, 40)
    place = [Path(dataset.name(i)).name for i in range(12)].index("1.jpg")
    target: Any = dataset.target(place)
    assert target.crowd.tolist() == [True]
    assert target.areas.tolist() == [17.5]
    assert target.masks is None
    assert capsys.readouterr().err == ""


def test_views_count_their_own_objects(root: Path) -> None:
    dataset = load_dataset(write_json(root / "annotations.json", document()))
    views = [dataset.select(split) for split in ("train", "val", "test")]
    for view in views:
        counted = dict.fromkeys(dataset.labels, 0)
        for rows in objects(view).values():
            for label, _ in rows:
                counted[label] += 1
        assert view.class_counts() == counted
        assert view.absent_classes() == [label for label, count in counted.items() if not count]
    changed = dataset.relabel(("bee", "dog", "cat", "owl"))
    assert changed.class_counts() == {"bee": 0, "dog": 1, "cat": 1, "owl": 1}
    assert objects(changed) == objects(dataset)


@pytest.mark.parametrize(
    ("json_at", "images_at"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_val2017.json", "images/val"),
        ("annotations/val.json", "val"),
        ("annotations/val.json", "images"),
        ("annotations/all.json", "."),
        ("valid/_annotations.coco.json", "valid"),
    ],
)
def test_where_images_are(tmp_path: Path, json_at: str, images_at: str) -> None:
    for name in NAMES:
        picture(tmp_path / images_at / name)
    file = write_json(tmp_path / json_at, document())
    dataset = load_dataset(file)
    assert len(dataset) == 12
    assert dataset.image(3).shape == (3, 30, 40)
    split = {"val": 12} if "val" in json_at else None
    assert split is None or dataset.split_counts() == split
    assert objects(load_dataset(tmp_path)) == objects(dataset)


def test_a_folder_with_a_file_for_each_split(tmp_path: Path) -> None:
    for split, ids in (("train", {1: "cat", 2: "dog"}), ("val", {1: "cat", 2: "dog"}), ("test", {5: "dog", 9: "emu"})):
        images = {f"{split}{n}.jpg": [(min(ids), 1, 1, 5, 5)] for n in range(4)}
        for name in images:
            picture(tmp_path / f"{split}2017" / name)
        write_json(tmp_path / "annotations" / f"instances_{split}2017.json", coco(ids, images))
    write_json(tmp_path / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    dataset = load_dataset(tmp_path)
    assert dataset.split_counts() == {"train": 4, "val": 4, "test": 4}
    assert dataset.labels == ("cat", "dog", "emu")  # by name, whatever their ids in each file
    assert dataset.select("test").class_counts() == {"cat": 0, "dog": 4, "emu": 0}
    alone = load_dataset(tmp_path / "annotations" / "instances_train2017.json")
    assert set(alone.split_counts()) == {"train", "val"}


def test_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        images = {f"{split}{n}.jpg": [(1, 1, 1, 5, 5)] for n in range(3)}
        for name in images:
            picture(tmp_path / split / name)
        write_json(tmp_path / split / "_annotations.coco.json", coco({0: "cells", 1: "RBC"}, images))
    dataset = load_dataset(tmp_path)
    assert dataset.split_counts() == {"train": 3, "val": 3, "test": 3}
    assert dataset.class_counts() == {"cells": 0, "RBC": 9}


def test_masks_are_decoded_on_request(root: Path) -> None:
    square = [10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]
    changes = [
        {"segmentation": [square, [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]},
        {"segmentation": {"size": [30, 40], "counts": [60, 30, 30 * 40 - 90]}},
        {"segmentation": {"size": [30, 40], "counts": "l1n0Pn0"}},
    ]
    from foveal.ops.masks import rle_text

    changes[2]["segmentation"]["counts"] = rle_text(torch.tensor([60, 30, 30 * 40 - 90]))  # type: ignore[index]
    images: dict[str, list[Any]] = {"0.jpg": [(3, 0, 0, 20, 15, changes[0]), (3, 2, 0, 1, 30, changes[1])]}
    images |= {"1.jpg": [], "2.jpg": [(3, 2, 0, 1, 30, changes[2])]}
    dataset = load_dataset(write_json(root / "val.json", coco(CLASSES, images)))
    table: Any = dataset.targets
    assert table[0].masks is None
    whole = table.with_masks()
    expected = torch.zeros(3, 30, 40, dtype=torch.bool)
    expected[0, 5:15, 10:20] = expected[0, :4, :4] = True
    expected[1, :, 2] = True
    assert torch.equal(whole[0].masks.stack(), expected[:2])
    assert whole[1].masks.shape == (0, 30, 40)
    assert torch.equal(whole[2].masks.stack(), expected[1:2])
    bare = load_dataset(write_json(root / "val.json", document()))
    with pytest.raises(InputError, match="3 of 3 objects have no mask"):
        bare.targets.with_masks()  # type: ignore[union-attr]


def test_key_points_are_at_the_centres_of_their_pixels(root: Path) -> None:
    points = {"keypoints": [3, 4, 2, 0, 0, 0, 9, 1, 1]}
    images = {"0.jpg": [(3, 0, 0, 20, 15, points), (7, 0, 0, 5, 5)], "1.jpg": []}
    table: Any = load_dataset(write_json(root / "val.json", coco(CLASSES, images))).targets
    first = [[3.5, 4.5, 2], [0, 0, 0], [9.5, 1.5, 1]]
    assert table[0].keypoints.tolist() == [first, [[0, 0, 0]] * 3]
    assert table[1].keypoints.shape == (0, 3, 3)


def test_boxes_that_stick_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images: dict[str, list[Any]] = {name: [] for name in NAMES}
    images["0.jpg"] = [(3, -5, 10, 10, 50), (3, 50, 10, 5, 5), (3, 3, 3, 0, 5), (3, 30, 20, 10.05, 10), (3, 1, 1, 2, 2)]
    file = write_json(root / "annotations.json", coco(CLASSES, images))
    dataset = load_dataset(file)
    assert objects(dataset)["0.jpg"] == [("cat", b) for b in ([0, 10, 5, 30], [30, 20, 40, 30], [1, 1, 3, 3])]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "of 5 boxes 1 stuck out of the image and were clipped, 1 lay outside it, 1 had no area" in err
    assert str(file) in err
    _, complaints = survey(file)
    assert complaints.collected == []
    told = [text for texts in complaints.told.values() for text in texts]
    assert [text.split(" (id")[0] for text in told] == [f"{file}, annotation {n}" for n in (1, 2, 3)]
    assert all("0.jpg" in text for text in told)


def change(place: str, index: int, **values: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(document()))
    changed[place][index].update(values)
    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (change("annotations", 1, bbox=[1, 2, float("nan"), 4]), ["annotation 2 (id 2)", "0.jpg", "none in pixels"]),
        (change("annotations", 1, bbox=[1, 2, 1e400, 4]), ["none in pixels"]),
        (change("annotations", 1, bbox=[1, 2, 10**400, 4]), ["none in pixels"]),
        (change("annotations", 1, bbox=[10, 2, -5, 4]), ["annotation 2", "0.jpg", "ends before it begins"]),
        (change("annotations", 1, bbox=[1, 2, 3]), ["annotation 2", "not four numbers"]),
        (change("annotations", 1, bbox=None), ["annotation 2", "not four numbers"]),
        (change("annotations", 1, bbox=["one", 2, 3, 4]), ["annotation 2", "not four numbers"]),
        (change("annotations", 1, category_id=4), ["annotation 2", "no category has the id 4"]),
        (change("annotations", 1, category_id=2), ["no category has the id 2", "one too low"]),
        (change("annotations", 1, category_id=91), ["no category has the id 91", "one too high"]),
        (change("annotations", 1, category_id="x"), ["annotation 2", "no category has the id 'x'"]),
        (change("annotations", 1, image_id=999), ["annotation 2", "no image with the id 999"]),
        (change("annotations", 1, image_id=[]), ["annotation 2", "no image with the id []"]),
        (change("annotations", 1, id=1), ["annotation 2 (id 1)", "annotation 1 has its id"]),
        (change("images", 1, file_name="gone.jpg"), ["image with the id 20", "gone.jpg"]),
        (change("images", 1, file_name="a\0b.jpg"), ["image with the id 20"]),
        (change("images", 1, file_name="\ud800.jpg"), ["image with the id 20"]),
        (change("images", 1, file_name="0.jpg"), ["image with the id 20", "0.jpg is there twice"]),
        (change("images", 1, id=10), ["image 2", "1.jpg has the id of 0.jpg, 10"]),
        (change("images", 1, id=None), ["image 2", "no id"]),
        (change("categories", 1, name="owl"), ["category 2", "'owl'"]),
        (change("categories", 1, id=7), ["category 2", "its id, 7"]),
        (change("categories", 1, name=" "), ["category 2", "no name"]),
        (document(categories=[]), ["no category has the id 7", "2 more annotations of no category"]),
        (document(categories=[], annotations=[]), ["names no classes"]),
        (document(images=[]), ["no images in it"]),
        (document(images={}), ["not COCO's JSON"]),
        (document(annotations=[3]), ["annotation 1", "it is no object"]),
        ([], ["not COCO's JSON"]),
        ({"categories": []}, ["not COCO's JSON"]),
    ],
)
def test_what_cannot_be_understood(root: Path, changed: Any, words: list[str]) -> None:
    file = write_json(root / "annotations.json", changed)
    refused(file, str(file), *words)
    try:
        dataset, complaints = survey(file)
    except InputError:
        return  # one thing is wrong with the whole
    assert complaints.collected
    if dataset is not None:
        assert len(dataset) in (11, 12)
        for index in range(len(dataset)):
            assert torch.isfinite(dataset.target(index).boxes).all()  # type: ignore[union-attr]


def test_many_of_a_kind_are_one_line(root: Path) -> None:
    changed = document()
    for annotation in changed["annotations"]:
        annotation["bbox"] = [10, 10, -1, 5]
    file = write_json(root / "annotations.json", changed)
    refused(file, "annotation 1", "and 2 more boxes that end before they begin")
    _, complaints = survey(file)
    assert complaints.collected is not None
    assert len(complaints.collected) == 3


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"images": 1' + b"0" * 5000 + b"}"])
def test_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(data)
    refused(file, str(file))


def test_folders_that_are_unclear(root: Path) -> None:
    write_json(root / "annotations" / "a.json", document())
    write_json(root / "annotations" / "train.json", document())
    refused(root, "a.json does not say of which split")
    (root / "annotations" / "a.json").rename(root / "annotations" / "training.json")
    refused(root, "both of split train")
    file = write_json(root / "other.json", document())
    for name in NAMES:
        (root / "images" / name).unlink()
    refused(file, "no image that it names is there, as 0.jpg", "looked in", str(root / "images"))


def test_a_json_of_something_else_leaves_folders_of_classes_alone(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for n in range(6):
            picture(tmp_path / label / f"{label}{n}.jpg")
    write_json(tmp_path / "names.json", {"0": "cat", "1": "dog"})
    assert load_dataset(tmp_path).task == "classify"
    refused(tmp_path, "is data to classify, not to detect", task="detect")


def test_sizes_that_the_file_does_not_say_are_read(root: Path) -> None:
    picture(root / "images" / "0.jpg", (30, 40), turned=True)
    changed = document()
    for image in changed["images"]:
        del image["width"]
    changed["annotations"][0]["bbox"] = [35, 5, 50, 50]
    dataset = load_dataset(write_json(root / "val.json", changed))
    assert dataset.targets.sizes.tolist() == [[30, 40]] * 12  # type: ignore[union-attr]
    assert objects(dataset)["0.jpg"][0] == ("owl", [35, 5, 40, 30])


def test_an_image_with_30000_objects(root: Path) -> None:
    draw = np.random.default_rng(0)
    boxes = [(3, *draw.uniform(0, 20, 2).tolist(), 3, 3) for _ in range(30_000)]
    dataset = load_dataset(write_json(root / "val.json", coco(CLASSES, {"0.jpg": boxes, "1.jpg": []})))
    target: Any = dataset.target(0)
    assert len(target) == 30_000
    assert np.allclose(target.boxes[:, :2].numpy(), [box[1:3] for box in boxes])
    assert dataset.class_counts()["cat"] == 30_000
