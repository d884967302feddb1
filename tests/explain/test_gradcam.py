"""Grad-CAM against its equation, class activation mapping, and captum."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.explain.gradcam import gradcam
from foveal.nn.record import record
from tests.explain.conftest import build
from tests.parity.compare import oracle, relative_error


@pytest.mark.parametrize("preactivation", [False, True])
def test_equal_to_class_activation_mapping(images: Tensor, preactivation: bool) -> None:
    # Where the classifier averages the maps, their weights are its own: Zhou et al. 2015, arXiv:1512.04150.
    system = build("resnet_nano", width=8, preactivation=preactivation)
    with record(system, system.explained_layer) as outputs:
        system(images)
    maps = outputs[system.explained_layer]  # (2, 32, 4, 4)
    expected = torch.zeros(2, 4, 4, dtype=torch.float64)
    for channel in range(32):
        expected += system.classifier.weight[3, channel] / 16 * maps[:, channel]
    assert relative_error(gradcam(system, images, "3"), expected.detach()) < 1e-12


@pytest.mark.parametrize("layer", ["stem", "stage1", "stage2.0.branch.conv2", "stage3"])
def test_equal_to_the_equation(system: Any, images: Tensor, layer: str) -> None:
    with record(system, layer) as outputs:
        score = system(images)[:, 3]
    maps = outputs[layer]
    expected = torch.zeros(2, *maps.shape[2:], dtype=torch.float64)
    for n in range(2):
        (gradient,) = torch.autograd.grad(score[n], maps, retain_graph=True)
        for channel in range(maps.shape[1]):
            expected[n] += gradient[n, channel].mean() * maps[n, channel].detach()
    assert relative_error(gradcam(system, images, "3", layer), expected) < 1e-12
    assert (expected < 0).any()  # no relu


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_tokens_are_laid_out_on_the_image(images: Tensor, pool: str) -> None:
    system = build("vit_nano", pool=pool)
    layer = "blocks.1.norm1"
    with record(system, layer) as outputs:
        score = system(images)[:, 3]
    tokens = outputs[layer]  # (2, 1 + 4 * 4, C), or without the class token
    (gradient,) = torch.autograd.grad(score.sum(), tokens)
    first, expected = tokens.shape[1] - 16, torch.zeros(2, 4, 4, dtype=torch.float64)
    assert first == (pool == "token")
    weights = gradient[:, first:].mean(1)  # (2, C)
    for row in range(4):
        for column in range(4):
            expected[:, row, column] = (weights * tokens[:, first + 4 * row + column]).sum(1).detach()
    assert relative_error(gradcam(system, images, "3", layer), expected) < 1e-12


def test_nothing_is_left_behind(system: Any, images: Tensor) -> None:
    expected = gradcam(system, images, "3")
    with torch.inference_mode():
        assert torch.equal(gradcam(system.train(), images.clone(), "3"), expected)
    assert all(module.training for module in system.modules())
    assert not any(module._forward_hooks for module in system.modules())
    assert all(parameter.grad is None for parameter in system.parameters())
    # The gradient is there for frozen weights too.
    assert torch.equal(gradcam(system.requires_grad_(False), images, "3"), expected)
    assert not expected.requires_grad


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("stage9", "no module 'stage9'; did you mean stage"),
        ("classifier", r"cannot lay an activation of shape \(2, 10\) out"),
        ("extra", "layer 'extra' gives no tensor"),
        ("side", "layer 'side' has no influence on the score"),
    ],
)
def test_layers_that_cannot_be(system: Any, images: Tensor, layer: str, told: str) -> None:
    system.extra = torch.nn.ReLU()  # never runs
    system.side = torch.nn.Conv2d(3, 2, 1).double()
    system.stem.register_forward_pre_hook(lambda network, inputs: (system.side(inputs[0]), None)[1])
    with pytest.raises(InputError, match=told):
        gradcam(system, images, "3", layer)


@pytest.mark.parametrize("layer", ["stem.conv", "stage1", "stage2", "stage3"])
@pytest.mark.parametrize("name", ["resnet_nano", "lenet"])
def test_equal_to_captum(name: str, layer: str) -> None:
    captum = oracle("captum.attr")
    system = build(name)
    if layer not in dict(system.named_modules()):
        pytest.skip("no such layer")
    images = torch.rand(2, 3, *system.preprocess.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = captum.LayerGradCam(system, system.get_submodule(layer)).attribute(images, target=3)
    assert relative_error(gradcam(system, images, "3", layer), theirs[:, 0].detach()) < 1e-12
