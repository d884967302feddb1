"""Saliency against differences of the score, and against captum."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.explain.saliency import pixel_gradient, saliency
from tests.explain.conftest import build
from tests.parity.compare import oracle, relative_error
from tests.toys import Detector


@pytest.mark.parametrize("name", ["lenet", "resnet_nano", "vit_nano"])
def test_gradient_is_that_of_differences(name: str) -> None:
    system = build(name)
    image = torch.rand(1, 3, *system.preprocess.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = pixel_gradient(system, image, "7")
    step, checked = 1e-6, [(0, 5, 6), (1, 8, 8), (2, 3, 12), (1, 14, 2)]
    for channel, row, column in checked:
        scores = []
        for side in (step, -step):
            moved = image.clone()
            moved[0, channel, row, column] += side
            scores.append(system.score(moved, "7"))
        difference = (scores[0] - scores[1]).item() / (2 * step)
        assert float(gradient[0, channel, row, column]) == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_map_is_the_largest_size_of_the_gradient_over_the_channels(system: Any, images: Tensor) -> None:
    gradient = pixel_gradient(system, images, "3")
    expected = torch.zeros(2, 16, 16, dtype=torch.float64)
    for n in range(2):
        for channel in range(3):
            expected[n] = torch.maximum(expected[n], gradient[n, channel].abs())
    assert torch.equal(saliency(system, images, "3"), expected)
    assert (gradient < 0).any()


def test_each_image_is_explained_alone(system: Any, images: Tensor) -> None:
    together = saliency(system, images, "3")
    for n in range(2):
        assert relative_error(saliency(system, images[n : n + 1], "3"), together[n : n + 1]) < 1e-12


def test_nothing_is_left_behind(system: Any, images: Tensor) -> None:
    expected = saliency(system, images, "3")
    with torch.inference_mode():
        assert torch.equal(saliency(system.train(), images.clone(), "3"), expected)
    assert all(module.training for module in system.modules())
    assert all(parameter.grad is None for parameter in system.parameters())
    assert not images.requires_grad
    assert torch.equal(saliency(system.requires_grad_(False), images, "3"), expected)


def test_any_score_can_be_differentiated() -> None:
    torch.manual_seed(0)
    detector, image = Detector(), torch.rand(1, 3, 24, 24)
    target = detector.predict([image[0]])[0]
    moved = type(target)(target.boxes + 3, target.labels)
    assert saliency(detector, image, moved).abs().max() > 0


@pytest.mark.parametrize("name", ["lenet", "resnet_nano", "vit_nano"])
def test_equal_to_captum(name: str) -> None:
    captum = oracle("captum.attr")
    system = build(name)
    images = torch.rand(2, 3, *system.preprocess.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = captum.Saliency(system).attribute(images.clone().requires_grad_(), target=7)
    assert relative_error(pixel_gradient(system, images, "7").abs(), theirs) < 1e-12
    assert relative_error(saliency(system, images, "7"), theirs.amax(1)) < 1e-12
