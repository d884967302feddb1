"""foveal list, foveal cost"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import foveal
from tests.cli.conftest import Answer


def test_list(works: Callable[..., Answer]) -> None:
    lines = works("list").out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["name", "task"],
        *([name, task] for task in ("classify", "detect", "generate") for name in foveal.names(task)),
    ]
    assert "vgg11\tclassify\tVGG\tarXiv:1409.1556\t224 x 224\t132,863,336\t-" in lines
    assert "lenet\tclassify\tLeNet-5\t1998\t32 x 32\t61,706\tfoveal" in lines
    assert next(line for line in lines if line.startswith("knn\t")).split("\t")[5] == "-"
    assert all(len(line.split("\t")[2]) in range(3, 90) for line in lines)


def test_a_list_is_fast() -> None:
    """It imports neither torch nor the systems."""
    code = "import sys; from foveal.cli.list import run; run([]); print('torch' in sys.modules, file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.split() == ["False"]


def test_list_of_a_task(works: Callable[..., Answer]) -> None:
    document = works("list", "--task", "classify", "--json").document()
    lenet = {"name": "lenet", "task": "classify", "family": "LeNet-5", "source": "1998"}
    lenet |= {"image_size": [32, 32], "parameters": 61706, "weights": "foveal"}
    assert lenet in document["systems"]
    assert {system["task"] for system in document["systems"]} == {"classify"}


def test_list_of_an_unknown_task(fails: Callable[..., str]) -> None:
    assert "unknown task 'clasify'; did you mean classify" in fails("list", "--task", "clasify")


def test_cost(works: Callable[..., Answer]) -> None:
    text = works("cost", "lenet").out
    assert "61,706" in text  # LeNet-5 for ten classes
    document = works("cost", "lenet", "--json").document()
    assert document["system"] == "lenet"
    assert 61706 in document.values()


def test_cost_at_another_size(works: Callable[..., Answer]) -> None:
    small, large = (works("cost", "resnet_nano", "--size", size, "--json").document() for size in (16, 32))
    assert small["params"] == large["params"]
    assert small["macs"] < large["macs"]


def test_cost_of_a_run(works: Callable[..., Answer], shared_run: Path) -> None:
    parameters = sum(p.numel() for p in foveal.load(shared_run).parameters())
    assert works("cost", shared_run, "--json").document()["params"] == parameters == 61111


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resnet5O"], ["resnet5O is neither a run or checkpoint nor a system", "resnet50"]),
        (["lenet", "--size", "0"], ["0"]),
        (["lenet", "--size", "-3"], ["-3"]),
        (["lenet", "--size", "8"], ["lenet", "8"]),
    ],
)
def test_bad_cost(fails: Callable[..., str], words: list[str], told: list[str]) -> None:
    line = fails("cost", *words)
    assert all(word in line for word in told), line
