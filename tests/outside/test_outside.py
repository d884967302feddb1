"""A kind of answer, a method of explanation, an augmentation and a loss from outside, each by one call, all the way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.data.check import check
from foveal.report.answers import answers, predict
from foveal.report.html import write_report
from foveal.task import register
from tests.outside.depth import DEPTH, Depth, DepthNet, brightness_times_gradient, darken, ramps


def halved_difference(predicted: Tensor, true: Tensor) -> Tensor:
    """Another loss."""
    return (predicted - true).abs().mean() / 2


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveal.task._RECORDS", {})
    register(DEPTH)


@pytest.fixture
def trained(known: None, tmp_path: Path) -> Any:
    torch.manual_seed(0)
    system = DepthNet(halved_difference)
    config = foveal.TrainConfig(out=str(tmp_path / "run"), quiet=True, transforms=(darken,), epochs=15)
    return foveal.train(system, ramps(), config), system


def test_it_learns_and_is_measured_by_its_own_figure(trained: Any) -> None:
    run, system = trained
    assert run.record["task"] == "depth"
    first, last = run.history[0]["val"]["error"], foveal.evaluate(system, ramps().select("val"))["error"]
    assert last < 0.5 * first
    assert last == pytest.approx(run.record["result"]["error"])
    loaded = foveal.load(run.directory, system=DepthNet())
    assert foveal.evaluate(loaded, ramps().select("val"))["error"] == pytest.approx(last)


def test_its_maps_are_in_pixels_of_the_image(trained: Any) -> None:
    found = trained[1].predict([torch.rand(3, 20, 31)])[0]
    assert isinstance(found, Depth)
    assert found.metres.shape == (20, 31)


def test_its_answers_are_rows_json_and_pictures(trained: Any, tmp_path: Path) -> None:
    image, target = ramps()[0]
    output = answers(trained[1], tmp_path / "out", {"top": None, "threshold": None})
    entry = output.take("a.png", image, target)
    output.save({"predictions": [entry]})
    assert output.row(entry)[0] == "a.png"
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"] == [entry]
    assert (tmp_path / "out" / "a_depth.png").exists()
    assert predict(trained[1], [image])[0].keys() == {"image", "nearest", "middle"}
    with pytest.raises(foveal.InputError, match=r"top has no effect: DepthNet is a system to depth$"):
        predict(trained[1], [image], top=3)


def test_its_report_has_its_section(trained: Any) -> None:
    page = write_report(trained[0].directory, ramps(), trained[1]).read_text()
    assert "<h2>Depth maps</h2>" in page
    assert 'alt="predicted depth"' in page


def test_it_is_checked_by_its_own_check(known: None) -> None:
    data = ramps(4)
    data.targets[2].metres[0, 0] = 0
    assert check(data).notes == ["ramps/2 has depths of zero"]


def test_it_is_explained_by_a_method_from_outside(trained: Any) -> None:
    image = ramps()[0][0]
    found = foveal.explain(trained[1], image, brightness_times_gradient, power=2.0)
    assert (found.method, found.target) == ("brightness_times_gradient", "nearness of the middle")
    assert found.heat.shape == image.shape[1:]
    assert foveal.explain(trained[1], image, "saliency").map.any()
    with pytest.raises(foveal.InputError, match="brightness_times_gradient has no setting 'powr'; did you mean power"):
        foveal.explain(trained[1], image, brightness_times_gradient, powr=1.0)


def test_settings_for_other_answers_are_refused(trained: Any) -> None:
    config = foveal.TrainConfig(out=str(trained[0].directory) + "2", quiet=True, mixup=0.2)
    with pytest.raises(foveal.InputError, match="mixup has no effect on data to depth; it is a setting for"):
        foveal.train(DepthNet(), ramps(), config)


def test_foveal_does_not_name_it() -> None:
    package = Path(foveal.__file__).parent
    texts = {path: path.read_text("utf-8") for path in package.rglob("*.py")}
    found = [path for path, text in texts.items() for name in ("ramps", "darken", "brightness_times") if name in text]
    assert not found
