"""Every way to run a system answers what the plain one answers."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.accelerate import WAYS
from foveal.system import System

# OpenVINO, which brings threads of its own, is tried in processes of its own; compiling takes half a minute.
HERE = tuple(way for way in WAYS if way not in ("compile", "openvino"))


def settled(name: str) -> System:
    torch.manual_seed(0)
    system = foveal.create(name)
    for layer in system.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return system


@pytest.mark.parametrize("name", ["resnet_nano", "vit_nano", "mobilenet_v3_nano", "lenet"])
@pytest.mark.parametrize("way", HERE)
def test_a_way_answers_the_same(name: str, way: str) -> None:
    check(name, way)


@torch.no_grad()
def check(name: str, way: str) -> None:
    system = settled(name)
    images = torch.rand(3, 3, *system.preprocess.size)
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        fast = foveal.accelerate(system, 2, precision, (way,))
        assert fast.way in fast.seconds
        assert fast.seconds.keys() <= {f"{way} float32", f"{way} bfloat16"}
        for batch in (images[:2], images):  # another size than it was measured with
            expected, found = system.eval()(batch), fast.system(batch)
            assert found.dtype == torch.float32
            assert float((found - expected).norm() / expected.norm()) < tolerance
        photos = [torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)]
        probabilities = [each.predict(photos)[0].scores for each in (system, fast.system)]
        assert float((probabilities[0] - probabilities[1]).abs().max()) < tolerance


@pytest.mark.parametrize("name", ["faster_rcnn_nano", "retinanet_nano", "ssd_nano", "detr_nano"])
@pytest.mark.parametrize("way", HERE)
def test_a_detector_finds_the_same(name: str, way: str) -> None:
    check_detector(name, way)


@torch.no_grad()
def check_detector(name: str, way: str) -> None:
    system: Any = settled(name)
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.1)):
        fast = foveal.accelerate(system, 1, precision, (way,))
        batch = torch.rand(2, 3, *system.preprocess.size, generator=torch.Generator().manual_seed(0))
        part = system.accelerated.split(".")[0]
        for given in (batch[:1], batch):  # another size than it was measured with
            given = system.normalize(given) if part == "backbone" else given
            expected, found = (getattr(each.eval(), part)(given) for each in (system, fast.system))
            for one, other in zip(expected, found, strict=True):
                assert other.dtype == torch.float32
                assert float((one - other).norm() / one.norm()) < tolerance
        scores = [each.predict([batch[0]])[0].scores for each in (system, fast.system)]
        count = min(map(len, scores))
        assert abs(len(scores[0]) - len(scores[1])) <= 2
        assert float((scores[0][:count] - scores[1][:count]).abs().max() if count else 0) < tolerance


def test_openvino_answers_the_same_and_tells_nobody(tmp_path: Path) -> None:
    if not find_spec("openvino"):
        pytest.skip("openvino is not installed")
    code = """
import socket
def refuse(*args): raise AssertionError("a connection")
socket.socket.connect = refuse
from tests.test_accelerate import check, check_detector
for name in ("resnet_nano", "vit_nano", "mobilenet_v3_nano", "lenet"):
    check(name, "openvino")
for name in ("faster_rcnn_nano", "ssd_nano"):
    check_detector(name, "openvino")
"""
    home = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=home)
    assert not (tmp_path / "intel").exists(), "where its telemetry keeps who it is"


def test_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"eager": 3.0, "folded": 1.0, "channels_last": 2.0}
    order = iter(times.values())
    monkeypatch.setattr("foveal.accelerate._seconds", lambda system, images: next(order))
    fast = foveal.accelerate(settled("lenet"), ways=tuple(times))
    assert fast.way == "folded float32"
    assert fast.seconds == {f"{way} float32": seconds for way, seconds in times.items()}
    assert "the fastest of eager float32 3e+03 ms" in str(fast)


def test_a_way_that_answers_something_else_is_ruled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(system: System, images: torch.Tensor, kind: str) -> System:
        other = foveal.create("lenet")
        for parameter in other.parameters():
            parameter.data *= 1.5
        return other

    monkeypatch.setitem(WAYS, "folded", wrong)
    assert foveal.accelerate(settled("lenet"), ways=("eager", "folded")).seconds.keys() == {"eager float32"}
    with pytest.raises(foveal.InputError, match=r"lenet cannot be run as folded float32: .* away from the plain ones"):
        foveal.accelerate(settled("lenet"), ways=("folded",))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"precision": "float"}, "unknown precision 'float'; did you mean float32"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"ways": ("fold",)}, "unknown way 'fold'; did you mean folded"),
    ],
)
def test_what_cannot_be_meant_is_told(settings, text) -> None:
    with pytest.raises(foveal.InputError, match=text):
        foveal.accelerate(foveal.create("lenet"), **settings)
