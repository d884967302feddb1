"""Arbitrary bytes where images and annotations are read: a result or an InputError of one line, at once, in little
memory.

With test_fuzz_weights.py, test_fuzz_folders.py and test_fuzz_runs.py 50,000 inputs in all; `make fuzz` has 1,000,000.
"""

import io
import itertools
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import image
from foveal.data.sources import load_dataset, survey
from tests.data.annotated import coco, voc
from tests.fuzzing import Hangs, Make, bounded, damaged, fuzz, noise, one_of, replaced, survives, write

MAX_PIXELS = 2**20  # lowered from 2**27, so that what an image may take is small beside what tests take anyhow
IMAGE_BOUND = 16 * MAX_PIXELS + 2**26  # bytes: pixels in a few forms, and what allocators and decoders keep
TEXT_BOUND = 2**26


def test_the_bounds_hold() -> None:
    with pytest.raises(MemoryError), bounded(2**24):
        bytearray(2**34)
    with pytest.raises(Hangs), bounded(2**24):
        next(number for number in itertools.count() if number < 0)
    with bounded(2**27):
        bytearray(2**26)


def images() -> list[bytes]:
    """A small file of each format and of the stranger modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[image.ORIENTATION] = 6
    files = []
    for form, mode, options in (
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {}),
        ("GIF", "P", {"save_all": True, "append_images": [picture.convert("P")]}),
    ):
        file = io.BytesIO()
        converted = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        converted.save(file, form, **options)
        files.append(file.getvalue())
    return files


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", MAX_PIXELS)
    originals, results = images(), []
    for data in originals:
        assert survives(lambda data=data: image.read_image(data), IMAGE_BOUND)

    def read(data: bytes) -> None:
        results.append(survives(lambda: image.read_image(data), IMAGE_BOUND))

    fuzz(10_000, damaged(originals), read)
    assert 0.1 < np.mean(results) < 0.9  # neither all refused at the door nor all harmless


def test_an_image_that_claims_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", MAX_PIXELS)
    bomb = bytearray(next(data for data in images() if data.startswith(b"BM")))
    bomb[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert not survives(lambda: image.read_image(bytes(bomb)), IMAGE_BOUND)


# --- CSV files -------------------------------------------------------------------------------------------------------

WORDS = ["path", "label", "split", "0.png", "1.png", "./0.png", "gone.png", "cat", "dog", "train", "val", "test", "x"]
SIGNS = [*",,,", *"\n\n\r", "\r\n", '"', '""', *"';\t \0", "\ufeff", "猫", "é", "\\", "..", "/"]


def words(choices: list[str], most: int) -> Make:
    """Some of the words, one after another."""
    return lambda draw: "".join(draw.choices(choices, k=draw.randint(0, most)))


tokens = words(WORDS + SIGNS, 40)


def rows(draw: Random) -> str:
    pairs = [(draw.choice(WORDS[3:7]), draw.choice(WORDS[7:])) for _ in range(draw.randint(0, 12))]
    return "path,label\n" + "".join(f"{path},{label}\n" for path, label in pairs)


def spliced(draw: Random) -> str:
    """A table with something else in its midst."""
    table = rows(draw)
    place = draw.randint(0, len(table))
    return table[:place] + tokens(draw) + table[place:]


def encoded(make: Make) -> Make:
    return lambda draw: make(draw).encode("utf-8", "replace")


def test_csv_files(tmp_path: Path) -> None:
    for number in range(2):
        image.write_image(tmp_path / f"{number}.png", torch.full((3, 2, 2), number, dtype=torch.uint8))
    path, results = tmp_path / "data.csv", []
    unicode = words([chr(sign) for sign in range(0x3000) if sign not in range(0xD800, 0xE000)], 60)
    texts = encoded(one_of(rows, spliced, tokens, unicode))

    def read(data: bytes) -> None:
        write(path, data)
        results.append(survives(lambda: load_dataset(path), TEXT_BOUND))

    # Two images are too few to split in three: with a split of their own they do.
    path.write_text("path,label,split\n0.png,cat,train\n1.png,dog,test\n")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    fuzz(6_000, one_of(texts, noise(60), damaged([b"path,label\n0.png,cat\n1.png,dog\n"])), read)
    assert not all(results)


# --- Annotations of objects ------------------------------------------------------------------------------------------


def changed_json(original: Any) -> Make:
    make = replaced(original)
    return lambda draw: json.dumps(make(draw)).encode()


def read_annotations(root: Path, file: Path, inputs: Make, count: int) -> None:
    """Load the folder with each of the inputs as that file, as it is used and as it is checked."""
    results = []

    def load() -> None:
        for target in load_dataset(root).targets or ():
            assert torch.isfinite(target.boxes).all()  # type: ignore[attr-defined]

    def read(data: bytes) -> None:
        write(file, data)
        results.append(survives(load, TEXT_BOUND))
        survives(lambda: survey(root), TEXT_BOUND)

    fuzz(count, inputs, read)
    assert 0.01 < np.mean(results) < 0.9


def small_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        image.write_image(folder / f"{number}.jpg", torch.full((3, 6, 8), 90 * number, dtype=torch.uint8))


def test_coco_files(tmp_path: Path) -> None:
    small_images(tmp_path)
    shape = {"segmentation": [[1, 1, 5, 1, 5, 4]], "keypoints": [1, 2, 2], "area": 9.5}
    code = {"segmentation": {"size": [6, 8], "counts": [3, 4, 41]}, "iscrowd": 1}
    rows = {"0.jpg": [(2, 1, 1, 4, 3, shape), (7, 0, 0, 3, 3, code)], "1.jpg": [(2, 1, 2, 3, 3)]}
    document = coco({2: "cat", 7: "dog"}, rows, (8, 6))
    plain = json.dumps(document).encode()
    inputs = one_of(changed_json(document), changed_json(document), damaged([plain]), noise(60))
    (tmp_path / "val.json").write_bytes(plain)
    assert len(load_dataset(tmp_path)) == 2
    read_annotations(tmp_path, tmp_path / "val.json", inputs, 1_000)


def test_voc_files(tmp_path: Path) -> None:
    small_images(tmp_path / "val")
    for number in range(2):
        voc(tmp_path / "val" / f"{number}.xml", [("cat", 1, 1, 4, 4), ("dog", 2, 2, 8, 6, True)], (8, 6))
    file = tmp_path / "val" / "0.xml"
    plain = file.read_bytes()
    parts = [b"cat", b"dog", b"<ymax>4", b"<xmin>2", b"width", b"<height>6", b"object", b"</bndbox>", b"difficult>1"]
    odd = [b"", b"nan", b"<ymax>1e999", b"<xmin>-3", b"<xmin>99", b"<a/>", b"<height>0", b"bndbox", b"&lt;", b"&x;"]

    def swapped(draw: Random) -> bytes:
        return plain.replace(draw.choice(parts), draw.choice(odd))

    read_annotations(tmp_path, file, one_of(swapped, damaged([plain]), noise(60)), 1_000)


YAML = ["names", *"::  \n\n[]{},'01#&.", '"', "- ", "cat", "val"]


def test_yolo_files(tmp_path: Path) -> None:
    small_images(tmp_path / "images" / "val")
    labels, names = tmp_path / "labels" / "val" / "0.txt", tmp_path / "data.yaml"
    labels.parent.mkdir(parents=True)
    labels.write_text("")
    whole = [b"val: images/val\nnames:\n  0: 'cat'\n  1: dog\n", b'nc: 2\nnames: [cat, "dog"] # two\n']
    lines = encoded(lambda draw: "names" + words(YAML, 20)(draw))
    read_annotations(tmp_path, names, one_of(damaged(whole), lines, noise(40)), 1_000)
    names.write_bytes(whole[0])
    objects = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.5 0.1 0.5 0.9\n"
    figures = encoded(words([*"01.- \n\n", " ", "nan", "1e400", "0.5 ", "-1 "], 30))
    inputs = one_of(damaged([objects]), figures, noise(40))
    read_annotations(tmp_path, labels, inputs, 1_000)
