"""The verbs with a detector: tables, JSON, COCO's files, pictures, and one line for whatever has no effect."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.image import read_image, write_image
from foveal.data.sources import load_dataset
from foveal.data.writers import write_voc
from foveal.tasks.objects import image_ids
from tests.cli.conftest import Answer
from tests.data.annotated import coco, write_json
from tests.explain.test_objects import GREEN, RED, image
from tests.parity.compare import oracle
from tests.toys import Looker


@pytest.fixture(autouse=True)
def looker(monkeypatch: pytest.MonkeyPatch) -> Looker:
    """The system that any run here turns out to be."""
    system = Looker()
    for verb in ("predict", "evaluate", "explain"):
        monkeypatch.setattr(f"foveal.cli.{verb}.find_system", lambda *words, **settings: system)
    return system


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images with a green and a red square, one with nothing, the last twice as large."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in (
        (7, image()),
        (12, torch.zeros(3, 32, 32)),
        (30, image().repeat_interleave(2, 1).repeat_interleave(2, 2)),
    ):
        write_image(folder / f"{number:06}.png", pixels)
    return folder


def test_predict(works: Callable[..., Answer], photos: Path) -> None:
    lines = [line.split("\t") for line in works("predict", "run", photos).out.splitlines()]
    assert lines[0] == ["image", "objects", "most probable"]
    assert [line[:2] for line in lines[1:]] == [
        [str(photos / f"{number:06}.png"), count] for number, count in ((7, "2"), (12, "0"), (30, "2"))
    ]
    green, red = (float(said.split()[1]) for said in lines[1][2].split(", "))
    assert green > red > 0.5
    assert lines[1][2] == f"green {green:.3f}, red {red:.3f}"

    document = works("predict", "run", photos, "--json", "--threshold", (red + green) / 2).document()
    found = [entry["objects"] for entry in document["predictions"]]
    assert [[one["label"] for one in objects] for objects in found] == [["green"], [], ["green"]]
    assert found[0][0]["box"] == pytest.approx(GREEN)
    assert found[2][0]["box"] == pytest.approx([2 * side for side in GREEN])


def test_planted_links_are_replaced(works: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    names = ("predictions.json", "image_info.json", "classes.txt", "000007_objects.png", "000030_objects.png")
    for name in names:
        (out / name).symlink_to(victim)
    works("predict", "run", photos, "--out", out)
    assert victim.read_text() == "precious"
    assert [name for name in names if (out / name).is_symlink()] == ["classes.txt"]  # which no name here needs


def test_predict_saves(works: Callable[..., Answer], fails: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", {path: path.read_bytes() for path in photos.iterdir()}
    works("predict", "run", photos, "--out", out, "--threshold", 0.99)
    assert {path.name for path in out.iterdir()} == {
        "predictions.json",
        "image_info.json",
        *(f"{number:06}_objects.png" for number in (7, 12, 30)),
    }
    saved = json.loads((out / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in saved] == [(7, 2), (7, 1), (30, 2), (30, 1)]
    assert saved[1]["bbox"] == pytest.approx([RED[0], RED[1], 8, 8])
    shown = np.asarray(Image.open(out / "000007_objects.png"))
    assert shown.shape == (640, 640, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 5
    line = fails("predict", "run", photos, "--out", photos)  # where the images themselves are
    assert f"write to {photos}_out" in line
    assert {path: path.read_bytes() for path in before} == before


def test_two_images_of_one_name(works: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "more/000007.png", image())
    works("predict", "run", photos, tmp_path / "more", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*_objects.png"))) == 4
    ids = {row["image_id"] for row in json.loads((tmp_path / "out/predictions.json").read_text())}
    assert ids == {str(photos / "000007.png"), str(photos / "000030.png"), str(tmp_path / "more/000007.png")}
    assert image_ids(["a/0012.jpg", "b/x.png"]) == [12, "x"]
    assert image_ids(["a/012.jpg", "a/12.jpg"]) == ["a/012.jpg", "a/12.jpg"]


def test_ids_are_listed_with_what_they_stand_for(
    works: Callable[..., Answer], photos: Path, tmp_path: Path, looker: Looker
) -> None:
    looker.class_ids = {"green": 40}  # of the file that it was trained on, which has no red
    works("predict", "run", photos, photos / "000007.png", photos / ".." / "photos" / "000012.png", "--out", tmp_path)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 40), (7, 41), (30, 40), (30, 41)]
    info = json.loads((tmp_path / "image_info.json").read_text())
    assert {row["id"]: Path(row["file_name"]).name for row in info["images"]} == {
        7: "000007.png",
        12: "000012.png",
        30: "000030.png",
    }
    assert info["categories"] == [{"id": 41, "name": "red"}, {"id": 40, "name": "green"}]


NAMES = (
    ("sub/1.png", "1.png"),
    ("xcam/1.png", "cam/1.png"),
    ("./1.png", "sub//1.png"),
    ("sub/../1.png", "other/../sub/1.png"),
)


@pytest.mark.parametrize("numbers", [(1, 2), (9, 3), ("one", "two"), ("2", "3")])
@pytest.mark.parametrize("names", NAMES)
def test_evaluate_gives_each_image_the_id_of_its_file(
    works: Callable[..., Answer], tmp_path: Path, names: tuple[str, str], numbers: tuple[Any, Any]
) -> None:
    document = coco({5: "green", 90: "red"}, {name: [(5, 0, 0, 8, 8)] for name in names}, size=(32, 32))
    for row, number in zip(document["images"], numbers, strict=True):
        row["id"] = number
    for row, number in zip(document["annotations"], numbers, strict=True):
        row["image_id"] = number
    for folder in ("sub", "other", "cam", "xcam"):
        (tmp_path / folder).mkdir()
    only = torch.zeros(3, 32, 32)
    only[0, 4:12, 4:12] = 1  # red
    for name, pixels in zip(names, (image(), only), strict=True):
        write_image(tmp_path / name, pixels)
    file = write_json(tmp_path / "instances_val.json", document)
    works("evaluate", "run", "--data", file, "--out", tmp_path / "out", "--workers", 0)
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    found = {number: [row["category_id"] for row in rows if row["image_id"] == number] for number in numbers}
    assert found == {numbers[0]: [5, 90], numbers[1]: [90]}
    assert len(rows) == 3


def test_evaluate_without_a_file_of_ids(
    works: Callable[..., Answer], tmp_path: Path, looker: Looker, photos: Path
) -> None:
    data = load_dataset(
        write_json(photos / "val.json", coco({1: "green"}, {"000012.png": [(1, 0, 0, 8, 8)]}, (32, 32)))
    )
    write_voc(data, tmp_path / "voc")
    shutil.copy(photos / "000007.png", tmp_path / "voc/JPEGImages/000012.png")
    looker.class_ids = {"green": 3, "red": 8}
    found = {}
    for verb, words in (("evaluate", ("--data", tmp_path / "voc")), ("predict", (tmp_path / "voc/JPEGImages",))):
        works(verb, "run", *words, "--out", tmp_path / verb)
        found[verb] = json.loads((tmp_path / verb / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in found["evaluate"]] == [(12, 3), (12, 8)]
    assert found["evaluate"] == found["predict"]


def test_ctrl_c_saves_what_is_done(
    call: Callable[..., Answer], photos: Path, tmp_path: Path, looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = looker.predict

    def predict(images: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return before(images)

    monkeypatch.setattr(looker, "predict", predict)
    answer = call("predict", "run", photos, "--out", tmp_path / "out", "--json")
    assert answer.code == 130
    assert answer.err == "foveal: stopped after 1 of 3 images, whose answers are here\n"
    assert [Path(row["image"]).name for row in answer.document()["predictions"]] == ["000007.png"]
    assert {row["image_id"] for row in json.loads((tmp_path / "out/predictions.json").read_text())} == {7}


def test_evaluate(works: Callable[..., Answer], photos: Path, tmp_path: Path, looker: Looker) -> None:
    pycocotools = oracle("pycocotools.coco")
    evaluation = oracle("pycocotools.cocoeval")
    # Ids of its own, another order of classes and one class that the system has and the file has not.
    doubled = [2 * side for side in (GREEN[0], GREEN[1], 8, 8)]
    document = coco(
        {5: "green", 90: "red"},
        {"000030.png": [(5, *doubled), (90, 30, 2, 16, 20)], "000012.png": [], "000007.png": [(90, *RED[:2], 8, 6)]},
        size=(32, 32),
    )
    document["images"][0] |= {"width": 64, "height": 64}
    file = write_json(photos / "instances_val.json", document)
    told = works("evaluate", "run", "--data", file, "--split", "val", "--out", tmp_path / "out", "--json").document()
    assert told["predictions"] == str(tmp_path / "out/predictions.json")
    truths = pycocotools.COCO(str(file))
    oracle_of = evaluation.COCOeval(truths, truths.loadRes(told["predictions"]), "bbox")
    oracle_of.evaluate()
    oracle_of.accumulate()
    oracle_of.summarize()
    names = ["mAP", "mAP50", "mAP75", "mAPs", "mAPm", "mAPl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    expected = {name: value for name, value in zip(names, oracle_of.stats, strict=True) if value >= 0}
    assert told["metrics"] == pytest.approx(expected, abs=1e-9)
    assert 0 < told["metrics"]["mAP50"] < 1
    lines = works("evaluate", "run", "--data", file).out.splitlines()
    assert f"mAP50\t{told['metrics']['mAP50']:.4f} (3 objects)" in lines


def test_explain(
    works: Callable[..., Answer], photos: Path, tmp_path: Path, looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("explain", "run", photos / "000030.png", "--out", tmp_path / "x.png", "--steps", 4)
    document = works(*words, "--target", "red", "--json").document()
    assert document["target"] == "red"
    assert document["box"] == pytest.approx([2 * side for side in RED])
    found = foveal.explain(looker, read_image(photos / "000030.png"), object=2)
    assert document["probability"] == found.probability
    lines = works(*words, "--object", 2, "--method", "saliency").out.splitlines()
    assert "class\tred" in lines
    assert f"box\t{', '.join(f'{2 * side:.1f}' for side in RED)}" in lines
    assert document["empty"] is None
    monkeypatch.setattr(Looker, "score", lambda self, images, target: 0 * images.sum((1, 2, 3)))
    answer = works(*words, "--object", 2)
    assert "foveal: the map is empty: the score of 'red' is 0" in answer.err
    assert "windows" not in answer.err  # the bar is for terminals


def test_words_that_have_no_effect(
    fails: Callable[..., str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = photos / "000007.png"
    assert "top has no effect: Looker is a system to detect, which takes threshold" in fails(
        "predict", "x", one, "--top", 2
    )
    assert "threshold lies between 0 and 1, not 2" in fails("predict", "x", one, "--threshold", 2)
    assert "threshold lies between 0 and 1, not nan" in fails("predict", "x", one, "--threshold", "nan")
    assert "finds nothing in this image" in fails("explain", "x", photos / "000012.png")
    assert "object is from 1 to 2" in fails("explain", "x", one, "--object", 3)
    empty = write_json(photos / "only_val.json", coco({1: "red"}, {"000012.png": []}, size=(32, 32)))
    assert "shows an object to be found" in fails("evaluate", "x", "--data", empty)
    monkeypatch.setattr("foveal.cli.predict.find_system", lambda *words, **settings: foveal.create("rcnn_nano"))
    assert "rcnn_nano cannot be accelerated: its images differ in their number of crops" in fails(
        "predict", "x", one, "--plan", "auto"
    )
    for verb in ("predict", "evaluate", "explain"):
        monkeypatch.setattr(f"foveal.cli.{verb}.find_system", lambda *words, **settings: foveal.create("lenet"))
    assert "threshold has no effect: lenet is a system to classify" in fails("predict", "x", one, "--threshold", 0.3)
    assert "object has no effect: lenet" in fails("explain", "x", one, "--object", 1)


def test_predict_with_a_style(works: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    pictures = {}
    for kind in ("scores", "names", "none"):
        works("predict", "run", photos / "000030.png", "--out", tmp_path / kind, "--labels", kind, "--line-width", 9)
        pictures[kind] = (tmp_path / kind / "000030_objects.png").read_bytes()
    assert len(set(pictures.values())) == 3


def test_a_style_without_pictures_has_no_effect(fails: Callable[..., str], photos: Path) -> None:
    assert "line_width and labels have no effect" in fails("predict", "run", photos, "--line-width", 3)


def test_predict_says_how_many_images_have_pictures(
    works: Callable[..., Answer], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveal.report.draw.MOST_SHOWN", 2)
    monkeypatch.setattr("foveal.tasks.objects.MOST_SHOWN", 2)
    answer = works("predict", "run", photos, "--out", tmp_path / "out")
    count = len(list(photos.iterdir()))
    assert f"the first 2 of {count} images have pictures" in answer.err
    assert len(list((tmp_path / "out").glob("*_objects.png"))) == 2


def test_evaluate_marks_figures_over_few_objects(works: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    entries = {"000030.png": [(1, 8, 8, 16, 16)]}
    file = write_json(photos / "instances_val.json", coco({1: "green", 2: "red"}, entries, size=(64, 64)))
    answer = works("evaluate", "run", "--data", file, "--workers", 0)
    assert "(1 object)" in answer.out
    assert "1 image" in answer.out
