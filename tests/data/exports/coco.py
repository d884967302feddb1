"""Exports in the format of coco."""

import json
from pathlib import Path
from typing import Any

from tests.data.annotated import picture
from tests.data.exports import Box, Export, Truth

WIDTH, HEIGHT = 64, 48
CLASSES = ("cat", "dog")


def boxes(number: int) -> list[Box]:
    """Objects of the image with this number, the second of which touches the edges."""
    return [("cat", 4 + number, 6, 20 + number, 25), ("dog", 40, 30 - number, WIDTH, HEIGHT)]


def _images(first: int, count: int, name: str = "{:03}.jpg") -> dict[str, list[Box]]:
    return {name.format(number): boxes(number) for number in range(first, first + count)}


def _document(images: dict[str, list[Box]], ids: dict[str, int], start: int = 1, **more: Any) -> dict[str, Any]:
    """COCO's three lists with ids from `start`; the keys of `more` are put into each annotation."""
    entries, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (name, objects) in enumerate(images.items(), start):
        entries.append({"id": number, "width": WIDTH, "height": HEIGHT, "file_name": name})
        for label, x1, y1, x2, y2 in objects:
            entry = {"id": len(annotations) + start, "image_id": number, "category_id": ids[label], **more}
            bbox = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({**entry, "area": bbox[2] * bbox[3], "bbox": bbox, "iscrowd": 0})
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def _corners(bbox: list[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _write(folder: Path, file: str, document: dict[str, Any], images: dict[str, list[Box]], at: str) -> dict[str, Any]:
    """The JSON and the images; the objects by path."""
    for name in images:
        picture(folder / at / name, (WIDTH, HEIGHT))
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(document))
    return {f"{at}/{name}".lstrip("/"): objects for name, objects in images.items()}


def original(root: Path) -> tuple[Path, Truth]:
    """COCO itself: ids of classes with gaps, captions and key points beside the instances."""
    objects: dict[str, list[Box]] = {}
    for first, split, count in ((0, "train2017", 6), (10, "val2017", 3)):
        images = _images(first, count, "{:012}.jpg")
        document = {"info": {"year": 2017}, "licenses": [], **_document(images, {"cat": 17, "dog": 18})}
        objects |= _write(root, f"annotations/instances_{split}.json", document, images, split)
        captions = {"images": document["images"], "annotations": [{"image_id": 1, "id": 1, "caption": "A cat."}]}
        (root / f"annotations/captions_{split}.json").write_text(json.dumps(captions))
        (root / f"annotations/person_keypoints_{split}.json").write_text(json.dumps({**document, "categories": []}))
    return root, Truth(CLASSES, objects, splits={"train": 6, "val": 3})


def roboflow(root: Path) -> tuple[Path, Truth]:
    """Ids from 0, and a category 0 above the classes that no annotation has."""
    objects: dict[str, list[Box]] = {}
    for first, split, count in ((0, "train", 6), (10, "valid", 3), (14, "test", 2)):
        images = _images(first, count, "img-{0}_jpg.rf.4e5e76d9c1f0aa0b{0:04}.jpg")
        document = _document(images, {"cat": 1, "dog": 2}, 0, segmentation=[])
        document["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "pets"},
            {"id": 2, "name": "dog", "supercategory": "pets"},
        ]
        objects |= _write(root, f"{split}/_annotations.coco.json", document, images, split)
    return root, Truth(CLASSES, objects, splits={"train": 6, "val": 3, "test": 2}, notes=("category 0, 'pets'",))


def cvat(root: Path) -> tuple[Path, Truth]:
    images = _images(0, 8)
    document = _document(images, {"cat": 1, "dog": 2}, segmentation=[], attributes={"occluded": False})
    objects = _write(root, "annotations/instances_default.json", document, images, "images/default")
    return root, Truth(CLASSES, objects)


def label_studio(root: Path) -> tuple[Path, Truth]:
    """On Windows: a prefix before each name, folders with backslashes, ids from 0."""
    images = _images(0, 8, "9f3a10c{}-photo.jpg")
    document = _document(images, {"cat": 0, "dog": 1}, 0, segmentation=[], ignore=0)
    for entry in document["images"]:
        entry["file_name"] = "images\\" + entry["file_name"]
    objects = _write(root, "result.json", document, images, "images")
    return root, Truth(CLASSES, objects, notes=("images at another path than their file gives: 8",))


def label_studio_local(root: Path) -> tuple[Path, Truth]:
    """Without its images, from storage on its machine: names are addresses, quoted, with width and height swapped."""
    images = _images(0, 8, "photo {}.jpg")
    document = _document(images, {"cat": 0, "dog": 1}, 0, segmentation=[], ignore=0)
    for entry in document["images"]:
        quoted = entry["file_name"].replace(" ", "%20")
        entry["file_name"] = f"/data/local-files/?d=storage/{quoted}"
        entry["width"], entry["height"] = HEIGHT, WIDTH
    objects = _write(root, "result.json", document, images, "images")
    notes = ("images at another path", "sizes that are not those of the images: 8")
    return root, Truth(CLASSES, objects, notes=notes)


def fiftyone(root: Path) -> tuple[Path, Truth]:
    images = _images(0, 8)
    document = {"info": {"year": ""}, "licenses": [], **_document(images, {"cat": 0, "dog": 1})}
    for entry in document["categories"]:
        entry["supercategory"] = None
    return root, Truth(CLASSES, _write(root, "labels.json", document, images, "data"))


def datumaro(root: Path) -> tuple[Path, Truth]:
    objects: dict[str, list[Box]] = {}
    for first, split, count in ((0, "train", 6), (10, "val", 3)):
        images = _images(first, count)
        document = _document(images, {"cat": 1, "dog": 2}, segmentation=[])
        document["annotations"] = [
            {**entry, "bbox": [float(value) for value in entry["bbox"]]} for entry in document["annotations"]
        ]
        objects |= _write(root, f"annotations/instances_{split}.json", document, images, f"images/{split}")
    return root, Truth(CLASSES, objects, splits={"train": 6, "val": 3})


def via(root: Path) -> tuple[Path, Truth]:
    """The ids of images are numbers in one place and text in the other; a polygon is in no list of its own."""
    images = _images(0, 8)
    document = _document(images, {"cat": 1, "dog": 2}, 0)
    for entry in document["annotations"]:
        entry["image_id"] = str(entry["image_id"])
        entry["segmentation"] = _corners(entry["bbox"])
    return root, Truth(CLASSES, _write(root, "via_export_coco.json", document, images, ""))


def makesense(root: Path) -> tuple[Path, Truth]:
    images = _images(0, 8)
    document = {"info": {"description": "my-project-name"}, **_document(images, {"cat": 1, "dog": 2})}
    for number, entry in enumerate(document["annotations"]):
        entry |= {"id": number, "segmentation": [_corners(entry["bbox"])]}
    objects = _write(root, "labels_my-project-name_2026-01-31-10-15-20.json", document, images, "")
    return root, Truth(CLASSES, objects)


EXPORTS: list[Export] = [
    Export("COCO", "annotations/instances_train2017.json, train2017/", original),
    Export("Roboflow", "COCO: train/_annotations.coco.json beside the images", roboflow),
    Export("CVAT", "COCO 1.0: annotations/instances_default.json, images/default/", cvat),
    Export("Label Studio", "COCO: result.json, images/", label_studio),
    Export("Label Studio", "COCO without images: result.json", label_studio_local),
    Export("FiftyOne", "COCODetectionDataset: labels.json, data/", fiftyone),
    Export("Datumaro", "COCO: annotations/instances_train.json, images/train/", datumaro),
    Export("VIA", "COCO: via_export_coco.json beside the images", via),
    Export("makesense.ai", "COCO: labels_*.json beside the images", makesense),
]
