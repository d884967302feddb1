"""ResNet, Wide ResNet, ResNeXt and their pre-activation and CIFAR forms against torchvision, timm and pytorchcv."""

import pytest
from torch import nn

from foveal.catalog import variant

from .compare import LABELS, by_order, check_published, oracle

TORCHVISION = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]
TIMM = [*TORCHVISION, "resnetv2_18", "resnetv2_34", "resnetv2_50", "resnetv2_101", "resnetv2_152"]
CIFAR_DEPTHS = [20, 32, 44, 56, 110]


@pytest.mark.parametrize("name", TORCHVISION)
def test_equal_to_torchvision(name, compare_by_file):
    reference = oracle("torchvision.models").get_model(name, weights=None, num_classes=5)
    compare_by_file(name, "torchvision", name, reference, layout="torchvision", labels=LABELS)


@pytest.mark.parametrize("name", TIMM)
def test_equal_to_timm(name, compare_by_file):
    reference, layout = (
        oracle("timm").create_model(name, num_classes=5),
        "torchvision" if name in TORCHVISION else "timm",
    )
    compare_by_file(name, "timm", name, reference, layout=layout, labels=LABELS)


def test_version_1_stride_equal_to_pytorchcv(compare_by_file):
    reference = oracle("pytorchcv.model_provider").get_model("resnet50")
    reference.features.final_pool = nn.AdaptiveAvgPool2d(1)  # it is made for 224 pixels
    names = by_order(reference, "resnet50", stride_in_1x1=True)
    compare_by_file("resnet50", "pytorchcv", "resnet50", reference, names=names, stride_in_1x1=True)


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_cifar_with_projection_equal_to_pytorchcv(depth, compare_by_file):
    build = oracle("pytorchcv.models.resnet_cifar").get_resnet_cifar
    reference = build(num_classes=10, blocks=depth, bottleneck=False)
    name, fields = f"resnet{depth}_cifar", {"shortcut": "projection"}
    names = by_order(reference, name, **fields)
    compare_by_file(name, "pytorchcv", f"{name}10", reference, size=32, names=names, **fields)


def test_cifar_preactivation_equal_to_pytorchcv(compare_by_file):
    reference = oracle("pytorchcv.models.preresnet_cifar").get_preresnet_cifar(
        num_classes=10, blocks=20, bottleneck=False
    )
    fields = {"shortcut": "projection", "preactivation": True}
    names = by_order(reference, "resnet20_cifar", **fields)
    compare_by_file("resnet20_cifar", "pytorchcv", "preresnet20_cifar10", reference, size=32, names=names, **fields)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name)


@pytest.mark.parametrize("name", [name for name in TIMM if name not in TORCHVISION])
def test_preprocessing_of_preactivation_networks_is_timms(name):
    theirs, ours = oracle("timm").create_model(name).default_cfg, variant(name).preprocess
    assert (ours.mean, ours.std, ours.interpolation) == (theirs["mean"], theirs["std"], theirs["interpolation"])
    assert (3, *ours.size) == theirs["input_size"]
    assert round(ours.size[0] / ours.crop) == int(ours.size[0] / theirs["crop_pct"])
