"""What a report says of a detector is what the metrics say, and the mistakes that it shows are the right ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foveal
from foveal.data.dataset import Dataset, ImageArray
from foveal.data.image import ImageError
from foveal.metrics import errors
from foveal.report.detect import Detections, detect, sections
from foveal.structures import Objects
from tests.explain.test_objects import GREEN, RED, image
from tests.report.page import facts, read, rows, said
from tests.toys import Looker

LABELS = ("red", "green", "blue")
Truth = list[tuple[str, tuple[int, ...]]]


def truth(objects: Truth, crowd: bool = False) -> Objects:
    boxes = torch.tensor([box for _, box in objects], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([LABELS.index(name) for name, _ in objects], dtype=torch.int64)
    return Objects(boxes, labels, crowd=torch.full((len(objects),), crowd))


RIGHT: Truth = [("red", RED), ("green", GREEN)]
# What there is in each image, where the system sees a red and a green square, or nothing.
TRUTHS: list[tuple[Tensor, Objects]] = [
    (image(), truth(RIGHT)),
    (image(), truth([("red", RED), ("red", GREEN)])),
    (torch.zeros(3, 32, 32), truth([("red", RED)])),
    (image(), truth([("green", GREEN)])),
    (image(), truth(RIGHT, crowd=True)),
    (image(), truth([("red", RED), ("green", (22, 18, 30, 26)), ("green", (0, 24, 8, 32))])),
]


class Some(ImageArray):
    """Images of which the first cannot be read."""

    def __getitem__(self, index: int) -> Tensor:
        if not index:
            raise ImageError("cannot read seen/0: it is gone")
        return super().__getitem__(index)


def dataset(pairs: list[tuple[Tensor, Objects]], kind: type[ImageArray] = ImageArray) -> Dataset:
    images = [(255 * pixels).to(torch.uint8) for pixels, _ in pairs]
    codes = np.ones(len(pairs), np.int8)
    return Dataset("seen", "detect", LABELS, kind(images, "seen"), [target for _, target in pairs], codes)


@pytest.fixture(scope="module")
def system() -> Looker:
    return Looker(labels=LABELS)


@pytest.fixture(scope="module")
def seen(system: Looker) -> Detections:
    return detect(system, dataset(TRUTHS), 4, 0)


@pytest.fixture(scope="module")
def page(system: Looker) -> dict[str, Any]:
    return {title: read(part) for title, part in sections(system, dataset(TRUTHS), 4, 0)}


def test_what_is_found(page: dict[str, Any], seen: Detections) -> None:
    part = page["Objects found"]
    # Right: both of the first image, one red each of the second and last, one green of the fourth. Wrong: the green of
    # the second, the red of the fourth, and the green of the last, whose object lies too far off.
    assert "Of 9 objects in 6 images 5 are found" in said(part)
    assert "; 3 such detections find none." in said(part)
    assert [said(next(figure.iter("b"))) for figure in part.iter("figure")] == ["red", "green"]
    keys = [said(next(figure.iter("small"))) for figure in part.iter("figure")]
    assert keys == ["precision 0.75, recall 0.60", "precision 0.50, recall 0.50"]
    shown = facts(part)
    assert shown["mAP at an IoU of 0.5"] == f"{seen.figures['mAP50']:.4f}"
    assert len(shown) == len(seen.figures) == 8


def test_classes(page: dict[str, Any], seen: Detections) -> None:
    found = {row[0]: row[1:] for row in rows(page["Classes"])}
    assert found["blue"] == ["0", "-", "-", "", "-", "-"]
    assert [found["red"][0], *found["red"][4:]] == ["5", "0.600", "0.750"]
    assert [found["green"][0], *found["green"][4:]] == ["4", "0.500", "0.500"]
    for column, name in ((1, "mAP"), (2, "mAP50")):
        mean = sum(float(found[label][column]) for label in ("red", "green")) / 2
        assert mean == pytest.approx(seen.figures[name], abs=1e-3)


def test_errors(page: dict[str, Any], seen: Detections) -> None:
    known = errors(seen.predictions, seen.truths, 3)
    bars = [part for part in page["Errors"].iter("div") if part.find("i") is not None]
    shown = {said(bar.find("b")): (said(bar.find("span")), said(bar.find("small"))) for bar in bars}
    assert shown.keys() == known.keys()
    for kind, (cost, text) in shown.items():
        count = known[kind].count
        times = {0: "Never.", 1: "Once."}.get(count, f"{count} times.")
        assert cost == f"costs {known[kind].cost:.3f}"
        assert text.endswith(f". {times}")
    assert {kind: error.count for kind, error in known.items() if error.count} == {
        "class": 1,
        "location": 1,
        "background": 1,
        "missed": 2,
    }
    costs = [float(cost.split()[1]) for cost, _ in shown.values()]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0


def test_worst_images(page: dict[str, Any]) -> None:
    part = page["Worst images"]
    cards = [figure for figure in part.iter("figure") if list(figure.iter("dl"))]
    assert [(said(next(card.iter("small"))), facts(card)) for card in cards] == [
        ("seen/5", {"missed": "green x 2", "wrong": "green"}),
        ("seen/1", {"missed": "red", "wrong": "green"}),
        ("seen/3", {"missed": "none", "wrong": "red"}),
        ("seen/2", {"missed": "red", "wrong": "none"}),
    ]
    assert "4 of the 4 images with mistakes" in said(part)
    (why,) = [figure for figure in part.iter("figure") if not list(figure.iter("dl"))]
    assert "most confident wrong detection, a green with a probability of 1.00, and where occlusion" in said(part)
    assert said(next(why.iter("small"))) in ("seen/1", "seen/5")
    assert len(list(part.iter("img"))) == 2 * 4 + 2
    assert all(picture.get("alt") for picture in part.iter("img"))


def test_no_mistakes(system: Looker) -> None:
    found = {title: said(read(part)) for title, part in sections(system, dataset(TRUTHS[:1]), 4, 0)}
    assert "Of 2 objects in 1 images 2 are found" in found["Objects found"]
    assert found["Worst images"] == "In none of the 1 images is an object missed or a detection wrong."


def test_nothing_found_and_nothing_there(system: Looker) -> None:
    found = {title: said(read(part)) for title, part in sections(system, dataset(TRUTHS[2:3]), 4, 0)}
    assert "nothing found" in found["Objects found"]
    assert "No detection is as probable as that: the most probable has 0.00." in found["Objects found"]
    assert "Why the most confident mistake" not in found["Worst images"]
    with pytest.raises(foveal.InputError, match="no image of it shows an object to be found"):
        sections(system, dataset(TRUTHS[4:5]), 4, 0)


def test_an_image_that_cannot_be_read_moves_no_other(system: Looker) -> None:
    pairs = [TRUTHS[0]] * 10 + [TRUTHS[1]]
    found = dict(sections(system, dataset(pairs, Some), 4, 0))
    (card,) = [figure for figure in read(found["Worst images"]).iter("figure") if list(figure.iter("dl"))]
    assert said(next(card.iter("small"))) == "seen/10"


def test_the_order_of_classes_is_the_systems(system: Looker, page: dict[str, Any]) -> None:
    data = dataset(TRUTHS)
    turned = replace(data, labels=LABELS[::-1], mapping=torch.arange(3).flip(0))
    assert said(read(dict(sections(system, turned, 4, 0))["Classes"])) == said(page["Classes"])


def test_many_classes(system: Looker) -> None:
    labels = (*LABELS, *(f"class {n}" for n in range(120)))
    data = replace(dataset(TRUTHS), labels=labels)
    found = dict(sections(Looker(labels=labels), data, 4, 0))
    assert len(rows(read(found["Classes"]))) == 100
    assert [row[0] for row in rows(read(found["Classes"]))][:2] in (["red", "green"], ["green", "red"])
