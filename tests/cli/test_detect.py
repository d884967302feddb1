"""The verbs with a detector: tables, JSON, COCO's files, pictures, and one line for whatever has no effect."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.image import read_image, write_image
from foveal.report.answers import image_ids
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


def test_predict_saves(works: Callable[..., Answer], photos: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", {path: path.read_bytes() for path in photos.iterdir()}
    works("predict", "run", photos, "--out", out, "--threshold", 0.99)
    assert {path.name for path in out.iterdir()} == {
        "predictions.json",
        *(f"{number:06}_objects.png" for number in (7, 12, 30)),
    }
    saved = json.loads((out / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in saved] == [(7, 2), (7, 1), (30, 2), (30, 1)]
    assert saved[1]["bbox"] == pytest.approx([RED[0], RED[1], 8, 8])
    shown = np.asarray(Image.open(out / "000007_objects.png"))
    assert shown.shape == (640, 640, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 5
    works("predict", "run", photos, "--out", photos)  # where the images themselves are
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
    assert f"mAP50\t{told['metrics']['mAP50']:.4f}" in lines


def test_explain(works: Callable[..., Answer], photos: Path, tmp_path: Path, looker: Looker) -> None:
    words = ("explain", "run", photos / "000030.png", "--out", tmp_path / "x.png", "--steps", 4)
    document = works(*words, "--target", "red", "--json").document()
    assert document["target"] == "red"
    assert document["box"] == pytest.approx([2 * side for side in RED])
    found = foveal.explain(looker, read_image(photos / "000030.png"), object=2)
    assert document["probability"] == found.probability
    lines = works(*words, "--object", 2, "--method", "saliency").out.splitlines()
    assert "class\tred" in lines
    assert f"box\t{', '.join(f'{2 * side:.1f}' for side in RED)}" in lines


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
    monkeypatch.setattr("foveal.cli.predict.find_system", lambda *words, **settings: foveal.create("rpn_nano"))
    assert "rpn_nano cannot be accelerated: its forward gives several" in fails("predict", "x", one, "--plan", "auto")
    for verb in ("predict", "evaluate", "explain"):
        monkeypatch.setattr(f"foveal.cli.{verb}.find_system", lambda *words, **settings: foveal.create("lenet"))
    assert "threshold has no effect: lenet is a system to classify" in fails("predict", "x", one, "--threshold", 0.3)
    assert "out has no effect: lenet is a system to classify" in fails(
        "evaluate", "x", "--data", "digits", "--out", tmp_path / "out"
    )
    assert "object has no effect: lenet" in fails("explain", "x", one, "--object", 1)
