"""DenseNet against torchvision, timm and, in its CIFAR forms, pytorchcv."""

import re

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.weights import load_weights, translate

from .compare import LABELS, by_order, check_published, oracle, randomise

NAMES = ["densenet121", "densenet161", "densenet169", "densenet201"]


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_torchvision(name, compare_by_file):
    models = oracle("torchvision.models")
    reference = models.get_model(name, weights=None, num_classes=5)
    compare_by_file(name, "torchvision", name, reference, layout="torchvision", labels=LABELS)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_timm(name, compare_by_file):
    reference = oracle("timm").create_model(name, num_classes=5)
    compare_by_file(name, "timm", name, reference, layout="torchvision", labels=LABELS)


@pytest.mark.parametrize(
    ("name", "fields", "model", "options"),
    [
        # pytorchcv has a wider stem than the paper, and compression, where there is no bottleneck.
        ("densenet40_cifar", {"width": 24, "compression": 0.5}, "densenet40_k12_cifar10", (40, 12, False)),
        ("densenet100_bc_cifar", {}, "densenet100_k12_bc_cifar10", (100, 12, True)),
    ],
)
def test_cifar_forms_equal_to_pytorchcv(name, fields, model, options, compare_by_file):
    build = oracle("pytorchcv.models.densenet_cifar").get_densenet_cifar
    blocks, growth, bottleneck = options
    reference = build(num_classes=10, blocks=blocks, growth_rate=growth, bottleneck=bottleneck)
    names = by_order(reference, name, **fields)
    compare_by_file(name, "pytorchcv", model, reference, size=32, names=names, **fields)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name)


def test_published_files_have_dots_before_the_numbers(tmp_path):
    """And no counters of batches, being from 2017."""
    reference = randomise(oracle("torchvision.models").densenet121(num_classes=1000))
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in reference.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "weights.pth")
    system = create("densenet121")
    load_weights(system, tmp_path / "weights.pth")
    (tmp_path / "weights.pth").unlink()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(system(images), reference(system.normalize(images)))


def test_dropout_stands_where_torchvision_has_it():
    """Draw for draw, in training."""
    options = {"growth_rate": 8, "block_config": (2, 3), "num_init_features": 16, "bn_size": 4, "num_classes": 1000}
    reference = oracle("torchvision.models").DenseNet(**options, drop_rate=0.3)
    nn.init.normal_(reference.classifier.bias)
    system = create("densenet121", growth=8, depths=(2, 3), width=16, dropout=0.3)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    images = torch.rand(4, 3, 32, 32)
    torch.manual_seed(3)
    expected = reference.train()(system.normalize(images))
    torch.manual_seed(3)
    torch.testing.assert_close(system.train()(images), expected)
    assert not torch.allclose(system.eval()(images), expected, rtol=0.1)
