"""Whole data sets with damage, links and pipes planted in them: a result or an InputError of one line, in little time
and memory; nothing outside the folder changes, and nothing of it is shown."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from foveal.data.sources import load_dataset, survey
from tests.data.annotated import coco, picture, voc
from tests.fuzzing import below, damaged, fuzz, survives

BOUND = 2**27  # bytes
SECRET = "root:x:0:0:a secret line"


def of_yolo(root: Path) -> None:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.5 0.1 0.5 0.9\n")
    (root / "labels" / "1.txt").write_text("")
    (root / "list.txt").write_text("images/0.jpg\n./images/1.jpg\nimages/2.jpg\n")
    (root / "data.yaml").write_text("path: .\nval: list.txt\nnames:\n  0: cat\n  1: dog\n")


def of_darknet(root: Path) -> None:
    of_yolo(root)
    (root / "data.yaml").unlink()
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "obj.data").write_text("classes = 2\nvalid = list.txt\nnames = obj.names\nbackup = backup/\n")


def of_csv(root: Path) -> None:
    for number in range(3):
        picture(root / f"{number}.jpg")
    (root / "data.csv").write_text("path,label,split\n0.jpg,cat,train\n1.jpg,dog,val\n2.jpg,dog,test\n")


def of_coco(root: Path) -> None:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg")
    (root / "annotations").mkdir()
    shape = {"segmentation": [[1, 1, 5, 1, 5, 4]], "keypoints": [1, 2, 2]}
    rows = {f"images/{number}.jpg": [(1, 1, 1, 4, 3, shape)] for number in range(3)}
    (root / "annotations" / "val.json").write_text(json.dumps(coco({1: "cat"}, rows)))


def of_voc(root: Path) -> None:
    for number in range(3):
        picture(root / "JPEGImages" / f"{number}.jpg")
        voc(root / "Annotations" / f"{number}.xml", [("cat", 1, 1, 4, 4)], filename=f"{number}.jpg")
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("0\n1\n2\n")


def of_folders(root: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(3):
            picture(root / label / f"{label}{number}.jpg")


def plant(path: Path, kind: str, data: bytes, outside: Path) -> None:
    """Put something in the place of a file."""
    path.unlink()
    targets = {"secret": outside / "secret", "device": Path("/dev/zero"), "folder": outside, "itself": path}
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.write(data[:9])
            file.truncate(2**31)
    else:
        path.write_bytes(data)


MAKERS = [of_yolo, of_darknet, of_csv, of_coco, of_voc, of_folders]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_data_sets(tmp_path: Path, make: Callable[[Path], None]) -> None:
    whole, root, outside = tmp_path / "whole", tmp_path / "scratch" / "set", tmp_path / "outside"
    make(whole)
    for number in range(2):
        picture(outside / f"{number}.jpg")
    (outside / "secret").write_text(f"{SECRET}\n{SECRET}\n")
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    texts = [path for path in files if path.suffix != ".jpg"] or files
    foreign = [
        b"../outside/0.jpg",
        bytes(outside / "1.jpg"),
        b"/etc/passwd",
        b"../../outside/secret",
        b"..",
        b"/",
        b"\0",
    ]
    before, results = below(outside), []

    def changes(draw: Random) -> list[tuple[Path, str, bytes]]:
        found = []
        for path in {draw.choice([*files, *texts, *texts]): None for _ in range(draw.randint(1, 2))}:
            data = (whole / path).read_bytes()
            kind = draw.choice(
                ("secret", "device", "folder", "itself", "pipe", "sparse", *["damage"] * 5, *["path"] * 4)
            )
            if kind == "damage":
                data = damaged([data or b"0"])(draw)
            elif kind == "path":
                words = [word for word in (b"images", b"0.jpg", b"list.txt", b"obj.names", b".") if word in data]
                data = data.replace(draw.choice(words or [data[:1] or b"0"]), draw.choice(foreign))
            found.append((path, kind, data))
        return found

    def read(planted: list[tuple[Path, str, bytes]]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        for path, kind, data in planted:
            plant(root / path, kind, data, outside)
        source = next(root.glob("*.csv"), root)
        screen = io.StringIO()
        with contextlib.redirect_stderr(screen):
            results.append(survives(lambda: load_dataset(source), BOUND))
            survives(lambda: screen.write(str(survey(source)[1].collected)), BOUND)
        assert "secret line" not in screen.getvalue()

    fuzz(150, changes, read)
    assert below(outside) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "scratch", "whole"]
    assert any(results)
    assert not all(results)
