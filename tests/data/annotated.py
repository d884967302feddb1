"""Small data to detect, written by the layouts' own rules, as a labelling tool would."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveal.data.image import ORIENTATION

Box = tuple[str, float, float, float, float]  # class and x1, y1, x2, y2


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int | None = None, turned: bool = False) -> None:
    """A JPEG unlike any other; size is width and height as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if seed is None else seed
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    if turned:
        exif[ORIENTATION] = 6
    Image.fromarray(noise).resize(size).save(path, exif=exif)


def coco(categories: dict[int, str], images: dict[str, list[Any]], size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    """images: file name -> annotations, each (category id, x, y, width, height), or that and a dictionary of more."""
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    for number, (name, objects) in enumerate(images.items(), 1):
        document["images"].append({"id": 10 * number, "file_name": name, "width": size[0], "height": size[1]})
        for category, *bbox in objects:
            more = bbox.pop() if isinstance(bbox[-1], dict) else {}
            entry = {"id": len(document["annotations"]) + 1, "image_id": 10 * number, "category_id": category}
            document["annotations"].append({**entry, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0, **more})
    return document


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def voc(
    path: Path, objects: list[Any], size: tuple[int, int] | None = (40, 30), filename: str = "elsewhere.jpg"
) -> None:
    """objects: (class, xmin, ymin, xmax, ymax), or that and difficult."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"<annotation><filename>{filename}</filename>"]
    if size:
        parts.append(f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>")
    for name, x1, y1, x2, y2, *difficult in objects:
        parts.append(
            f"<object><name>{name}</name><difficult>{int(bool(difficult and difficult[0]))}</difficult><bndbox>"
            f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    path.write_text("".join([*parts, "</annotation>"]))
