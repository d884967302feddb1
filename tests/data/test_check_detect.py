"""What `foveal check` says of data to detect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.cli import main
from foveal.data.check import check_source
from foveal.data.check_detect import DetectFindings, repeated
from tests.data.annotated import coco, picture, voc, write_json

CLASSES = {1: "cat", 2: "dog"}


def findings(root: Path, **images: list[Any]) -> DetectFindings:
    """Of files a, b ... in a train and a test split, with the annotations given."""
    for split in ("train", "test"):
        named = {f"{name}.jpg": rows for name, rows in images.items() if name.startswith(split)}
        named |= {f"{split}{n}.jpg": [(1, 2, 2, 9, 9 + n)] for n in range(3) if f"{split}{n}" not in images}
        for name in named:
            if not (root / split / name).exists():
                picture(root / split / name)
        write_json(root / split / "_annotations.coco.json", coco(CLASSES, named))
    found = check_source(root)
    assert isinstance(found, DetectFindings)
    return found


def test_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(tmp_path, train0=[(1, 1, 1, 5, 5), (1, 20, 10, 5, 5), (2, 3, 3, 9, 9)], train1=[], test0=[])
    assert found.faults == 0
    assert sum(found.counts[split]["cat"] for split in ("train", "val")) == 3
    assert sum(found.showing[split]["cat"] for split in ("train", "val")) == 2
    assert found.counts["test"] == {"cat": 2, "dog": 0}
    assert sum(found.images.values()) == 6
    assert "2 of 6 images have no objects" in found.notes
    assert main(["check", str(tmp_path)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.split("\t") == ["class", "train", "train images", "val", "val images", "test", "test images"]
    assert rest[2].split("\t")[-2:] == ["2", "3"]
    assert main(["check", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["faults"] == 0
    assert document["counts"] == found.counts


def test_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train: list[Any] = [(1, -4, 2, 9, 9), (1, 90, 2, 9, 9), (1, 3, 3, 0, 4), (2, 5, 5, 20, 20), (1, 5, 5, 20, 20)]
    train += [(2, 5, 5, 20, 20.4), (1, 3, 3, 5, 5), (1, 3, 3, -5, 5)]
    found = findings(tmp_path, train0=train, test0=[(1, 1, 1, 4, 4)])
    assert [text.partition(":")[0].partition("annotation")[2] for text in found.outside] == [
        " 1 (id 1), train0.jpg",
        " 2 (id 2), train0.jpg",
    ] or len(found.outside) == 2
    assert len(found.empty) == 1
    assert "annotation 3" in found.empty[0]
    assert found.duplicated == [f"{tmp_path}/train/train0.jpg: object 4 (dog) is object 2 again"]
    assert len(found.layout) == 1
    assert "annotation 8" in found.layout[0]
    assert found.implausible == []
    assert found.faults == 5
    assert main(["check", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "boxes outside the image (2):" in out
    assert "objects that are there twice (1):" in out
    assert out.endswith("5 to look at\n")


def test_corners_for_widths(tmp_path: Path) -> None:
    rows = [(1, x, y, x + 8, y + 8) for x in (18, 24, 30) for y in (12, 20)]
    found = findings(tmp_path, train0=rows, train1=rows)
    assert len(found.implausible) == 1
    assert found.implausible[0].startswith("12 of 16 boxes leave their image")


def test_widths_for_corners(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.jpg")
        voc(tmp_path / f"{n}.xml", [("cat", 20 + n, 15, 8, 8), ("cat", 1, 1, 8, 8)][: 2 if n == 0 else 1])
    found = check_source(tmp_path)
    assert isinstance(found, DetectFindings)
    assert len(found.layout) == 6
    assert found.implausible[0].startswith("6 of 7 boxes")


def test_corners_and_widths_mixed(tmp_path: Path) -> None:
    """Few boxes are written in the other way, in files of each layout."""
    right: list[Any] = [(1, 30, 3 + n, 5, 5) for n in range(16)]
    found = findings(tmp_path / "coco", train0=right, train1=[(1, 25, 3 + 4 * n, 30, 8 + 4 * n) for n in range(4)])
    assert len(found.outside) == 4
    (told,) = found.implausible
    assert told.startswith("4 of 24 boxes leave their image")
    assert "of these 4 would be right with width and height" in told
    # Boxes that stick out are no such thing.
    found = findings(tmp_path / "out", train0=right, train1=[(1, 25, 3 + 4 * n, 18, 5) for n in range(4)])
    assert (len(found.outside), found.implausible) == (4, [])

    for n in range(10):
        picture(tmp_path / "voc" / f"{n}.jpg")
        box = (26, 11, 9, 9) if n < 4 else (26, 11, 34, 19)
        voc(tmp_path / "voc" / f"{n}.xml", [("cat", *box)])
    found = check_source(tmp_path / "voc")  # type: ignore[assignment]
    assert found.implausible[0].startswith("4 of 10 boxes leave their image or end before they begin; of these 4 would")

    for n in range(10):
        picture(tmp_path / "yolo" / "images" / f"{n}.jpg")
        (tmp_path / "yolo" / "labels").mkdir(exist_ok=True)
        box = (0.6, 0.5, 0.9, 0.7) if n < 4 else (0.7, 0.6, 0.4, 0.2)
        (tmp_path / "yolo" / "labels" / f"{n}.txt").write_text(f"0 {' '.join(map(str, box))}\n")
    (tmp_path / "yolo" / "classes.txt").write_text("cat\n")
    found = check_source(tmp_path / "yolo")  # type: ignore[assignment]
    assert found.implausible[0].startswith("4 of 10 boxes leave their image or end before they begin; of these 4 would")


def test_images(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "train0.jpg", (30, 40), turned=True)
    picture(tmp_path / "train" / "train1.jpg", (40, 30), turned=True)
    picture(tmp_path / "train" / "train2.jpg", (20, 15))
    (tmp_path / "train" / "train3.jpg").write_bytes(b"none")
    picture(tmp_path / "test" / "test1.jpg", seed=5)
    picture(tmp_path / "train" / "train4.jpg", seed=5)
    found = findings(tmp_path, train3=[], train4=[])
    assert list(found.unreadable) == [f"{tmp_path}/train/train3.jpg"]
    # Small boxes lie in each frame: nothing decides which one is meant.
    one, two = found.layout
    assert "train1.jpg: annotated as 40 x 30 pixels, it has 30 x 40, turned as its EXIF block says" in one
    assert "in the image itself and in the image before it is turned" in one
    assert "train2.jpg: annotated as 40 x 30 pixels, it has 20 x 15" in two
    assert "scaled" in two
    assert len(found.leaks) == 1


def test_missing_images_and_ids_off_by_one(tmp_path: Path) -> None:
    for n in range(5):
        picture(tmp_path / "images" / f"{n}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{n}.txt").write_text(f"{1 + n % 2} 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = check_source(tmp_path)
    assert [text.partition(": ")[2] for text in found.layout[:2]] == ["class 2 is none of the 2, 0 to 1"] * 2
    assert found.layout[2:] == ["all ids may be one too high, as if counted from 1"]
    file = write_json(tmp_path / "a.json", coco(CLASSES, {**{f"{n}.jpg": [] for n in range(5)}, "gone.jpg": []}))
    found = check_source(file)
    assert len(found.layout) == 1
    assert "gone.jpg" in found.layout[0]


def brute_force(boxes: np.ndarray, labels: np.ndarray) -> set[int]:
    again = set()
    for j in range(len(boxes)):
        for i in range(j):
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            common = np.prod(np.maximum(high - low, 0))
            union = np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - common
            if labels[i] == labels[j] and common > 0.95 * union:
                again.add(j)
    return again


def test_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveal.data.check_detect.ROWS", 50)
    draw = np.random.default_rng(0)
    for count in (0, 1, 2, 40, 40, 40):
        corners = draw.integers(0, 12, (count, 2)) * 1.0
        boxes = np.concatenate([corners, corners + draw.integers(20, 24, (count, 2))], 1)
        boxes += draw.choice([0, 0, 0.3], (count, 4))
        labels = draw.integers(0, 2, count)
        found = repeated(boxes, labels)
        assert set(found) == brute_force(boxes, labels)
        assert all(first < again for again, first in found.items())


def test_an_image_with_30000_objects_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "train0.jpg", (4000, 3000))
    document = coco(CLASSES, {f"train{n}.jpg": [(1, 2, 2, 9, 9)] for n in range(3)})
    document["images"][0] |= {"width": 4000, "height": 3000}
    corners = np.random.default_rng(0).uniform(0, 2900, (30_000, 2)).tolist()
    document["annotations"] += [
        {"id": 100 + n, "image_id": 10, "category_id": 2, "bbox": [x, y, 30, 20]} for n, (x, y) in enumerate(corners)
    ]
    for n in (1, 2):
        picture(tmp_path / "train" / f"train{n}.jpg")
    found = check_source(write_json(tmp_path / "train" / "train.json", document))
    assert sum(counts["dog"] for counts in found.counts.values()) == 30_000
    assert [note for note in found.notes if "30,001 objects" in note] == [
        f"{tmp_path}/train/train0.jpg has 30,001 objects: all are learned, and a step with this image may take much "
        "time and memory"
    ]


def test_30000_objects_are_compared_at_once() -> None:
    corners = np.random.default_rng(0).uniform(0, 4000, (30_000, 2))
    boxes = np.concatenate([corners, corners + 30], 1)
    boxes[7] = boxes[29_000]
    assert repeated(boxes, np.zeros(30_000, np.int64))[29_000] == 7
