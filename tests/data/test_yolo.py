"""YOLO's text files as a data set: folders, and the lines of label files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.data.check import check_source
from foveal.data.sources import load_dataset, survey
from foveal.data.yolo_lines import evidence
from tests.data.annotated import picture, voc
from tests.data.test_coco import objects, refused

SPLITS = ("train", "val")


def make(root: Path, yaml: str | None = "names: [cat, dog]\ntrain: images/train\nval: images/val\n") -> Path:
    """Three images a split, 40 x 30 pixels; the first of each has a box and a triangle, the last no file of labels."""
    for split in SPLITS:
        for n in range(3):
            picture(root / "images" / split / f"{split}{n}.jpg")
        labels = root / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{split}0.txt").write_text("1 0.5 0.5 0.25 0.2\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
        (labels / f"{split}1.txt").write_text("")
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def labelled(root: Path, lines: str, yaml: str = "names: [cat, dog]\n") -> Path:
    """The data of `make` whose only label file has these lines."""
    make(root, yaml)
    for split in SPLITS:
        (root / "labels" / split / f"{split}0.txt").write_text("")
    (root / "labels" / "train" / "train0.txt").write_text(lines)
    return root


def notes(source: Path) -> list[str]:
    dataset, complaints = survey(source)
    assert dataset is not None
    assert not complaints.collected
    return complaints.notes


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [cat, dog]\ntrain: images/train\nval: images/val\nnc: 2\n",
        "# a\npath: .  # b\ntrain: images/train\nval:\n  - images/val\ntest:\nnames:\n  0: 'cat'\n  1: dog # two\n",
        'names:\n- cat\n- "dog"\ntrain: ../images/train\nval: ../images/val\nroboflow:\n  workspace: x\n',
        "names: {0: cat, 1: dog}\n",
        "path: ../datasets/ours\ntrain: images/train\nval: images/val\nnames: ['cat', \"dog\"]\ndownload: |\n  x y\n",
    ],
)
def test_a_folder(tmp_path: Path, yaml: str) -> None:
    make(tmp_path, yaml)
    dataset = load_dataset(tmp_path)
    assert (dataset.task, dataset.labels) == ("detect", ("cat", "dog"))
    assert dataset.split_counts() == {"train": 3, "val": 3}
    found = objects(dataset)
    (first, box), (second, triangle) = found["train0.jpg"]
    assert (first, second) == ("dog", "cat")
    assert box == pytest.approx([15, 12, 25, 18])
    assert triangle == pytest.approx([4, 6, 12, 18])
    assert found["val1.jpg"] == found["val2.jpg"] == []
    assert objects(load_dataset(tmp_path / "data.yaml")) == found
    assert notes(tmp_path) == notes(tmp_path / "data.yaml")


def test_names_in_a_text_file(tmp_path: Path) -> None:
    (make(tmp_path, None) / "classes.txt").write_text("cat\ndog\n")
    assert load_dataset(tmp_path).class_counts() == {"cat": 2, "dog": 2}


def test_labels_beside_images_in_one_folder(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.jpg")
        (tmp_path / f"{n}.txt").write_text("0 0.5 0.5 1 1\n")
    refused(tmp_path, "does not name its classes", str(tmp_path / "classes.txt"))
    (tmp_path / "classes.txt").write_text("cat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.class_counts() == {"cat": 6}
    assert set(dataset.split_counts()) == {"train", "val", "test"}


def test_polygons_are_masks(tmp_path: Path) -> None:
    labelled(tmp_path, "0 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6\n")
    table: Any = load_dataset(tmp_path).targets
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[6:18, 10:20] = True
    assert torch.equal(table.with_masks()[0].masks[0], mask)


def test_shares_are_of_the_image_as_the_eye_sees_it(tmp_path: Path) -> None:
    picture(make(tmp_path) / "images" / "train" / "train0.jpg", turned=True)
    assert objects(load_dataset(tmp_path))["train0.jpg"][0][1] == pytest.approx([11.25, 16, 18.75, 24])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", ["class 2 is none of the 2, 0 to 1", "one too high, as if counted from 1"]),
        ("7 0.5 0.5 0.1 0.1", ["class 7 is none of the 2"]),
        ("-1 0.5 0.5 0.1 0.1", ["class -1 is none of the 2"]),
        ("0.5 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("nan 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("inf 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("cat 0.5 0.5 0.1 0.1", ["neither class x y"]),
        ("0 0.5 0.5 0.1", ["neither class x y"]),
        ("0 0.5 0.5 0.1 0.1 0.9", ["sixth number is a confidence", "or an angle", "four corners"]),
        ("0 0.5 0.5 0.1 0.1 45", ["sixth number is a confidence", "or an angle"]),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.9", ["neither class x y"]),
        ("0 nan 0.5 0.1 0.1", ["not shares"]),
        ("0 250 130 40 40", ["not shares"]),
        ("0 0.5 0.5 -0.1 0.1", ["ends before it begins"]),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str, words: list[str]) -> None:
    file = make(tmp_path) / "labels" / "train" / "train1.txt"
    file.write_text(f"0 0.5 0.5 1 1\n{line}\n")
    refused(tmp_path, f"{file}, line 2", *words)
    dataset, complaints = survey(tmp_path)
    assert dataset is not None
    assert complaints.collected
    assert len(objects(dataset)["train1.jpg"]) == 1


# --- Key points -------------------------------------------------------------------------------------------------------

POSE3 = "1 0.5 0.5 0.5 0.4 0.3 0.4 2 0.7 0.6 1 0 0 0\n0 0.5 0.5 0.25 0.2\n"
POSE2 = "1 0.5 0.5 0.5 0.4 0.3 0.4 0.7 0.6 0 0\n"


@pytest.mark.parametrize(("lines", "numbers"), [(POSE3, 3), (POSE2, 2)])
def test_key_points(tmp_path: Path, lines: str, numbers: int) -> None:
    yaml = f"names: [cat, dog]\nkpt_shape: [3, {numbers}]\nflip_idx: [1, 0, 2]\n"
    dataset = load_dataset(labelled(tmp_path, lines, yaml))
    target: Any = dataset.target(0)
    assert target.boxes[0].tolist() == pytest.approx([10, 9, 30, 21])
    seen = 1 if numbers == 3 else 2
    assert torch.allclose(target.keypoints[0], torch.tensor([[12.0, 12, 2], [28, 18, seen], [0, 0, 0]]))
    assert not target.keypoints[1:].any()  # a box alone
    assert dataset.mirrored == (1, 0, 2)
    assert notes(tmp_path) == []


def test_key_points_that_may_swap_in_mirrored_images_are_noted(tmp_path: Path) -> None:
    labelled(tmp_path, POSE3, "names: [cat, dog]\nkpt_shape: [3, 3]\n")
    assert load_dataset(tmp_path).mirrored is None
    (note,) = notes(tmp_path)
    assert "flip_idx" in note


@pytest.mark.parametrize(
    ("yaml", "line", "words"),
    [
        ("kpt_shape: [2, 3]", POSE3, ["line 1", "it has 14 numbers", "2 key points of 3 numbers", "11"]),
        ("kpt_shape: [3, 3]", "0 0.1 0.2 0.3 0.2 0.3 0.6", ["line 1", "it has 7 numbers"]),
        ("kpt_shape: [1, 3]", "0 0.5 0.5 0.2 0.2 0.5 0.5 0.7", ["line 1", "visibility is not 0, 1 or 2"]),
        ("kpt_shape: [2, 2]", "0 0.5 0.5 0.2 0.2 0.5 0.5 30 30 ".replace("30 30", "300 30"), ["not shares"]),
        ("kpt_shape: [3, 4]", POSE3, ["data.yaml, line 2", "2 or 3"]),
        ("kpt_shape: 3", POSE3, ["data.yaml, line 2", "2 or 3"]),
        ("kpt_shape: [a, 3]", POSE3, ["data.yaml, line 2", "'a' is not a whole number"]),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 0]", POSE3, ["flip_idx"]),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 1, 2]", POSE3, ["flip_idx"]),
        ("flip_idx: [1, 0]", POSE3, ["flip_idx has 2 key points, but lines have 14 numbers", "kpt_shape"]),
    ],
)
def test_key_points_that_are_refused(tmp_path: Path, yaml: str, line: str, words: list[str]) -> None:
    refused(labelled(tmp_path, line, f"names: [cat, dog]\n{yaml}\n"), *words)


def test_flip_idx_alone_says_how_many_key_points_there_are(tmp_path: Path) -> None:
    labelled(tmp_path, POSE2, "names: [cat, dog]\nflip_idx: [1, 0, 2]\n")
    target: Any = load_dataset(tmp_path).target(0)
    assert target.keypoints.shape == (1, 3, 3)


def share(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values.reshape(-1).tolist())


def poses(draw: np.random.Generator, count: int, points: int, numbers: int, size: tuple[float, float]) -> str:
    lines = []
    for _ in range(count):
        box = draw.uniform(*size, 2)
        centre = draw.uniform(box / 2, 1 - box / 2)
        place = centre + draw.uniform(-0.5, 0.5, (points, 2)) * box
        parts = share(place) if numbers == 2 else " ".join(f"{share(one)} {draw.integers(1, 3)}" for one in place)
        lines.append(f"0 {share(centre)} {share(box)} {parts}\n")
    return "".join(lines)


def rings(draw: np.random.Generator, count: int, corners: int, size: tuple[float, float]) -> str:
    """Polygons whose corners go round a centre."""
    lines = []
    for _ in range(count):
        radius = draw.uniform(*size) / 2
        angles = np.sort(draw.uniform(0, 2 * np.pi, corners) / 4 + np.arange(corners) * 2 * np.pi / corners)
        centre = draw.uniform(radius, 1 - radius, 2)
        place = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        lines.append(f"0 {share(place)}\n")
    return "".join(lines)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("size", [(0.05, 0.2), (0.3, 0.8)])
@pytest.mark.parametrize("points", [3, 5, 17])
@pytest.mark.parametrize("numbers", [2, 3])
def test_key_points_by_the_geometry_of_all_lines(
    points: int, numbers: int, size: tuple[float, float], count: int, seed: int
) -> None:
    lines = poses(np.random.default_rng(seed), count, points, numbers, size)
    values = np.array([[float(word) for word in line.split()] for line in lines.splitlines()])
    assert evidence(values, numbers) < -2.71 or (points, numbers, count) == (3, 2, 4)
    assert evidence(values, numbers) < 2.71


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("size", [(0.05, 0.2), (0.3, 0.8)])
@pytest.mark.parametrize("corners", [3, 4, 5, 6, 12])
def test_polygons_by_the_geometry_of_all_lines(corners: int, size: tuple[float, float], count: int, seed: int) -> None:
    lines = rings(np.random.default_rng(seed), count, corners, size)
    values = np.array([[float(word) for word in line.split()] for line in lines.splitlines()])
    assert evidence(values, 2) > 2.71 or (count == 4 and corners in (3, 4))
    assert evidence(values, 2) > -2.71


def test_the_reading_that_was_chosen_is_noted(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labelled(tmp_path / "pose", poses(draw, 9, 5, 2, (0.1, 0.3)))
    target: Any = load_dataset(tmp_path / "pose").target(0)
    assert target.keypoints.shape == (9, 5, 3)
    assert any("kpt_shape: [5, 2]" in note and "key points" in note for note in notes(tmp_path / "pose"))
    labelled(tmp_path / "polygon", rings(draw, 9, 7, (0.1, 0.3)))
    target = load_dataset(tmp_path / "polygon").target(0)
    assert target.keypoints is None
    (note,) = notes(tmp_path / "polygon")
    assert "lines of 15 numbers are read as polygons" in note
    labelled(tmp_path / "mixed", rings(draw, 4, 5, (0.1, 0.3)) + rings(draw, 4, 7, (0.1, 0.3)))
    assert notes(tmp_path / "mixed") == []  # lines of several counts are polygons


def test_lines_that_fit_both_readings(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.52 0.45 0.6 0.6\n"  # a triangle, or a key point in a box
    labelled(tmp_path, line)
    refused(
        tmp_path, "may be polygons or a box and 1 key point:", "kpt_shape: [1, 2]", "kpt_shape: [0, 0]", "data.yaml"
    )
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [0, 0]\n")
    target: Any = load_dataset(tmp_path).target(0)
    assert target.boxes[0].tolist() == pytest.approx([20, 13.5, 24, 18])
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [1, 2]\n")
    target = load_dataset(tmp_path).target(0)
    assert target.boxes[0].tolist() == pytest.approx([9.6, 8.25, 30.4, 21.75])
    # Beside boxes they are polygons, as they always were, and it is noted.
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    (tmp_path / "labels" / "val" / "val0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (note,) = notes(tmp_path)
    assert "read as polygons" in note


# --- What is YOLO data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "labels.txt", "data.yaml"])
def test_names_beside_folders_of_classes_make_no_detection(tmp_path: Path, names: str) -> None:
    for label in ("cat", "dog"):
        for n in range(6):
            picture(tmp_path / label / f"{label}{n}.jpg")
    (tmp_path / names).write_text("names: [cat, dog]\n" if names.endswith("yaml") else "cat\ndog\n")
    assert load_dataset(tmp_path).task == "classify"
    # Label files do, wherever they are.
    (tmp_path / "dog" / "dog0.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    assert load_dataset(tmp_path).class_counts() == {"cat": 0, "dog": 1}


def test_splits_of_folders_of_classes_make_no_detection(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            for n in range(3):
                picture(tmp_path / split / label / f"{split}{label}{n}.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert load_dataset(tmp_path).class_counts() == {"cat": 6, "dog": 6}


def test_folders_that_are_unclear(tmp_path: Path) -> None:
    root = make(tmp_path / "set", None)
    refused(root, "does not name its classes", str(root / "classes.txt"))
    for name in ("one", "two"):
        (root / f"{name}.yaml").write_text("names: [cat, dog]\n")
    refused(root, "several files with names of classes, one.yaml and two.yaml")
    (root / "annotations").mkdir()
    (root / "two.yaml").unlink()
    (root / "annotations" / "a.json").write_text('{"images": [], "annotations": []}')
    refused(root, "annotations of COCO and of YOLO")


def test_a_wrong_folder_names_the_right_one(tmp_path: Path) -> None:
    root = make(tmp_path / "above" / "set")
    (tmp_path / "above" / "__MACOSX").mkdir()
    assert len(load_dataset(tmp_path / "above")) == 6
    refused(root / "images", f"pass {root}")
    refused(root / "images" / "train", f"pass {root}")
    for split in ("train", "valid"):
        picture(tmp_path / "robo" / split / "images" / f"{split}.jpg")
        (tmp_path / "robo" / split / "labels").mkdir()
        (tmp_path / "robo" / split / "labels" / f"{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "robo" / "data.yaml").write_text("names: [cat]\ntrain: ../train/images\nval: ../valid/images\n")
    refused(tmp_path / "robo" / "train", "does not name its classes", f"pass {tmp_path / 'robo'}")
    refused(tmp_path / "robo" / "train" / "images", f"pass {tmp_path / 'robo'}")


def test_folders_of_classes_below_images_of_other_labels(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    for label in ("cat", "dog"):
        for n in range(6):
            picture(root / "images" / "pets" / label / f"{label}{n}.jpg")
    assert load_dataset(root / "images" / "pets").task == "classify"


def test_other_formats_with_text_files_beside_images_stay_what_they_are(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.jpg")
        (tmp_path / f"{n}.txt").write_text("0 0.5 0.5 1 1\n")
        voc(tmp_path / f"{n}.xml", [("cat", 2, 2, 9, 9)])
    assert objects(load_dataset(tmp_path))["0.jpg"] == [("cat", [1, 1, 9, 9])]


def test_check_lists_the_notes(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    found = check_source(tmp_path)
    assert found.faults == 0
    assert any("label files without an image, left out: 1" in note and "gone.txt" in note for note in found.notes)
