"""The section on activations and gradients by depth says what foveal.signals measures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foveal
from foveal.data.loader import Loader
from foveal.report.html import write_report
from foveal.report.parts import number
from foveal.report.signals import MOST_IMAGES, section
from foveal.train.config import TrainConfig
from foveal.train.evaluate import evaluation_loader
from tests.report.page import read, rows, said, titles
from tests.report.page import section as part
from tests.toys import Detector, small_digits, squares


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a network that begins badly."""
    data, out = small_digits(), tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(3)
    system = foveal.create("resnet_nano", labels=data.labels, width=4, init="small")
    foveal.train(system, data, TrainConfig(out=str(out), epochs=1, seed=3, plan="eager", quiet=True, report=False))
    return out


def test_figures(run: Path) -> None:
    data, system = small_digits(), foveal.load(run)
    write_report(run, data)
    page = read(run / "report.html")
    shown = part(page, "Signals by depth")
    loader = evaluation_loader(system, data.select("val"), MOST_IMAGES, 0)
    assert isinstance(loader, Loader)
    batch = next(iter(loader.epoch()))
    assert len(batch) == MOST_IMAGES
    torch.manual_seed(3)
    start = foveal.create("resnet_nano", labels=data.labels, width=4, init="small")
    expected = []
    for before, after in zip(foveal.signals(start, batch), foveal.signals(system, batch), strict=True):
        for state, one in (("untrained", before), ("trained", after)):
            figures = (one.mean, one.std, one.zeros, one.gradient_mean, one.gradient_std)
            expected.append([one.layer, one.kind, state, *map(number, figures)])
    assert rows(shown) == expected
    charts = {said(next(figure.iter("b"))).split()[0]: figure for figure in shown.iter("figure")}
    assert list(charts) == ["activations", "gradients"]
    for figure in charts.values():
        assert {line.attrib["class"] for line in figure.iter("polyline")} == {"untrained", "trained"}
        assert f"over {len(expected) // 2} layers" in next(figure.iter("svg")).attrib["aria-label"]


def test_a_system_that_the_catalog_does_not_have() -> None:
    shown = read(section(Detector(), squares(), 0, 0))
    assert {row[2] for row in rows(shown)} == {"trained"}
    assert len(rows(shown)) == 3


def test_one_image_is_not_enough(run: Path) -> None:
    data = small_digits()
    codes = data.splits.copy()
    codes[codes == 1] = 2
    codes[-1] = 1
    write_report(run, replace(data, splits=codes))
    page = read(run / "report.html")
    assert "Not available: signals are measured as in training, on two images" in said(part(page, "Signals by depth"))
    assert "Confusion matrix" in titles(page)


def test_numbers_that_are_not_finite_are_told_and_not_drawn() -> None:
    system = foveal.create("lenet")
    system.stage1.conv.weight.data.fill_(float("inf"))
    shown = read(section(system, small_digits(), 0, 0))
    assert not list(shown.iter("figure"))
    assert "nan" in said(shown)
