"""What is written is read again as it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.data.builtin import digits
from foveal.data.dataset import Dataset, ImageArray
from foveal.data.objects import drawn
from foveal.data.sources import load_dataset
from foveal.data.writers import write_coco, write_predictions, write_voc, write_yolo
from foveal.errors import InputError
from foveal.structures import Objects
from tests.data.annotated import coco, picture, write_json

LABELS = ("it's", "owl \\ é <&>", "dog")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Nine images with objects of all kinds, three a split."""
    draw = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        images: dict[str, list[Any]] = {}
        for n in range(3):
            picture(tmp_path / "data" / split / f"{split}{n}.jpg", (400, 300))
            corners = draw.uniform(0, 200, (4, 2))
            sizes = draw.uniform(1, 90, (4, 2))
            rows: list[Any] = [(k % 3 + 1, *corners[k].tolist(), *sizes[k].tolist()) for k in range(4)]
            square = [*corners[0], corners[0][0] + sizes[0][0], corners[0][1], *(corners[0] + sizes[0])]
            rows[0] = (*rows[0], {"segmentation": [square], "keypoints": [3, 4, 2, 0, 0, 0], "area": 5.5})
            rows[1] = (*rows[1], {"segmentation": {"size": [300, 400], "counts": [7, 60, 120_000 - 67]}})
            rows[2] = (*rows[2], {"iscrowd": 1})
            rows[3] = (*rows[3], {"ignore": 1})
            images[f"{split}{n}.jpg"] = rows[: (4, 2, 0)[n]]
        document = coco({5 + k + number: label for k, label in enumerate(LABELS)}, images, (400, 300))
        for annotation in document["annotations"]:
            annotation["category_id"] += 4 + number
        write_json(tmp_path / "data" / split / "_annotations.coco.json", document)
    return load_dataset(tmp_path / "data")


def equal(one: Dataset, two: Dataset, *fields: str) -> None:
    assert two.labels == one.labels
    assert two.split_counts() == one.split_counts()
    places = {Path(two.name(i)).name: i for i in range(len(two))}
    for i in range(len(one)):
        expected: Any = one.target(i)
        found: Any = two.target(places[Path(one.name(i)).name])
        assert torch.equal(found.labels, expected.labels)
        assert (found.boxes - expected.boxes).abs().max() < 1e-4 if len(expected) else len(found) == 0
        for field in fields:
            assert torch.allclose(getattr(found, field).double(), getattr(expected, field).double()), field


def test_coco(dataset: Dataset, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_coco(dataset.select(split), tmp_path / "out" / "annotations" / f"instances_{split}.json")
    again = load_dataset(tmp_path / "out", outside=True)
    equal(dataset, again, "crowd", "ignored", "areas", "keypoints")
    one: Any = dataset.targets
    two: Any = again.targets
    assert [one.segments[row] for row in (1, 5)] == [two.segments[row] for row in (1, 5)]
    assert np.allclose(one.segments[0][0], two.segments[0][0])


def test_coco_is_what_pycocotools_reads(dataset: Dataset, tmp_path: Path) -> None:
    module = pytest.importorskip("pycocotools.coco")
    write_coco(dataset, tmp_path / "all.json")
    theirs = module.COCO(str(tmp_path / "all.json"))
    assert [category["name"] for category in theirs.loadCats(theirs.getCatIds())] == list(LABELS)
    target: Any = dataset.target(0)
    found = theirs.loadAnns(theirs.getAnnIds(imgIds=[1]))
    assert np.allclose([ann["bbox"][:2] for ann in found], target.boxes[:, :2])
    ours: Any = dataset.targets
    assert (theirs.annToMask(found[1]) == drawn(ours.segments[1], (300, 400)).numpy()).all()
    write_predictions(tmp_path / "p.json", [dataset.target(i) for i in range(9)])  # type: ignore[misc]
    results = theirs.loadRes(str(tmp_path / "p.json"))
    assert len(results.anns) == len(theirs.anns)


def test_voc(dataset: Dataset, tmp_path: Path) -> None:
    write_voc(dataset, tmp_path / "out")
    again = load_dataset(tmp_path / "out").relabel(LABELS)
    equal(dataset, again)
    target: Any = again.target([Path(again.name(i)).name for i in range(9)].index("train0.jpg"))
    assert target.ignored.tolist() == [False, False, True, True]


def test_yolo(dataset: Dataset, tmp_path: Path) -> None:
    plain: Any = dataset.targets
    plain.crowd[:] = plain.ignored[:] = False
    write_yolo(dataset, tmp_path / "out")
    equal(dataset, load_dataset(tmp_path / "out"))
    equal(dataset, load_dataset(tmp_path / "out" / "data.yaml"))


def test_images_that_are_no_files(tmp_path: Path) -> None:
    box = torch.tensor([[1.0, 2, 3, 4]])
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 1:3] = True
    targets = [Objects(box + n, torch.tensor([0]), masks=masks) for n in range(4)]
    images = torch.arange(4 * 192, dtype=torch.uint8).view(4, 3, 8, 8)
    made = Dataset("made", "detect", ("a",), ImageArray(images, "made"), targets, np.zeros(4, np.int8))
    write_coco(made, tmp_path / "val.json")
    again = load_dataset(tmp_path / "val.json")
    assert all(torch.equal(again.image(i), images[i]) and torch.equal(again.target(i).boxes, box + i) for i in range(4))  # type: ignore[union-attr]
    assert torch.equal(again.targets.with_masks()[2].masks.stack(), masks)  # type: ignore[union-attr]
    halves = replace(made, splits=np.array([0, 0, 1, 1], np.int8))
    for split in ("train", "val"):  # into one folder of images
        write_coco(halves.select(split), tmp_path / "halves" / f"{split}.json")
    again = load_dataset(tmp_path / "halves", outside=True)
    assert again.split_counts() == {"train": 2, "val": 2}
    assert all(torch.equal(again.image(i), images[i]) and torch.equal(again.target(i).boxes, box + i) for i in range(4))  # type: ignore[union-attr]
    for write, folder in ((write_voc, "voc"), (write_yolo, "yolo")):
        write(made, tmp_path / folder)
        assert len(load_dataset(tmp_path / folder)) == 4


def test_predictions_with_the_ids_of_a_file(dataset: Dataset, tmp_path: Path) -> None:
    assert {Path(dataset.name(i)).name: dataset.id(i) for i in range(len(dataset))} == {
        f"{split}{n}.jpg": 10 * (n + 1) for split in ("train", "val", "test") for n in range(3)
    }
    view = dataset.select("val")
    # Each file has its own, of which that of the training data comes first.
    for number, part in enumerate((dataset, view, dataset.select("test"))):
        assert part.ids_of_classes == {label: 5 + k + number for k, label in enumerate(LABELS)}
    ids: list[Any] = [view.id(i) for i in range(3)]
    categories = view.ids_of_classes
    found = [
        Objects(torch.tensor([[1.0, 2, 4, 8]]), torch.tensor([2]), torch.tensor([0.5])),
        Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
    ]
    write_predictions(tmp_path / "p.json", found, ids, [categories[label] for label in view.labels])
    assert json.loads((tmp_path / "p.json").read_text()) == [
        {"image_id": 10, "category_id": 8, "bbox": [1, 2, 3, 6], "area": 18, "score": 0.5}
    ]


def test_what_cannot_be_written(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits is data to classify"):
        write_coco(digits(), tmp_path / "a.json")
    (tmp_path / "file").write_text("")
    for write in (write_coco, write_voc, write_yolo):
        with pytest.raises(InputError, match=r"cannot (write|make)"):
            write(dataset, tmp_path / "file" / "x.json")
    names = ("'\"", "owl", "dog")
    with pytest.raises(InputError, match=r"data\.yaml"):
        write_yolo(dataset.relabel((*LABELS, *names)), tmp_path / "out")
