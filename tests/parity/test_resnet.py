"""ResNet, Wide ResNet, ResNeXt and their pre-activation and CIFAR forms against torchvision, timm and pytorchcv."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.catalog import create, variant
from foveal.weights import translate

from .compare import compare_logits_and_gradients, oracle, randomise, row

LABELS = ("a", "b", "c", "d", "e")
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


@pytest.fixture
def check(tmp_path: Path, record_property: Callable[[str, object], None]):
    """Through a file under the oracle's names, by the importer that recognises them."""

    def run(name: str, package: str, reference: nn.Module) -> None:
        file = tmp_path / "weights.safetensors"
        save_file(randomise(reference).state_dict(), file)
        system = create(name, labels=LABELS, weights=file)
        file.unlink()  # pytest keeps what tests leave behind, and the large ones have 500 MB
        layout, _ = translate(system, reference.state_dict())
        figures = compare_logits_and_gradients(system, reference, lambda state: translate(system, state)[1])
        record_property("parity", row(name, package, name, layout, figures))

    return run


@pytest.fixture
def check_by_order(tmp_path: Path, record_property: Callable[[str, object], None]):
    """Under our own names, given to the oracle's tensors in their order: for packages whose names we do not read."""

    def run(name: str, package: str, model: str, reference: nn.Module, size: int, **fields: object) -> None:
        names = dict(zip(reference.state_dict(), create(name, **fields).state_dict(), strict=True))
        state = {names[theirs]: tensor for theirs, tensor in randomise(reference).state_dict().items()}
        file = tmp_path / "weights.safetensors"
        save_file(state, file)
        system = create(name, weights=file, **fields)
        file.unlink()
        figures = compare_logits_and_gradients(
            system, reference, lambda state: {names[theirs]: tensor for theirs, tensor in state.items()}, size=size
        )
        settings = ", ".join(f"{field}={value}" for field, value in fields.items())
        record_property("parity", row(f"{name} ({settings})", package, model, "foveal, by order", figures))

    return run


@pytest.mark.parametrize("name", TORCHVISION)
def test_equal_to_torchvision(name, check):
    models = oracle("torchvision.models")
    check(name, "torchvision", models.get_model(name, weights=None, num_classes=5))


@pytest.mark.parametrize("name", TIMM)
def test_equal_to_timm(name, check):
    check(name, "timm", oracle("timm").create_model(name, num_classes=5))


def test_version_1_stride_equal_to_pytorchcv(check_by_order):
    reference = oracle("pytorchcv.model_provider").get_model("resnet50")
    reference.features.final_pool = nn.AdaptiveAvgPool2d(1)  # it is made for 224 pixels
    check_by_order("resnet50", "pytorchcv", "resnet50", reference, 64, stride_in_1x1=True)


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_cifar_with_projection_equal_to_pytorchcv(depth, check_by_order):
    build = oracle("pytorchcv.models.resnet_cifar").get_resnet_cifar
    reference = build(num_classes=10, blocks=depth, bottleneck=False)
    name = f"resnet{depth}_cifar"
    check_by_order(name, "pytorchcv", f"resnet{depth}_cifar10", reference, 32, shortcut="projection")


def test_cifar_preactivation_equal_to_pytorchcv(check_by_order):
    reference = oracle("pytorchcv.models.preresnet_cifar").get_preresnet_cifar(
        num_classes=10, blocks=20, bottleneck=False
    )
    fields = {"shortcut": "projection", "preactivation": True}
    check_by_order("resnet20_cifar", "pytorchcv", "preresnet20_cifar10", reference, 32, **fields)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    weights = oracle("torchvision.models").get_model_weights(name).IMAGENET1K_V1
    with torch.device("meta"):
        system = create(name)
    assert sum(parameter.numel() for parameter in system.parameters()) == weights.meta["num_params"]
    assert list(system.labels) == weights.meta["categories"]
    theirs, ours = weights.transforms(), system.preprocess
    assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)
    assert (ours.interpolation, ours.resize) == (theirs.interpolation.value, "crop")
    assert ([ours.size[0]], [round(ours.size[0] / ours.crop)]) == (theirs.crop_size, theirs.resize_size)


@pytest.mark.parametrize("name", [name for name in TIMM if name not in TORCHVISION])
def test_preprocessing_of_preactivation_networks_is_timms(name):
    theirs, ours = oracle("timm").create_model(name).default_cfg, variant(name).preprocess
    assert (ours.mean, ours.std, ours.interpolation) == (theirs["mean"], theirs["std"], theirs["interpolation"])
    assert (3, *ours.size) == theirs["input_size"]
    assert round(ours.size[0] / ours.crop) == int(ours.size[0] / theirs["crop_pct"])
