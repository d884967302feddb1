"""Occlusion against the loop over its windows, and against captum."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.explain import occlusion as module
from foveal.explain.occlusion import occlusion
from tests.explain.conftest import build
from tests.parity.compare import oracle, relative_error

WINDOWS = [((4, 4), (2, 2)), ((5, 3), (2, 3)), ((5, 7), (5, 4)), ((16, 2), (1, 1)), ((1, 1), (1, 1))]


@pytest.mark.parametrize(("window", "stride"), WINDOWS[:3])
@pytest.mark.parametrize("colour", [None, (0.1, 0.9, 0.4)])
def test_equal_to_the_loop(
    system: Any, images: Tensor, window: tuple[int, int], stride: tuple[int, int], colour: tuple[float, ...] | None
) -> None:
    filled = torch.tensor(system.preprocess.mean if colour is None else colour, dtype=torch.float64).view(3, 1, 1)
    expected = torch.zeros(2, 16, 16, dtype=torch.float64)
    for n, image in enumerate(images):
        whole, drops = system.score(image[None], "3"), [[[] for _ in range(16)] for _ in range(16)]  # type: ignore[var-annotated]
        y = 0
        while True:
            x = 0
            while True:
                hidden = image.clone()
                hidden[:, y : y + window[0], x : x + window[1]] = filled
                drop = (whole - system.score(hidden[None], "3")).item()
                for row in range(y, min(16, y + window[0])):
                    for column in range(x, min(16, x + window[1])):
                        drops[row][column].append(drop)
                if x + window[1] >= 16:
                    break
                x += stride[1]
            if y + window[0] >= 16:
                break
            y += stride[0]
        expected[n] = torch.tensor([[sum(cell) / len(cell) for cell in row] for row in drops], dtype=torch.float64)
    assert relative_error(occlusion(system, images, "3", window, stride, colour), expected) < 1e-9


def test_default_colour_is_zero_after_normalisation() -> None:
    for name in ("lenet", "resnet18"):  # one channel, and three that differ
        system = build(name, **({} if name == "lenet" else {"labels": ("a", "b")}))
        colour = module.mean_colour(system).double().view(1, 3, 1, 1).expand(1, 3, 4, 4)
        assert system.normalize(colour).abs().max() < 1e-6


def test_default_windows(system: Any, images: Tensor) -> None:
    assert torch.equal(occlusion(system, images, "3"), occlusion(system, images, "3", 3, 1))
    assert torch.equal(occlusion(system, images, "3", 7), occlusion(system, images, "3", (7, 7), (3, 3)))


def test_windows_go_through_the_network_together(system: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    system.register_forward_hook(lambda network, inputs, output: passes.append(len(output)))
    together = occlusion(system, images, "3", 4, 2)
    assert passes == [1 + 49] * 2  # the image itself is one of them
    monkeypatch.setattr(module, "PIXELS", 7 * 256)
    assert relative_error(occlusion(system, images, "3", 4, 2), together) < 1e-12
    assert passes[2:] == [*[7] * 7, 1] * 2
    monkeypatch.setattr(module, "PIXELS", 1)
    assert relative_error(occlusion(system, images, "3", 4, 2), together) < 1e-12


def test_nothing_is_left_behind(system: Any, images: Tensor) -> None:
    before, expected = images.clone(), occlusion(system, images, "3")
    with torch.inference_mode():
        assert torch.equal(occlusion(system.train(), images, "3"), expected)
    assert system.training
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"window": 17}, "window is from 1 pixel to the image's 16 x 16, not 17 x 17"),
        ({"window": 0}, "not 0 x 0"),
        ({"window": (4, 20)}, "not 4 x 20"),
        ({"window": (4,)}, "not 4$"),
        ({"window": 4, "stride": 5}, "stride is from 1 pixel to the window's 4 x 4, not 5 x 5"),
        ({"stride": 0}, "not 0 x 0"),
        ({"baseline": (0.5,)}, "baseline is a colour"),
        ({"baseline": (0.5, 2.0, 0.0)}, "baseline is a colour"),
        ({"baseline": (0.5, float("nan"), 0.0)}, "baseline is a colour"),
    ],
)
def test_settings_that_cannot_be(system: Any, images: Tensor, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        occlusion(system, images, "3", **settings)


@pytest.mark.parametrize(("window", "stride"), WINDOWS)
@pytest.mark.parametrize("colour", [None, (0.0, 0.0, 0.0), (0.1, 0.9, 0.4)])
def test_equal_to_captum(
    system: Any, images: Tensor, window: tuple[int, int], stride: tuple[int, int], colour: tuple[float, ...] | None
) -> None:
    captum = oracle("captum.attr")
    filled = torch.tensor(system.preprocess.mean if colour is None else colour, dtype=torch.float64).view(3, 1, 1)
    theirs = captum.Occlusion(system).attribute(
        images, (3, *window), (3, *stride), filled.expand(3, 16, 16)[None], target=3, perturbations_per_eval=16
    )
    # It adds the drops up in float32.
    assert relative_error(occlusion(system, images, "3", window, stride, colour), theirs[:, 0]) < 1e-6
