"""Small files that would be much work are refused, or done in little time and memory (docs/security.md)."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.check_detect import repeated
from foveal.data.coco_json import read_categories
from foveal.data.files import Complaints, natural, report_alike
from foveal.data.image import ImageError, _scans, read_image
from foveal.data.objects import MAX_OBJECTS
from foveal.data.sources import load_dataset, survey
from foveal.data.yolo_settings import names_splits, settings_file
from foveal.errors import InputError
from foveal.ops.masks import polygon_mask, rle_box, rle_decode, rle_encode
from foveal.report.boxes import draw_objects
from foveal.structures import Objects
from tests.data.annotated import coco, picture, write_json
from tests.fuzzing import bounded


@contextmanager
def within(seconds: float, megabytes: int = 500) -> Iterator[None]:
    """So much processor time, and so much memory more than before."""
    with bounded(megabytes * 2**20):
        before = time.process_time()
        yield
        assert time.process_time() - before < seconds


def refused(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def blank(side: int, form: str, mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **options)
    return file.getvalue()


def test_a_jpeg_of_many_scans() -> None:
    whole = blank(4000, "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with within(1), pytest.raises(ImageError, match=r"1,\d\d\d scans of 4000 x 4000 pixels"):
        read_image(whole[:-2] + 1000 * scan + b"\xff\xd9")
    small = blank(64, "JPEG", progressive=True)  # scans alone are no work
    assert read_image(small[:-2] + 100 * small[small.rindex(b"\xff\xda") : -2] + b"\xff\xd9").shape == (3, 64, 64)
    assert read_image(whole).shape == (3, 4000, 4000)


def test_scans_are_counted_at_even_and_odd_places() -> None:
    draw = np.random.default_rng(0)
    for length in [*range(1, 9), *[60] * 50]:
        data = np.frombuffer(b"\xff\xda\x00", np.uint8)[draw.integers(0, 3, length)].tobytes()
        assert _scans(data) == data.count(b"\xff\xda")


@pytest.mark.parametrize(
    ("form", "mode", "decoded"),
    [
        ("PNG", "RGBA", 4),
        ("PNG", "LA", 4),
        ("PNG", "P", 1),
        ("PNG", "I;16", 2),
        ("TIFF", "I;16", 2),
        ("JPEG", "CMYK", 4),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_memory_of_an_image(form: str, mode: str, decoded: int, orientation: int) -> None:
    """The pixels as Pillow decodes them, in so many bytes each, the 3 of the result, and little more."""
    side, exif = 4000, Image.Exif()
    exif[0x0112] = orientation
    data = blank(side, form, mode, exif=exif, **({"transparency": 0} if mode == "P" else {}))
    extra = side * side * 2 if form == "TIFF" and orientation == 6 else 0  # Pillow turns a TIFF itself
    with within(2, (len(data) + extra + (decoded + 3) * side * side) // 2**20 + 24):
        assert read_image(data).shape == (3, side, side)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_of_a_large_image(mode: str) -> None:
    data = blank(1000, "PNG", mode, **({"transparency": 0} if mode == "P" else {}))
    assert int(read_image(data).min()) == 255


def test_transparency_in_blocks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 7, 4), np.uint8)
    for mode in ("RGBA", "LA", "P", "L", "RGB", "CMYK"):
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
        whole = read_image(file.getvalue())
        monkeypatch.setattr("foveal.data.image.BLOCK", 21)
        assert read_image(file.getvalue()).equal(whole)
        monkeypatch.undo()


def test_objects_that_are_nearly_one() -> None:
    boxes = np.array([10, 10, 100, 100]) + np.random.default_rng(0).random((10_000, 4))
    with within(3):
        found = repeated(boxes, np.zeros(len(boxes), int))
    assert len(found) > 9000
    assert all(again > first for again, first in found.items())


def test_many_categories() -> None:
    document = {
        "annotations": [],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(60_000)],
    }
    with within(1):
        assert len(read_categories(Path("a.json"), document)) == 60_000


def test_names_that_are_long() -> None:
    objects = Objects(torch.tensor([[1.0, 1, 20, 20]]), torch.tensor([0]))
    for sign in ("x", "\n", "\u0301", "."):
        with within(1):
            draw_objects(torch.zeros(3, 64, 64, dtype=torch.uint8), objects, [100_000 * sign])
    with within(1):
        report_alike("x", ["." * 100_000 + "x", " " * 100_000 + "y"], Complaints())
        assert sorted(["1" * 5000, "2"], key=natural)[0] == "2"


def test_boxes_that_are_no_numbers_are_not_drawn() -> None:
    image, nan = torch.zeros(3, 64, 64, dtype=torch.uint8), float("nan")
    box = torch.tensor([[1.0, 1, 20, 20], [nan] * 4, [1, 1, nan, 9], [-float("inf"), 0, float("inf"), 9]])
    labels = torch.zeros(4, dtype=torch.int64)
    shown = draw_objects(image, Objects(box, labels), ["a"])
    assert shown.equal(draw_objects(image, Objects(box[:1], labels[:1]), ["a"]))


def test_masks_of_large_images_are_drawn_one_at_a_time(tmp_path: Path) -> None:
    side, count = 11_000, 400
    (tmp_path / "0.png").write_bytes(blank(side, "PNG"))
    code = {"segmentation": {"size": [side, side], "counts": [5, side * side - 5]}}
    rows = [(1, 0, 0, 9, 9, code)] * count
    document = coco({1: "a"}, {"0.png": rows}, (side, side))
    for entry in document["annotations"][1:]:
        del entry["bbox"]  # which is then taken from the mask
    write_json(tmp_path / "val.json", document)
    with within(3, 450):
        targets: Any = load_dataset(tmp_path).targets
        masks = targets.with_masks()[0].masks
        assert masks.shape == (count, side, side)
        assert int(masks[399].count_nonzero()) == side * side - 5
        smaller = targets.with_masks()[0].warp(torch.tensor([[1 / 1000, 0, 0], [0, 1 / 1000, 0]]), (11, 11)).masks
        assert smaller.shape == (count, 11, 11)
        assert smaller[7].all()


def test_masks_of_an_image_that_is_turned(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg", (4000, 3000), turned=True)
    height, width = 3000, 4000
    code = {"segmentation": {"size": [height, width], "counts": [5, height * width - 5]}}
    corners = {"segmentation": [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0]]}
    rows = [(1, 0, 0, 4000, 9, code)] * 200 + [(1, 0, 0, 9, 9, corners)] * 200
    write_json(tmp_path / "val.json", coco({1: "a"}, {"0.jpg": rows}, (height, width)))
    with within(3, 300):
        masks = load_dataset(tmp_path).targets.with_masks()[0].masks  # type: ignore[union-attr]
        assert masks.shape == (400, 4000, 3000)
        assert int(masks[199].count_nonzero()) == height * width - 5
        assert masks[399][:9, -9:].all()
        assert int(masks[399].count_nonzero()) == 81


def test_polygons_of_the_largest_image_take_little_memory() -> None:
    corners = torch.tensor([[0.0, 0], [11_500, 0], [11_500, 11_500], [0, 11_500]])
    with within(3, 450):
        assert int(polygon_mask(corners, (11_500, 11_500)).count_nonzero()) == 11_500**2


def test_the_box_of_a_code_is_that_of_its_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        height, width = torch.randint(1, 7, (2,), generator=generator).tolist()
        mask = torch.rand(height, width, generator=generator) < 0.25
        rows, columns = torch.nonzero(mask, as_tuple=True)
        inside = len(rows) > 0
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1) if inside else None
        assert rle_box(rle_encode(mask), (height, width)) == box
    assert rle_decode(torch.tensor([1, 0, 1, 2]), (2, 2)).sum() == 2
    assert rle_box(torch.tensor([1, 0, 1, 2]), (2, 2)) == (1, 0, 2, 2)


def test_polygons_of_many_corners(tmp_path: Path) -> None:
    corners = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)) * 300
    with within(3, 200):
        polygon_mask(corners, (300, 300))
    side = 11_000
    (tmp_path / "0.png").write_bytes(blank(side, "PNG"))
    zigzag = [value for number in range(20_000) for value in (number % side, side * (number % 2))]
    write_json(
        tmp_path / "val.json", coco({1: "a"}, {"0.png": [(1, 0, 0, 9, 9, {"segmentation": [zigzag]})]}, (side, side))
    )
    targets: Any = load_dataset(tmp_path).targets.with_masks()  # type: ignore[union-attr]
    with within(1), pytest.raises(ImageError, match="cross more than"):
        targets[0].masks[0]


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, '{"images":' + "[" * 10**6])
def test_json_that_is_deep(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with within(1):
        refused(tmp_path / "a.json")


def table(tmp_path: Path, text: str) -> Path:
    for number in range(3):
        picture(tmp_path / f"{number}.jpg")
    (tmp_path / "a.csv").write_text(text)
    return tmp_path / "a.csv"


def test_tables(tmp_path: Path) -> None:
    columns = ",".join(f"c{number}" for number in range(10**6))
    file = table(tmp_path, f"path,label,{columns}\n")
    with within(2):
        assert "1,000,002 columns" in refused(file)
    table(tmp_path, "path,label\n" + "".join(f"x{number}.jpg,a\n" for number in range(200_000)))
    with within(3):
        assert "10,000 of the first 10,000 images do not exist" in refused(file)
    table(tmp_path, f"path,label\n0.jpg,{'[' * 100_000}\n1.jpg,{'1' * 100_000}\n2.jpg,b\n")
    with within(1):
        assert len(load_dataset(file).labels) == 3


def yolo(root: Path, settings: str, lines: str = "") -> Path:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg")
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / "0.txt").write_text(lines)
    (root / "data.yaml").write_text(settings)
    return root


def test_label_files(tmp_path: Path) -> None:
    root = yolo(tmp_path, "val: images\nnames: [a]\n", "0 0.5 0.5 0.1 0.1\n" * 10**6)
    with within(2):
        assert f"1,000,000 lines; an image may have {MAX_OBJECTS:,} objects" in refused(root)
    yolo(tmp_path, "val: images\nnames: [a]\n", "0 " + "0.1 0.2 " * 10**5)
    with within(2, 200):
        load_dataset(root)
    yolo(tmp_path, "val: images\nnames: [a]\n", ("0 " + "0.1 0.2 " * 1000 + "\n") * 300)
    with within(2, 200):
        load_dataset(root)


def test_lists_of_missing_images(tmp_path: Path) -> None:
    root = yolo(tmp_path, "val: list.txt\nnames: [a]\n")
    (root / "list.txt").write_text("".join(f"images/x{number}.jpg\n" for number in range(200_000)))
    with within(3):
        refused(root)
    (root / "list.txt").write_text("a/" * 2000 + "0.jpg\n" + "b" * 5000 + "\nimages/0.jpg\n")
    with within(1):
        refused(root)


def test_settings_of_many_blank_lines(tmp_path: Path) -> None:
    for name in ("data.yaml", "obj.data"):
        (tmp_path / name).write_text("\n" * 10**6)
        with within(1):
            assert not names_splits(tmp_path / name)
            assert settings_file(tmp_path) is None


def test_xml(tmp_path: Path) -> None:
    item = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for text in (f"<annotation>{item * 10**5}</annotation>", "<a>" * 10**5 + "</a>" * 10**5, "<a>" * 10**5):
        picture(tmp_path / "0.jpg")
        (tmp_path / "0.xml").write_text(text)
        with within(3):
            refused(tmp_path)


def test_coco_of_missing_images(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    images = [{"id": number, "file_name": f"a/b/x{number}.jpg"} for number in range(50_000)]
    document = {"images": [{"id": -1, "file_name": "0.jpg"}, *images], "annotations": [], "categories": []}
    (tmp_path / "val.json").write_text(json.dumps(document))
    with within(4):
        refused(tmp_path)


def test_key_points_of_one_object_that_all_others_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "0.jpg")
    rows = [(1, 1, 1, 9, 9, {"keypoints": [5, 5, 2] * (50 if number == 0 else 1)}) for number in range(100)]
    write_json(tmp_path / "val.json", coco({1: "a"}, {"0.jpg": rows}))
    monkeypatch.setattr("foveal.data.objects.MAX_POINTS", 4999)
    assert "one of 100 objects has 50 key points; so many objects may have 49 each" in refused(tmp_path)


def test_a_survey_of_many_faults_ends(tmp_path: Path) -> None:
    rows = "".join(f"0.jpg,a,{'x' * 100}\n" for _ in range(30_000))
    file = table(tmp_path, f"path,label,split\n{rows}")
    with within(4):
        assert "what follows was not read" in (survey(file)[1].collected or [])[-1]
