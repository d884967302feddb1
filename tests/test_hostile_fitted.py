"""Checkpoints of fitted systems whose tensors have other shapes and values: one line, or a system that answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.build import describe
from foveal.catalog import ENTRIES, family
from foveal.errors import InputError
from foveal.nn.fitted import fitted_names
from foveal.structures import Label
from foveal.train import checkpoint

SIZE = 8  # pixels
COUNT = 40  # images
FITTED = sorted(name for name in ENTRIES if family(name).can("fit") and name != "ensemble")
SETTINGS: dict[str, dict[str, Any]] = {
    "pca": {"components": 6},
    "visual_words_patches": {"words": 12, "patch": 3, "sample": 1000},
    "visual_words_hog": {"words": 12, "patch": 4, "stride": 1, "sample": 1000},
    "neocognitron": {"planes": (3, 4, 5)},
}


def fitted(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    system = foveal.create(name, image_size=SIZE, labels=["a", "b", "c"], **SETTINGS.get(name, {}), **fields)
    images = [torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(COUNT)]
    batch = system.preprocess.batch(images)
    targets = tuple(Label(torch.tensor(number % 3)) for number in range(COUNT))
    system.fit([replace(batch, targets=targets)])
    return system.eval()


@pytest.fixture(scope="module")
def systems() -> dict[str, Any]:
    """Every fitted system of the catalog, and those that compare what another one makes of an image."""
    found = {name: fitted(name) for name in FITTED}
    found["knn of pca"] = fitted("knn", features=found["pca"])
    found["ensemble of knn"] = foveal.create("ensemble", members=(found["knn"], found["pca"]))
    return found


CASES = [*FITTED, "knn of pca", "ensemble of knn"]


def mutations(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Other shapes, then other values, of one tensor."""
    yield "none", tensor.new_empty(0)
    yield "scalar", tensor.new_zeros(())
    yield "one axis more", tensor[None]
    yield "flat", tensor.reshape(-1)
    if tensor.ndim:
        yield "no rows", tensor[:0]
        yield "one row", tensor[:1]
        yield "a row less", tensor[:-1]
        yield "a row more", torch.cat([tensor, tensor[:1]])
        yield "a column less", tensor[..., :-1]
        yield "a column more", torch.cat([tensor, tensor[..., :1]], -1)
        yield "turned", tensor.mT if tensor.ndim == 2 else tensor[:, None]
    yield "another type", tensor.long() if tensor.is_floating_point() else tensor.float()
    if tensor.is_floating_point():
        for value in (float("nan"), float("inf"), 3e38, -3e38, 1e-45, 0.0):
            yield str(value), torch.full_like(tensor, value)
    else:
        for value in (-1, 3, 2**31, 2**63 - 1, -(2**63)):
            yield str(value), torch.full_like(tensor, value)


def answers(path: Path) -> str | None:
    """The one line that loading or predicting raises; None where the system names a class."""
    image = torch.randint(256, (3, 11, 9), dtype=torch.uint8)
    line = system = None
    try:
        system = foveal.load(path)
        (found,) = system.predict([image])
    except InputError as error:
        line = str(error)
    if line is None:
        assert 0 <= int(found.label) < 3
        assert found.scores.isfinite().all()
    elif system is None:
        assert str(path) in line
    else:
        assert "cannot answer yet" in line or line.endswith(" predicts are not finite")
        assert line.isprintable()
    return line


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_read(name: str, systems: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, describe(systems[name]), systems[name].state_dict())
    image = torch.randint(256, (3, 11, 9), dtype=torch.uint8)
    again = foveal.load(path)
    assert torch.equal(again.predict([image])[0].scores, systems[name].predict([image])[0].scores)


@pytest.mark.parametrize("name", CASES)
def test_other_shapes_and_values(name: str, systems: dict[str, Any], tmp_path: Path) -> None:
    system, path = systems[name], tmp_path / "a.safetensors"
    state = system.state_dict()
    names = fitted_names(system) or state.keys()
    assert names
    for changed in sorted(names):
        for kind, tensor in mutations(state[changed]):
            checkpoint.save(path, describe(system), {**state, changed: tensor.contiguous()})
            line = answers(path)
            if tensor.shape != state[changed].shape or (kind in ("nan", "inf") and tensor.numel()):
                assert line is not None, f"{changed}: {kind}"
