"""Learning curves: each point lies where the axes say that its value is."""

import math
import re
from typing import Any

import pytest

from foveal.report.curves import MOST_POINTS, chart, curves, thinned
from foveal.report.parts import number
from tests.report.page import read, said


def drawn(
    lines: dict[str, list[tuple[int, float]]], best: int | None = None
) -> tuple[Any, dict[str, list[tuple[float, float]]]]:
    """The chart, and the (epoch, value) of each drawn point by the numbers on its axes."""
    figure = read(chart("loss", lines, best))
    logarithmic = "log scale" in said(next(figure.iter("figcaption")))
    numbers = [label for label in figure.iter("text") if re.fullmatch(r"[\d.e+-]+", said(label))]
    x = [(float(n.get("x")), float(said(n))) for n in numbers if n.get("text-anchor") == "middle"]  # type: ignore[arg-type]
    grid = [float(line.get("y1")) for line in figure.iter("line") if line.get("class") == "grid"]  # type: ignore[arg-type]
    y = list(zip(grid, [float(said(n)) for n in numbers if n.get("text-anchor") == "end"], strict=True))
    if logarithmic:
        y = [(place, math.log10(value)) for place, value in y]

    def read_off(place: float, axis: list[tuple[float, float]]) -> float:
        (p0, v0), (p1, v1) = axis[0], axis[-1]
        return v0 + (v1 - v0) * (place - p0) / (p1 - p0)

    points = {}
    for line in figure.iter("polyline"):
        places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        values = [(read_off(px, x), read_off(py, y)) for px, py in places]
        points[line.attrib["class"]] = [(e, 10**v if logarithmic else v) for e, v in values]
    return figure, points


@pytest.mark.parametrize("scale", [1.0, 250.0, 1e-4, 1e-6])
def test_a_chart_shows_its_values(scale: float) -> None:
    lines = {
        "train": [(epoch, scale * (0.3 + 1 / epoch)) for epoch in range(1, 21)],
        "val": [(epoch, scale * (0.5 + 0.02 * epoch)) for epoch in range(1, 21)],
    }
    figure, points = drawn(lines, best=3)
    for split, expected in lines.items():
        for (epoch, value), (there, seen) in zip(expected, points[split], strict=True):
            assert there == pytest.approx(epoch, abs=0.05)
            assert seen == pytest.approx(value, abs=0.005 * scale)
    marks = [circle.attrib["class"] for circle in figure.iter("circle")]
    assert marks == ["train", "val"]
    assert [said(key) for key in figure.iter("b")][1:] == [number(points[2][1]) for points in lines.values()]


def test_a_loss_over_decades_has_a_logarithmic_axis() -> None:
    lines = {"train": [(epoch, 2.3 * 0.6**epoch) for epoch in range(1, 31)]}
    _, points = drawn(lines)
    for (_, value), (_, seen) in zip(lines["train"], points["train"], strict=True):
        assert seen == pytest.approx(value, rel=0.02)
    figure, _ = drawn({"train": [(1, 0.0), (2, 5.0)]})  # zero has no logarithm
    assert "log scale" not in said(figure)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -2.0])
def test_one_epoch(value: float) -> None:
    figure = read(chart("accuracy", {"val": [(1, value)]}, best=1))
    (circle,) = figure.iter("circle")
    assert 0 < float(circle.attrib["cx"]) < 360
    assert 0 < float(circle.attrib["cy"]) < 200
    assert "nan" not in said(figure)


def record(epoch: int, train: dict[str, float], val: dict[str, float], lr: float | None = 0.1) -> dict[str, Any]:
    return {"event": "epoch", "epoch": epoch, "train": train, "val": val, "lr": lr}


def names(history: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Title of each chart, with its lines."""
    figures = read(curves(history, 1)).iter("figure")
    return {
        said(next(figure.iter("b"))): [line.attrib["class"] for line in figure.iter("polyline")] for figure in figures
    }


def test_which_charts_there_are() -> None:
    classifier = [
        record(n, {"class": 1.0, "loss": 1.0}, {"accuracy": 0.5, "loss": 0.9, "balanced_accuracy": 0.5}) for n in (1, 2)
    ]
    assert names(classifier) == {
        "loss": ["train", "val"],
        "accuracy": ["val"],
        "balanced accuracy": ["val"],
        "learning rate": ["lr"],
    }
    detector = [record(1, {"near": 1.0, "far": 2.0, "loss": 3.0}, {"near": 1.0, "far": 2.0, "loss": 3.0})]
    assert names(detector) == {
        "loss": ["train", "val"], "near": ["train", "val"], "far": ["train", "val"], "learning rate": ["lr"]
    }  # fmt: skip
    fitted = [record(1, {}, {"accuracy": 0.5}, lr=None)]
    assert names(fitted) == {"accuracy": ["val"]}
    assert names([record(1, {"class": math.nan, "loss": math.nan}, {}, lr=None)]) == {}


def test_a_long_run_keeps_its_peaks() -> None:
    points = [(epoch, math.sin(epoch / 300)) for epoch in range(1, 10_001)]
    points[4321] = (4322, 7.0)
    points[7000] = (7001, -7.0)
    fewer = thinned(points)
    assert len(fewer) <= MOST_POINTS
    assert fewer == sorted(fewer)
    assert {(4322, 7.0), (7001, -7.0)} <= set(fewer)
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_many_figures_of_the_validation_are_folded() -> None:
    val = {f"figure {n}": 0.1 * n for n in range(5)}
    history = [{"epoch": 1, "lr": 0.1, "train": {"a": 1.0, "b": 2.0, "loss": 3.0}, "val": val, "best": True}]
    part = read(curves(history, 1))
    (folded,) = part.iter("details")
    assert [said(next(figure.iter("b"))) for figure in folded.iter("figure")] == ["figure 3", "figure 4"]
    assert len(list(part.iter("figure"))) == 5 + 4
    history[0]["val"] = {name: val[name] for name in list(val)[:3]}
    assert not list(read(curves(history, 1)).iter("details"))
