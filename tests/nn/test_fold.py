"""Folding of batch norms: the formula, and who may be folded."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import foveal
from foveal.nn.fold import NORMS, fold_batch_norm, tensors_of
from foveal.nn.norm import FrozenBatchNorm

# name -> batch norms that no convolution comes directly before, and so stay
LEFT = {
    "resnet_nano": 0,
    "senet_nano": 0,
    "vgg_nano": 0,
    "mobilenet_v3_nano": 0,
    "googlenet_nano": 2,  # of the auxiliary classifiers, which do not answer
    "inception_v3_nano": 2,
    "vit_nano": 0,
}


def shaken(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.double().eval().modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    return network


def count(network: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in network.modules())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_folding_is_the_formula_and_torchs(bias: bool, affine: bool) -> None:
    pair = shaken(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), nn.BatchNorm2d(6, affine=affine)))
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = fold_batch_norm(pair, images)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(images), pair(images), rtol=1e-12, atol=1e-12)
    if affine:
        theirs = fuse_conv_bn_eval(*pair)
        torch.testing.assert_close(folded[0].weight, theirs.weight, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(folded[0].bias, theirs.bias, rtol=1e-12, atol=1e-12)
    assert count(pair) == 1, "the network that was given stays as it was"


@pytest.mark.parametrize("name", LEFT)
@torch.no_grad()
def test_a_folded_system_answers_the_same(name: str) -> None:
    system = shaken(foveal.create(name))
    images = torch.rand(3, 3, *system.preprocess.size, dtype=torch.float64)
    folded = fold_batch_norm(system, images[:1])
    assert count(folded) == LEFT[name]
    expected = system(images)
    assert float((folded(images) - expected).norm() / expected.norm()) < 1e-12
    assert folded.explained_layer == system.explained_layer


@pytest.mark.parametrize("preactivation", [False, True])
def test_only_norms_behind_convolutions_go(preactivation: bool) -> None:
    system = shaken(foveal.create("resnet_nano", preactivation=preactivation))
    folded = fold_batch_norm(system, torch.rand(1, 3, 16, 16, dtype=torch.float64))
    assert (count(folded) > 0) == preactivation


def test_a_map_that_others_read_too_is_left() -> None:
    class Shared(nn.Module):
        def __init__(self, returned: bool) -> None:
            super().__init__()
            self.convolution, self.norm, self.returned = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), returned

        def forward(self, x):
            x = self.convolution(x)
            return (self.norm(x), x) if self.returned else self.norm(x) + x

    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for returned in (False, True):
        assert count(fold_batch_norm(shaken(Shared(returned)), images)) == 1


def test_a_convolution_that_runs_twice_is_left() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.convolution(self.convolution(x)))

    assert count(fold_batch_norm(shaken(Twice()), torch.randn(2, 3, 4, 4, dtype=torch.float64))) == 1


def test_a_frozen_batch_norm_is_folded_too() -> None:
    pair = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm(nn.BatchNorm2d(4))))
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    folded = fold_batch_norm(pair, images)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(images), pair(images), rtol=1e-12, atol=1e-12)


def test_what_is_also_an_answer_in_a_dataclass_is_not_folded() -> None:
    @dataclass
    class Both:
        raw: torch.Tensor
        normal: tuple[torch.Tensor, ...]

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> Both:
            raw = self.convolution(x)
            return Both(raw, (self.norm(raw),))

    two, images = shaken(Two()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected, found = tensors_of(two(images)), tensors_of(fold_batch_norm(two, images)(images))
    assert len(found) == 2
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
