"""Boxes whose annotation gives the image another size, in each format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.frames import Frame
from foveal.data.image import ORIENTATION, read_image
from foveal.data.sources import load_dataset, survey
from foveal.ops.masks import rle_encode, rle_text
from tests.data.annotated import coco, picture, voc, write_json
from tests.data.test_coco import objects, refused

CLASSES = {1: "cat"}
WIDE = (40, 30)  # width and height


def turned(path: Path, size: tuple[int, int] = WIDE, orientation: int = 6) -> None:
    """A JPEG with this size as it is stored, and an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name) + int(path.stem)).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise).resize(size).save(path, exif=exif)


def stated(root: Path, size: tuple[int, int], boxes: list[tuple[float, ...]], **more: Any) -> Path:
    """A COCO file that gives each image this width and height, with one box an image."""
    images = {f"{n}.jpg": [(1, *box, more)] if more else [(1, *box)] for n, box in enumerate(boxes)}
    return write_json(root / "a.json", coco(CLASSES, images, size))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_frame_turns_points_and_masks_as_the_reader_turns_images(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((3, 5, 3), np.uint8)
    stored[1, 3] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")[0].numpy() > 0
    frame = Frame(upright.shape, (3, 5), orientation)  # type: ignore[arg-type]
    (y,), (x,) = np.nonzero(upright)
    assert frame.box((3, 1, 4, 2)) == (x, y, x + 1, y + 1)
    assert np.array_equal(frame.mask(stored[..., 0] > 0), upright)


def test_swapped_width_and_height(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [(30, 2, 8, 9), (1, 2, 3, 4), (5, 20, 4, 9), *[(4, 4, 5 + n, 6) for n in range(5)]]
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", WIDE)
    found = objects(load_dataset(stored := stated(tmp_path, WIDE[::-1], boxes)))
    assert found["0.jpg"] == [("cat", [30, 2, 38, 11])]
    assert found["2.jpg"] == [("cat", [5, 20, 9, 29])]
    err = capsys.readouterr().err
    assert "sizes that are not those of the images: 8; the boxes are taken in pixels of the image itself" in err
    assert "first 0.jpg: annotated as 30 x 40 pixels, it has 40 x 30" in err
    assert "clipped" not in err
    assert any("sizes that are not those" in note for note in survey(stored)[1].notes)


def test_boxes_of_an_image_that_was_turned_after_it_was_annotated(tmp_path: Path) -> None:
    """The size is that of the boxes; which way the image was turned is nowhere."""
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", WIDE)
    refused(
        stated(tmp_path, WIDE[::-1], [(2, 32, 8, 7)] * 8), "a.json: 0.jpg: annotated as 30 x 40", "no frame", "7 more"
    )


def test_boxes_of_the_unturned_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(6):
        turned(tmp_path / f"{n}.jpg")
    turned(tmp_path / "6.jpg", WIDE, 3)
    turned(tmp_path / "7.jpg", (40, 40), 6)
    file = stated(tmp_path, WIDE, [(32, 2, 6, 9)] + [(3, 4, 5, 6)] * 7)
    document = coco(CLASSES, {f"{n}.jpg": [(1, *((32, 2, 6, 9) if n == 0 else (3, 4, 5, 6)))] for n in range(8)}, WIDE)
    document["images"][7] |= {"width": 40, "height": 40}
    found = objects(load_dataset(write_json(file, document)))
    # Turned clockwise: x is the distance from the lower edge, y is x.
    assert found["0.jpg"] == [("cat", [30 - 11, 32, 30 - 2, 38])]
    assert found["1.jpg"] == [("cat", [30 - 10, 3, 30 - 4, 8])]
    # The size of these two says nothing; the others do.
    assert found["6.jpg"] == [("cat", [40 - 8, 30 - 10, 40 - 3, 30 - 4])]
    assert found["7.jpg"] == [("cat", [40 - 10, 3, 40 - 4, 8])]
    assert "pixels of the image before it is turned as its EXIF block says" in capsys.readouterr().err


def test_boxes_of_the_turned_image_with_the_size_of_the_unturned_one(tmp_path: Path) -> None:
    for n in range(8):
        turned(tmp_path / f"{n}.jpg")
    found = objects(load_dataset(stated(tmp_path, WIDE, [(2, 32, 6, 7)] + [(3, 4, 5, 6)] * 7)))
    assert found["0.jpg"] == [("cat", [2, 32, 8, 39])]


def test_masks_and_key_points_of_the_unturned_image(tmp_path: Path) -> None:
    for n in range(8):
        turned(tmp_path / f"{n}.jpg")
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[2:11, 32:38] = True
    code = {"size": [30, 40], "counts": rle_text(rle_encode(mask))}
    polygon = [[32, 2, 38, 2, 38, 11, 32, 11]]
    images: dict[str, list[Any]] = {f"{n}.jpg": [(1, 32, 2, 6, 9, {"segmentation": code})] for n in range(7)}
    images["7.jpg"] = [(1, 32, 2, 6, 9, {"segmentation": polygon, "keypoints": [33, 3, 2, 0, 0, 0]})]
    dataset = load_dataset(write_json(tmp_path / "a.json", coco(CLASSES, images, WIDE)))
    table: Any = dataset.targets.with_masks()  # type: ignore[union-attr]
    expected = torch.zeros(1, 40, 30, dtype=torch.bool)
    expected[0, 32:38, 30 - 11 : 30 - 2] = True
    assert torch.equal(table[0].masks.stack(), expected)
    assert torch.equal(table[7].masks.stack(), expected)
    assert table[7].keypoints.tolist() == [[[30 - 3.5, 33.5, 2], [0, 0, 0]]]


def test_a_mask_of_the_unturned_image_beside_a_box_of_the_turned_one(tmp_path: Path) -> None:
    for n in range(8):
        turned(tmp_path / f"{n}.jpg")
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[2:11, 32:38] = True
    code = {"size": [30, 40], "counts": rle_encode(mask).tolist()}
    file = stated(tmp_path, WIDE[::-1], [(19, 32, 9, 6)] * 8, segmentation=code)
    table: Any = load_dataset(file).targets.with_masks()  # type: ignore[union-attr]
    assert table[0].boxes.tolist() == [[19, 32, 28, 38]]
    assert torch.equal(table[0].masks[0].nonzero().amin(0), torch.tensor([32, 19]))


@pytest.mark.parametrize("ending", ["coco", "voc"])
def test_boxes_of_a_larger_image(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", (20, 15))
    if ending == "coco":
        file = stated(tmp_path, WIDE, [(30, 10, 8, 9)] + [(3, 4, 5, 6)] * 7)
    else:
        file = tmp_path
        for n in range(8):
            box = (31, 11, 38, 19) if n == 0 else (4, 5, 8, 10)
            voc(tmp_path / f"{n}.xml", [("cat", *box)], WIDE, f"{n}.jpg")
    found = objects(load_dataset(file))
    assert found["0.jpg"] == [("cat", [15, 5, 19, 9.5])]
    assert found["1.jpg"] == [("cat", [1.5, 2, 4, 5])]
    assert "an image of the size that the file gives, scaled" in capsys.readouterr().err


def test_boxes_that_fit_several_frames_are_refused(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", (20, 15))
    file = stated(tmp_path, WIDE, [(3, 4, 5, 6)] * 8)
    refused(
        file, str(file), "0.jpg: annotated as 40 x 30 pixels, it has 20 x 15", "correct the size", "7 more images of"
    )
    dataset, complaints = survey(file)
    assert dataset is None
    assert complaints.collected is not None
    assert len(complaints.collected) == 9  # each image, and that none is left


@pytest.mark.parametrize("size", [(30, 40), (0, 0), (500, 400), (-1, 7)])
def test_sizes_of_voc(tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", WIDE)
        voc(tmp_path / f"{n}.xml", [("cat", 30, 2, 40, 9)], size, f"{n}.jpg")
    dataset = load_dataset(tmp_path)
    assert objects(dataset)["0.jpg"] == [("cat", [29, 1, 40, 9])]
    assert dataset.targets.sizes.tolist() == [[30, 40]] * 8  # type: ignore[union-attr]
    assert ("sizes that are not those" in capsys.readouterr().err) == (min(size) > 0)


@pytest.mark.parametrize(("width", "height"), [("40", "30"), (40.0, 30.0), (None, "x"), (True, [])])
def test_sizes_in_other_words(tmp_path: Path, width: Any, height: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", WIDE)
    document = coco(CLASSES, {f"{n}.jpg": [(1, 30, 2, 9, 9)] for n in range(8)})
    for image in document["images"]:
        image |= {"width": width, "height": height}
    dataset = load_dataset(write_json(tmp_path / "a.json", document))
    assert dataset.targets.sizes.tolist() == [[30, 40]] * 8  # type: ignore[union-attr]
    assert capsys.readouterr().err == ""


def test_sizes_that_are_a_pixel_off_are_judged_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.jpg", WIDE)
    document = coco(CLASSES, {f"{n}.jpg": [(1, 30, 2, 10, 9)] for n in range(8)}, (41, 30))
    found = objects(load_dataset(write_json(tmp_path / "a.json", document)))
    assert found["0.jpg"] == [("cat", [30, 2, 40, 11])]
    assert "first 0.jpg: annotated as 41 x 30 pixels, it has 40 x 30" in capsys.readouterr().err
    document["images"][3] |= {"width": 90, "height": 30}
    document["annotations"][3]["bbox"] = [80, 2, 9, 9]
    refused(write_json(tmp_path / "a.json", document), "3.jpg: annotated as 90 x 30", "no frame")
    assert survey(tmp_path / "a.json")[1].collected is not None
    assert len(survey(tmp_path / "a.json")[1].collected or ()) == 1


@pytest.mark.parametrize("size", [WIDE[::-1], (0, 0)])
def test_boxes_of_the_unturned_image_with_the_size_of_the_turned_one_or_none(
    tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(6):
        turned(tmp_path / f"{n}.jpg")
    picture(tmp_path / "6.jpg", WIDE[::-1])
    found = objects(load_dataset(stated(tmp_path, size, [(32, 2, 6, 9)] + [(3, 4, 5, 6)] * 6)))
    assert found["0.jpg"] == [("cat", [30 - 11, 32, 30 - 2, 38])]
    assert found["1.jpg"] == [("cat", [30 - 10, 3, 30 - 4, 8])]
    assert found["6.jpg"] == [("cat", [3, 4, 8, 10])]
    err = capsys.readouterr().err
    assert "those of 6 images are turned with them; first 0.jpg" in err
    assert "clipped" not in err
    # One box that is right in the turned image decides that all are of it: what leaves it is cut, which is counted.
    found = objects(load_dataset(stated(tmp_path, size, [(32, 2, 6, 9), (3, 32, 5, 6)] + [(3, 4, 5, 6)] * 5)))
    assert found["1.jpg"] == [("cat", [3, 32, 8, 38])]
    assert "of 7 boxes 1 lay outside it" in capsys.readouterr().err
