"""What real folders hold: every kind of image, damaged files, strange names, many classes; from check to explain."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.image import ORIENTATION, write_image
from tests.cli.conftest import Answer
from tests.cli.test_train import QUICK, record

NAMES = ["plain.png", "two\nlines.png", "猫.png", "صورة.png", "é'\"$(x).png", "-dash.png", os.fsdecode(b"caf\xe9.png")]


def picture(seed: int, height: int = 24, width: int = 32) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_readable(folder: Path) -> int:
    """Odd images that can be read; how many."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(1).save(folder / "turned.jpg", exif=exif)
    picture(2).convert("CMYK").save(folder / "cmyk.jpg")
    picture(3).convert("P").save(folder / "palette.gif")
    Image.merge("RGBA", (*picture(4).split(), picture(5).convert("L"))).save(folder / "alpha.png")
    picture(6).save(folder / "animated.webp", save_all=True, append_images=[picture(7)])
    Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80).save(folder / "deep.png")
    picture(8).convert("1").save(folder / "black_and_white.tiff")
    picture(9, 1, 1).save(folder / "dot.png")
    picture(10, 10, 20_000).save(folder / "line.png")
    for number, name in enumerate(NAMES):
        picture(20 + number).save(folder / name, "PNG")
    return 9 + len(NAMES)


def write_unreadable(folder: Path) -> set[str]:
    """Files with names of images that are none; their names."""
    picture(30).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image at all\n")
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(150_001))) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    names = {"truncated.jpg", "empty.jpg", "text.png", "bomb.png"}
    if os.geteuid():  # root may read everything
        picture(31).save(folder / "secret.png")
        (folder / "secret.png").chmod(0)
        names.add("secret.png")
    return names


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Path, int, set[str]]:
    """Two classes, one of odd images; how many can be read of it, and which cannot."""
    data = tmp_path / "odd"
    for name in ("strange", "usual"):
        (data / name).mkdir(parents=True)
    for number in range(40):
        picture(100 + number).save(data / "usual" / f"{number}.jpg")
    readable, unreadable = write_readable(data / "strange"), write_unreadable(data / "strange")
    (data / "strange" / "again").symlink_to(data)
    return data, readable, unreadable


def test_odd_images_from_check_to_explain(
    works: Callable[..., Answer], call: Callable[..., Answer], odd: tuple[Path, int, set[str]], tmp_path: Path
) -> None:
    data, readable, unreadable = odd
    answer = call("check", data, "--json")
    assert answer.code == 2
    found = answer.document()
    assert {Path(name).name for name in found["unreadable"]} == unreadable
    assert {"line.png", "dot.png"} <= {Path(name).name for name in found["odd_sizes"]}

    run = tmp_path / "run"
    for workers in (0, 1):
        words = (
            "--epochs",
            "2",
            "--batch-size",
            "4",
            "--workers",
            workers,
            "--plan",
            "eager",
            "--quiet",
            "--overwrite",
        )
        assert works("train", "lenet", "--data", data, "--out", run, *words).err == ""
        assert {Path(name).name for name in record(run)["unreadable"]} <= unreadable
        assert sum(record(run)["data"]["splits"].values()) == 40 + readable + len(unreadable)
    document = works("evaluate", run, "--data", data, "--split", "train", "--json").document()
    assert document["images"] + len(document["unreadable"]) == record(run)["data"]["splits"]["train"]

    images = [data / "strange" / name for name in ("line.png", "dot.png", "turned.jpg", "animated.webp", *NAMES)]
    document = works("predict", run, *images, "--out", tmp_path / "answers", "--json").document()
    assert [row["image"] for row in document["predictions"]] == [str(path) for path in images]
    assert len(json.loads((tmp_path / "answers/predictions.json").read_text())["predictions"]) == len(images)
    for path in images:
        works("explain", run, path, "--out", tmp_path / "why.png")
        assert (tmp_path / "why.png").stat().st_size > 1000


def test_bad_images_to_predict_and_explain(
    call: Callable[..., Answer], fails: Callable[..., str], odd: tuple[Path, int, set[str]], run: Path
) -> None:
    data, _, unreadable = odd
    for name in unreadable:
        for verb in ("predict", "explain"):
            assert f"cannot read {data / 'strange' / name}" in fails(verb, run, data / "strange" / name)


def test_one_content_with_two_labels(call: Callable[..., Answer], works: Callable[..., Answer], images: Path) -> None:
    (images / "two" / "copy.png").write_bytes(next((images / "one").glob("*.png")).read_bytes())
    answer = call("check", images, "--json")
    assert answer.code == 2
    (group,) = answer.document()["two_labels"]
    assert "copy.png (two)" in group[1]
    assert "(one)" in group[0]


def test_a_class_of_one_image(works: Callable[..., Answer], images: Path, tmp_path: Path) -> None:
    for path in sorted((images / "two").iterdir())[1:]:
        path.unlink()
    works("train", "lenet", "--data", images, "--out", tmp_path / "run", *QUICK, "--quiet")
    assert set(foveal.load(tmp_path / "run").labels) == {"zero", "one", "two"}
    assert any("two" in note for note in works("check", images, "--json").document()["notes"])


def test_ten_thousand_classes(works: Callable[..., Answer], tmp_path: Path) -> None:
    count, lines = 10_000, ["path,label,split"]
    (tmp_path / "images").mkdir()
    for number in range(200):
        image = torch.tensor([number, 255 - number, 7], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
        write_image(tmp_path / f"images/{number}.png", image)
    for number in range(count):  # all classes have images to learn from; many classes share a file
        (tmp_path / f"images/{number}_.png").symlink_to(tmp_path / f"images/{number % 200}.png")
        lines.append(f"images/{number}_.png,class {number},train")
    lines += [f"images/{number}.png,class {number},{'val' if number % 2 else 'test'}" for number in range(200)]
    (tmp_path / "many.csv").write_text("\n".join(lines))
    words = ("--image-size", "8", "--batch-size", "256", "--out", tmp_path / "run", "--quiet", *QUICK)
    works("train", "linear_softmax", "--data", tmp_path / "many.csv", *words)
    assert len(foveal.load(tmp_path / "run").labels) == count
    metrics = works("evaluate", tmp_path / "run", "--data", tmp_path / "many.csv", "--json").document()["metrics"]
    assert 0 <= metrics["accuracy"] <= metrics["top5"] <= 1
    assert (tmp_path / "run" / "report.html").stat().st_size < 5e6
