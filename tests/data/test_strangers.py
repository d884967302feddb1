"""Data sets from strangers: no file outside the data folder is read or quoted, nothing is followed or waited for."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from foveal.data.image import ImageError, image_size, image_traits, read_image
from foveal.data.inside import Inside
from foveal.data.sources import load_dataset, survey
from foveal.errors import InputError
from tests.data.annotated import coco, picture, voc

SECRET = "root:x:0:0:secret line"


def refused(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the data, with images, labels and a file that is nobody's business."""
    for number in range(4):
        picture(tmp_path / "private" / f"{number}.jpg")
    (tmp_path / "private" / "passwd").write_text(f"{SECRET}\nsecret\nsecret\n")
    return tmp_path / "private"


def one_coco(root: Path, names: list[str]) -> Path:
    root.mkdir(exist_ok=True)
    rows = {name: [(1, 1, 1, 4, 3)] for name in names}
    (root / "val.json").write_text(json.dumps(coco({1: "cat"}, rows, (40, 30))))
    return root


def yolo(root: Path, settings: str, listed: str = "") -> Path:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text(settings)
    if listed:
        (root / "list.txt").write_text(listed)
    return root


def of_coco(root: Path, outside: Path) -> Path:
    picture(root / "0.jpg")
    return one_coco(root, ["0.jpg", "../private/1.jpg", str(outside / "2.jpg")])


def of_list(root: Path, outside: Path) -> Path:
    lines = f"images/0.jpg\n../private/1.jpg\n{outside / '2.jpg'}\n"
    return yolo(root, "val: list.txt\nnames: [cat]\n", lines.replace("../private", str(root / ".." / "private")))


def of_split(root: Path, outside: Path) -> Path:
    return yolo(root, f"val: {outside}\nnames: [cat]\n")


def of_path(root: Path, outside: Path) -> Path:
    return yolo(root, "path: ..\nval: private\nnames: [cat]\n")


def of_csv(root: Path, outside: Path) -> Path:
    for number in range(3):
        picture(root / f"{number}.jpg")
    rows = [
        "path,label,split",
        "0.jpg,a,train",
        "1.jpg,b,val",
        "../private/1.jpg,b,test",
        f"{outside / '2.jpg'},a,test",
    ]
    (root / "data.csv").write_text("\n".join(rows))
    return root / "data.csv"


def of_class_links(root: Path, outside: Path) -> Path:
    for number in range(3):
        picture(root / "cat" / f"{number}.jpg")
    (root / "dog").symlink_to(outside)
    return root


def of_image_links(root: Path, outside: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(3):
            picture(root / name / f"{number}.jpg")
    (root / "cat" / "x.jpg").symlink_to(outside / "3.jpg")
    return root


def of_voc(root: Path, outside: Path) -> Path:
    for number in range(3):
        picture(root / "JPEGImages" / f"{number}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        voc(root / "Annotations" / f"{number}.xml", [("cat", 1, 1, 4, 4)], (40, 30))
    (root / "JPEGImages" / "3.jpg").symlink_to(outside / "3.jpg")
    voc(root / "Annotations" / "3.xml", [("cat", 1, 1, 4, 4)], (40, 30))
    return root


@pytest.mark.parametrize(
    "make",
    [of_coco, of_list, of_split, of_path, of_csv, of_class_links, of_image_links, of_voc],
    ids=lambda f: f.__name__,
)
def test_images_outside_the_data_folder_take_a_flag(
    tmp_path: Path, outside: Path, make: Callable[[Path, Path], Path]
) -> None:
    source = make(tmp_path / "set", outside)
    line = refused(source)
    assert "leads out of the data folder" in line
    assert str(tmp_path / "set") in line
    assert "add --outside" in line
    try:
        _, complaints = survey(source)
        faults = complaints.collected or []
    except InputError as error:  # where nothing is left
        faults = [str(error)]
    assert any("leads out of the data folder" in fault for fault in faults)
    assert not any("--outside" in fault for fault in survey(source, outside=True)[1].collected or [])
    assert any("private" in os.path.realpath(name) for name in names(load_dataset(source, outside=True)))


def names(dataset: object) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]  # type: ignore[attr-defined, arg-type]


def test_every_stray_is_listed(tmp_path: Path, outside: Path) -> None:
    faults = survey(of_csv(tmp_path / "set", outside))[1].collected
    assert faults is not None
    assert [fault.partition(": ")[0].rpartition(" ")[2] for fault in faults] == ["4", "5"]


@pytest.mark.parametrize("name", ["classes.txt", "labels/0.txt", "obj.names", "list.txt", "data.yaml"])
def test_no_line_of_a_foreign_file_is_quoted(tmp_path: Path, outside: Path, name: str) -> None:
    root = yolo(tmp_path / "set", "val: images\nnames: [cat]\n", "images/0.jpg\n")
    if name == "list.txt":
        (root / "data.yaml").write_text("val: list.txt\nnames: [cat]\n")
    elif name == "classes.txt":
        (root / "data.yaml").unlink()
    elif name == "obj.names":
        (root / "data.yaml").unlink()
        (root / "obj.data").write_text(f"classes = 7\nnames = {outside / 'passwd'}\nvalid = images\n")
    if name == "data.yaml":
        (outside / "passwd").write_text(f"names: [secret\n{SECRET}: ]: *secret\n")
    if name != "obj.names":
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(outside / "passwd")
    assert "leads out of the data folder" in refused(root)
    try:
        shown = str(survey(root)[1].collected)
    except InputError as error:
        shown = str(error)
    assert "secret" not in shown


def test_what_lies_in_the_folder_needs_no_flag(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "set" / "images" / f"{number}.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "set")  # the name that the user gives may be a link
    (tmp_path / "set" / "more").symlink_to("images")
    (tmp_path / "set" / "annotations").mkdir()
    file = tmp_path / "link" / "annotations" / "val.json"
    rows = {"../images/0.jpg": [(1, 1, 1, 4, 3)], str(tmp_path / "set/images/1.jpg"): [], "more/2.jpg": []}
    file.write_text(json.dumps(coco({1: "cat"}, rows, (40, 30))))
    for source in (file, tmp_path / "link", tmp_path / "set"):
        assert len(load_dataset(source)) == 3


def test_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    (tmp_path / "settled").mkdir()
    (tmp_path / "set" / "a.json").touch()
    (tmp_path / "set" / "annotations" / "b.json").touch()
    for source in (tmp_path / "set", tmp_path / "set" / "a.json", tmp_path / "set" / "annotations" / "b.json"):
        inside = Inside.of(source)
        for path in ("set/x.jpg", "set/a/../x.jpg", "set", "set/annotations/../y/x"):
            assert tmp_path / path in inside, path
        for path in (
            "x.jpg",
            "settled/x.jpg",
            "set/../x.jpg",
            "set/..",
            "set/a/../../x.jpg",
            "set/annotations/../../x",
        ):
            assert f"{tmp_path}/{path}" not in inside, path


def irregular(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "giant":
            with open(path, "wb") as file:
                file.truncate(2**40)


@pytest.mark.parametrize("kind", ["pipe", "device", "giant"])
def test_what_is_no_regular_file_is_one_line(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "x.png"
    irregular(image, kind)
    for function in (read_image, image_size, image_traits):
        with pytest.raises(ImageError) as caught:
            function(image)
        assert "\n" not in str(caught.value)
    for name in ("data.csv", "val.json", "data.yaml", "x.tsv"):
        irregular(tmp_path / name, kind)
        refused(tmp_path / name)
    for number, name in enumerate(("classes.txt", "list.txt", "labels/0.txt", "images/0.jpg", "obj.data")):
        root = yolo(tmp_path / f"set{number}", "val: list.txt\nnames: [cat]\n", "images/0.jpg\nimages/1.jpg\n")
        if name in ("classes.txt", "obj.data"):
            (root / "data.yaml").unlink()
        irregular(root / name, kind)
        survey_of(root)
    root = of_voc(tmp_path / "voc", tmp_path)
    (root / "JPEGImages" / "3.jpg").unlink()
    irregular(root / "Annotations" / "0.xml", kind)
    refused(root)
    folders = tmp_path / "folders"
    for label in ("a", "b"):
        for number in range(3):
            picture(folders / label / f"{number}.jpg")
    irregular(folders / "a" / "3.jpg", kind)
    irregular(folders / "a" / "unnamed", kind)
    survey_of(folders)


def survey_of(root: Path) -> None:
    """Reading ends, and an error is one line."""
    for read in (load_dataset, survey):
        with contextlib.suppress(InputError):
            read(root, outside=True)


def test_a_hole_ends_the_reading_of_text(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("path,label\n")
    with open(file, "rb+") as opened:
        opened.truncate(2**29)
    assert "zero bytes" in refused(file)


def test_images_of_a_bounded_size_are_read_whole(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 4, 5)
    with open(tmp_path / "a.png", "ab") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(ImageError, match=r"536,870,913 bytes; .* 536,870,912 at most"):
        read_image(tmp_path / "a.png")
