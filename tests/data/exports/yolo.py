"""Exports in the format of YOLO: text files with boxes, polygons or key points in shares of the image's sides."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.data.annotated import picture
from tests.data.exports import Box, Export, Truth

LABELS = ("cat", "dog")
WIDTH, HEIGHT = 40, 30
# Split -> name without suffix -> objects, the last one of each split without any.
TRAIN = {"a1": [("cat", 4, 3, 14, 18), ("dog", 20, 10, 39, 29)], "a2": [("dog", 1, 2, 8, 9)], "a3": []}
VAL = {"b1": [("cat", 10, 10, 30, 20)], "b2": []}
TEST = {"c1": [("dog", 5, 6, 25, 27)], "c2": []}
ALL = {**TRAIN, **VAL, **TEST}
Objects = dict[str, list[Any]]
Write = Callable[[Box], str]


def line(box: Box, numbers: str = "%.6f") -> str:
    """class x y width height"""
    name, x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(LABELS.index(name)), *(numbers % share if numbers else str(share) for share in shares)])


def corners(box: Box) -> str:
    """class x1 y1 x2 y2 x3 y3 x4 y4"""
    name, x1, y1, x2, y2 = box
    points = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return " ".join([str(LABELS.index(name)), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)])


def outline(box: Box) -> str:
    """A polygon whose number of corners depends on the class."""
    name, x1, y1, x2, y2 = box
    points = [(x1, y1), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), (x2, y2), (x1, y2)]
    if name == "dog":
        points.append((x1, (y1 + y2) / 2))
    return " ".join([str(LABELS.index(name)), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)])


def skeleton(box: Box) -> str:
    """A box with three key points, the last of which is absent."""
    _, x1, y1, x2, y2 = box
    points = f"{(x1 + 1) / WIDTH:.6f} {(y1 + 1) / HEIGHT:.6f} 2 {(x2 - 1) / WIDTH:.6f} {(y2 - 2) / HEIGHT:.6f} 1"
    return f"{line(box)} {points} 0.000000 0.000000 0"


def save(file: Path, text: str, newline: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8", newline=newline)


def put(
    root: Path,
    objects: Objects,
    images: str,
    labels: str,
    write: Write = line,
    name: str = "{}",
    empty: bool = True,
    end: str = "\n",
) -> Objects:
    """Images with their label files, and what is in them. empty: images without objects have a label file too. end:
    what the last line of a file ends with."""
    truth: Objects = {}
    for stem, boxes in objects.items():
        called = name.format(stem)
        picture(root / images / f"{called}.jpg")
        truth[f"{images}/{called}.jpg".removeprefix("./")] = boxes
        if boxes or empty:
            save(root / labels / f"{called}.txt", "\n".join(map(write, boxes)) + (end if boxes else ""))
    return truth


def listing(file: Path, names: Iterable[str]) -> None:
    save(file, "".join(f"{name}\n" for name in names))


def roboflow(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    for split, objects in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        name = "{}_jpg.rf.0f1e2d3c4b5a69788796a5b4c3d2e1f0"
        truth |= put(root, objects, f"{split}/images", f"{split}/labels", lambda box: line(box, ""), name=name, end="")
    save(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: pets\n  project: pets-1a2b3\n  version: 2\n  license: CC BY 4.0\n"
        "  url: https://universe.roboflow.com/pets/pets-1a2b3/dataset/2",
    )
    save(root / "README.roboflow.txt", "\npets - v2 2024-01-01 10:00am\n=====\n\nThe dataset includes 7 images.\n")
    save(root / "README.dataset.txt", "# pets > 2024-01-01 10:00am\nhttps://universe.roboflow.com/pets\n")
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2, "test": 2})


def roboflow_darknet(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    for split, objects in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        truth |= put(root, objects, split, split, lambda box: line(box, ""), name="{}_jpg.rf.0f1e2d3c", end="")
        save(root / split / "_darknet.labels", "cat\ndog")
    save(root / "README.dataset.txt", "# pets > 2024-01-01 10:00am\n")
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2, "test": 2})


def ultralytics(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    for split, objects in (("train2017", TRAIN), ("val2017", VAL)):
        truth |= put(root, objects, f"images/{split}", f"labels/{split}", empty=False)
    save(
        root / "coco8.yaml",
        "# COCO8 dataset (first 8 images from COCO train2017)\n# Example usage: yolo train data=coco8.yaml\n\n"
        "# Train/val/test sets as 1) dir: path/to/imgs, 2) file: path/to/imgs.txt, or 3) list\n"
        "path: ../datasets/coco8 # dataset root dir\ntrain: images/train2017 # train images (relative to 'path')\n"
        "val: images/val2017 # val images (relative to 'path') 4 images\ntest: # test images (optional)\n\n# Classes\n"
        "names:\n  0: cat\n  1: dog\n\n# Download script/URL (optional)\ndownload: https://example.org/coco8.zip\n",
    )
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2})


def ultralytics_pose(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    cats = {"train": {"a1": TRAIN["a1"][:1], "a3": []}, "val": {"b1": VAL["b1"]}}
    for split, objects in cats.items():
        truth |= put(root, objects, f"images/{split}", f"labels/{split}", skeleton, empty=False)
    save(
        root / "cat-pose.yaml",
        "path: cat-pose # dataset root dir\ntrain: images/train\nval: images/val\ntest: # optional\n\n# Keypoints\n"
        "kpt_shape: [3, 3] # number of keypoints, number of dims (2 for x,y or 3 for x,y,visible)\n"
        "flip_idx: [1, 0, 2]\n\n# Classes\nnames:\n  0: cat\n",
    )
    return root, Truth(LABELS[:1], truth, splits={"train": 2, "val": 1})


def cvat(root: Path) -> tuple[Path, Truth]:
    """The paths in the lists begin in a folder data, which the archive does not have."""
    truth: Objects = {}
    lists = ""
    for split, objects in (("train", TRAIN), ("valid", VAL)):
        truth |= put(root, objects, f"obj_{split}_data", f"obj_{split}_data")
        listing(root / f"{split}.txt", (f"data/obj_{split}_data/{stem}.jpg" for stem in objects))
        lists += f"{split} = data/{split}.txt\n"
    listing(root / "obj.names", LABELS)
    save(root / "obj.data", f"classes = 2\n{lists}names = data/obj.names\nbackup = backup/\n")
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2})


def darknet(root: Path) -> tuple[Path, Truth]:
    """The folder data of a darknet checkout, from which it is started one folder up: so its paths begin with data."""
    truth: Objects = {}
    for split, objects in (("train", TRAIN), ("test", VAL)):
        truth |= put(root, objects, "data/obj", "data/obj")
        listing(root / "data" / f"{split}.txt", (f"data/obj/{stem}.jpg" for stem in objects))
    listing(root / "data" / "obj.names", LABELS)
    lists = "train  = data/train.txt\nvalid  = data/test.txt\n"
    save(root / "data" / "obj.data", f"classes= 2\n{lists}names = data/obj.names\nbackup = backup/\n")
    return root / "data", Truth(LABELS, truth, splits={"train": 3, "val": 2})


def _cvat_ultralytics(root: Path, write: Write, labels: tuple[str, ...], more: str = "") -> tuple[Path, Truth]:
    truth: Objects = {}
    lists = ""
    for split, objects in (("train", TRAIN), ("val", VAL)):
        own = {stem: [box for box in boxes if box[0] in labels] for stem, boxes in objects.items()}
        truth |= put(root, own, f"images/{split}", f"labels/{split}", write, empty=False)
        listing(root / f"{split}.txt", (f"data/images/{split}/{stem}.jpg" for stem in own))
        lists += f"{split}: {split}.txt\n"
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(labels))
    save(root / "data.yaml", f"{more}names:\n{names}path: .\n{lists}")
    return root, Truth(labels, truth, splits={"train": 3, "val": 2})


def cvat_detection(root: Path) -> tuple[Path, Truth]:
    return _cvat_ultralytics(root, line, LABELS)


def cvat_oriented(root: Path) -> tuple[Path, Truth]:
    return _cvat_ultralytics(root, corners, LABELS)


def cvat_segmentation(root: Path) -> tuple[Path, Truth]:
    return _cvat_ultralytics(root, outline, LABELS)


def cvat_pose(root: Path) -> tuple[Path, Truth]:
    return _cvat_ultralytics(root, skeleton, LABELS[:1], "kpt_shape:\n- 3\n- 3\n")


def datumaro(root: Path) -> tuple[Path, Truth]:
    """A part of any name has its place in obj.data."""
    source, truth = cvat(root)
    put(root, {"d1": []}, "obj_extra_data", "obj_extra_data")
    listing(root / "extra.txt", ["data/obj_extra_data/d1.jpg"])
    text = (root / "obj.data").read_text().replace("names =", "extra = data/extra.txt\nnames =")
    save(root / "obj.data", text)
    return source, Truth(LABELS, truth.objects, splits=truth.splits, notes=("extra is none of train, val and test",))


def datumaro_ultralytics(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    for split, objects in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        truth |= put(root, objects, f"images/{split}", f"labels/{split}")
        listing(root / f"{split}.txt", (f"images/{split}/{stem}.jpg" for stem in objects))
    save(root / "data.yaml", "names:\n  0: cat\n  1: dog\ntest: test.txt\ntrain: train.txt\nval: val.txt\n")
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2, "test": 2})


def label_studio(root: Path) -> tuple[Path, Truth]:
    truth = put(root, ALL, "images", "labels", lambda box: line(box, ""), name="0f1e2d3c-{}")
    save(root / "classes.txt", "cat\ndog\n")
    categories = [{"id": number, "name": name} for number, name in enumerate(LABELS)]
    info = {"year": 2024, "version": "1.0", "contributor": "Label Studio"}
    save(root / "notes.json", json.dumps({"categories": categories, "info": info}, indent=2))
    return root, Truth(LABELS, truth)


def label_img(root: Path) -> tuple[Path, Truth]:
    truth = put(root, ALL, ".", ".", empty=False)
    save(root / "classes.txt", "cat\ndog\n", newline="\r\n")
    return root, Truth(LABELS, truth)


def makesense(root: Path) -> tuple[Path, Truth]:
    """The archive has label files alone: unpacked beside the images, with the names from `Export label names`."""
    truth = put(root, ALL, ".", ".", empty=False, end="")
    save(root / "labels.txt", "cat\ndog")
    return root, Truth(LABELS, truth)


def makesense_apart(root: Path) -> tuple[Path, Truth]:
    truth = put(root, ALL, "images", "labels", empty=False, end="")
    save(root / "classes.txt", "cat\ndog")
    return root, Truth(LABELS, truth)


def fiftyone5(root: Path) -> tuple[Path, Truth]:
    truth: Objects = {}
    for split, objects in (("train", TRAIN), ("val", VAL)):
        truth |= put(root, objects, f"images/{split}", f"labels/{split}", end="")
    names = "names:\n  0: cat\n  1: dog\n"
    save(root / "dataset.yaml", f"{names}path: /home/me/export\ntrain: ./images/train/\nval: ./images/val/\n")
    return root, Truth(LABELS, truth, splits={"train": 3, "val": 2})


def fiftyone4(root: Path) -> tuple[Path, Truth]:
    truth = put(root, ALL, "data", "data", end="")
    save(root / "obj.names", "cat\ndog")
    save(root / "images.txt", "\n".join(f"data/{stem}.jpg" for stem in ALL))
    return root, Truth(LABELS, truth)


EXPORTS: list[Export] = [
    Export("Roboflow", "YOLOv5 to YOLOv12", roboflow),
    Export("Roboflow", "YOLO Darknet TXT", roboflow_darknet),
    Export("Ultralytics", "detect", ultralytics),
    Export("Ultralytics", "pose", ultralytics_pose),
    Export("CVAT", "YOLO 1.1", cvat),
    Export("CVAT", "Ultralytics YOLO Detection", cvat_detection),
    Export("CVAT", "Ultralytics YOLO Oriented Bounding Boxes", cvat_oriented),
    Export("CVAT", "Ultralytics YOLO Segmentation", cvat_segmentation),
    Export("CVAT", "Ultralytics YOLO Pose", cvat_pose),
    Export("darknet", "data/obj.data", darknet),
    Export("Datumaro", "YOLO", datumaro),
    Export("Datumaro", "YOLO-Ultralytics", datumaro_ultralytics),
    Export("Label Studio", "YOLO with images", label_studio),
    Export("LabelImg", "YOLO", label_img),
    Export("makesense.ai", "YOLO, labels beside images", makesense),
    Export("makesense.ai", "YOLO, labels in a folder", makesense_apart),
    Export("FiftyOne", "YOLOv5Dataset", fiftyone5),
    Export("FiftyOne", "YOLOv4Dataset", fiftyone4),
]
