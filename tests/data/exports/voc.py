"""Exports in the format of voc.

In the files pixels are counted from 1 and the last one is in the box; `Truth` has the edges, from 0.
"""

from pathlib import Path

from tests.data.annotated import picture
from tests.data.exports import Box, Export, Truth
from tests.data.exports.coco import CLASSES, HEIGHT, WIDTH, boxes

DIFFICULT = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"


def _xml(
    objects: list[Box], filename: str, more: str = "", each: str = DIFFICULT, style: str = "{:g}", order: str = "xyxy"
) -> str:
    """An annotation. more: elements before the size. each: of an object, after its name. order: of the corners."""
    parts = [f"<annotation><folder>images</folder><filename>{filename}</filename>{more}"]
    parts.append(
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size><segmented>0</segmented>"
    )
    for label, x1, y1, x2, y2 in objects:
        sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        names = sides if order == "xyxy" else ("xmin", "xmax", "ymin", "ymax")
        corners = "".join(f"<{side}>{style.format(sides[side])}</{side}>" for side in names)
        parts.append(f"<object><name>{label}</name>{each}<bndbox>{corners}</bndbox></object>")
    return "".join([*parts, "</annotation>"])


def _put(root: Path, image: str, xml: str, text: str) -> None:
    picture(root / image, (WIDTH, HEIGHT))
    (root / xml).parent.mkdir(parents=True, exist_ok=True)
    (root / xml).write_text(text, "utf-8")


def original(root: Path) -> tuple[Path, Truth]:
    """The folder of several years, as it is unpacked, with lists of each class."""
    objects: dict[str, list[Box]] = {}
    for year, first, lists in (
        ("VOC2007", 0, {"train": 3, "val": 2, "test": 2}),
        ("VOC2012", 10, {"train": 3, "val": 2}),
    ):
        folder, number = root / "VOCdevkit" / year, first
        for split, count in lists.items():
            names = [f"{number + n:06}" for n in range(count)]
            for name in names:
                found = boxes(int(name))
                part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax></bndbox></part>"
                text = _xml(
                    found, f"{name}.jpg", "<source><database>The VOC Database</database></source>", DIFFICULT + part
                )
                _put(folder, f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml", text)
                objects[f"VOCdevkit/{year}/JPEGImages/{name}.jpg"] = found
            (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
            (folder / f"ImageSets/Main/cat_{split}.txt").write_text("".join(f"{name} -1\n" for name in names))
            number += count
    return root / "VOCdevkit", Truth(CLASSES, objects, splits={"train": 6, "val": 4, "test": 2})


def labelimg(root: Path) -> tuple[Path, Truth]:
    objects = {f"photo {n}.jpg": boxes(n) for n in range(8)}
    for name, found in objects.items():
        more = f"<path>C:\\Users\\me\\photos\\{name}</path><source><database>Unknown</database></source>"
        _put(root, name, name.replace(".jpg", ".xml"), _xml(found, name, more))
    return root, Truth(CLASSES, objects)


def cvat(root: Path) -> tuple[Path, Truth]:
    """Numbers with decimals, one list of the subset default."""
    objects: dict[str, list[Box]] = {}
    each = "<occluded>0</occluded><difficult>False</difficult>"
    for n in range(8):
        _put(root, f"JPEGImages/a/{n}.jpg", f"Annotations/a/{n}.xml", _xml(boxes(n), f"a/{n}.jpg", "", each, "{:.2f}"))
        objects[f"JPEGImages/a/{n}.jpg"] = boxes(n)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/default.txt").write_text("".join(f"a/{n}\n" for n in range(8)))
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\ndog:4,5,6::\n"
    )
    return root, Truth(CLASSES, objects, notes=("has no list train, val or test",))


def roboflow(root: Path) -> tuple[Path, Truth]:
    objects: dict[str, list[Box]] = {}
    for first, split, count in ((0, "train", 6), (10, "valid", 3), (14, "test", 2)):
        for n in range(first, first + count):
            name = f"img-{n}_jpg.rf.4e5e76d9c1f0aa0b{n:04}"
            more = f"<path>{name}.jpg</path><source><database>roboflow.com</database></source>"
            text = _xml(boxes(n), f"{name}.jpg", more, DIFFICULT + "<occluded>0</occluded>", order="xxyy")
            _put(root, f"{split}/{name}.jpg", f"{split}/{name}.xml", text)
            objects[f"{split}/{name}.jpg"] = boxes(n)
    return root, Truth(CLASSES, objects, splits={"train": 6, "val": 3, "test": 2})


def label_studio(root: Path) -> tuple[Path, Truth]:
    """Names without suffix; the suffix of the image is only in images/."""
    objects: dict[str, list[Box]] = {}
    for n in range(8):
        name = f"9f3a10c{n}-photo"
        text = '<?xml version="1.0" encoding="utf-8"?>\n' + _xml(boxes(n), name)
        _put(root, f"images/{name}.jpg", f"Annotations/{name}.xml", text)
        objects[f"images/{name}.jpg"] = boxes(n)
    return root, Truth(CLASSES, objects)


def fiftyone(root: Path) -> tuple[Path, Truth]:
    objects: dict[str, list[Box]] = {}
    for n in range(8):
        text = _xml(boxes(n), f"{n:06}.jpg", f"<path>/home/me/data/{n:06}.jpg</path><source></source>")
        _put(root, f"data/{n:06}.jpg", f"labels/{n:06}.xml", text)
        objects[f"data/{n:06}.jpg"] = boxes(n)
    return root, Truth(CLASSES, objects)


def datumaro(root: Path) -> tuple[Path, Truth]:
    objects: dict[str, list[Box]] = {}
    for split, numbers in (("train", range(6)), ("val", range(6, 9))):
        for n in numbers:
            _put(root, f"JPEGImages/{n}.jpg", f"Annotations/{n}.xml", _xml(boxes(n), f"{n}.jpg", style="{:.1f}"))
            objects[f"JPEGImages/{n}.jpg"] = boxes(n)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{n}\n" for n in numbers))
        (root / f"ImageSets/Main/cat_{split}.txt").write_text("".join(f"{n}  1\n" for n in numbers))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\ncat:1,2,3::\ndog:4,5,6::\n")
    return root, Truth(CLASSES, objects, splits={"train": 6, "val": 3})


def vott(root: Path) -> tuple[Path, Truth]:
    """Lists of each class alone, whose lines have the suffix; numbers of many digits."""
    objects: dict[str, list[Box]] = {}
    for n in range(8):
        more = f"<path>D:\\set\\photo%20{n}.jpg</path><source><database>Unknown</database></source>"
        text = f'<?xml version="1.0"?>{_xml(boxes(n), f"photo {n}.jpg", more, style="{:.13f}")}'
        _put(root, f"JPEGImages/photo {n}.jpg", f"Annotations/photo {n}.xml", text)
        objects[f"JPEGImages/photo {n}.jpg"] = boxes(n)
    (root / "ImageSets/Main").mkdir(parents=True)
    for label in CLASSES:
        for split, numbers in (("train", range(6)), ("val", range(6, 8))):
            lines = "".join(f"photo {n}.jpg 1\n" for n in numbers)
            (root / f"ImageSets/Main/{label}_{split}.txt").write_text(lines)
    (root / "pascal_label_map.pbtxt").write_text("item {\r\n id: 1\r\n name: 'cat'\r\n}\r\n")
    return root, Truth(CLASSES, objects, notes=("has no list train, val or test",))


EXPORTS: list[Export] = [
    Export("Pascal VOC", "VOCdevkit/VOC2007, VOCdevkit/VOC2012", original),
    Export("labelImg", "Pascal VOC: XML beside the images", labelimg),
    Export("CVAT", "PASCAL VOC 1.1: Annotations/, ImageSets/Main/default.txt, JPEGImages/", cvat),
    Export("Roboflow", "Pascal VOC: XML beside the images in train/, valid/, test/", roboflow),
    Export("Label Studio", "Pascal VOC: Annotations/, images/", label_studio),
    Export("FiftyOne", "VOCDetectionDataset: labels/, data/", fiftyone),
    Export("Datumaro", "VOC: Annotations/, ImageSets/Main/, JPEGImages/", datumaro),
    Export("VoTT", "Pascal VOC: Annotations/, ImageSets/Main/, JPEGImages/, pascal_label_map.pbtxt", vott),
]
