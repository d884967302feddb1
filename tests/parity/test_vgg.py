"""VGG against torchvision and timm; with narrow hidden layers, which have most of the numbers."""

import pytest
from torch import nn

from .compare import LABELS, check_published, on_meta, oracle

NAMES = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]


def torchvision_vgg(name, hidden):
    reference = on_meta(lambda: oracle("torchvision.models").get_model(name, weights=None, num_classes=5))
    widths = (512 * 7 * 7, hidden, hidden, 5)
    for number, layer in enumerate((0, 3, 6)):
        reference.classifier[layer] = nn.Linear(widths[number], widths[number + 1])
    return reference.to_empty(device="cpu")


def timm_vgg(name, hidden):
    timm = oracle("timm")
    reference = on_meta(lambda: timm.create_model(name, num_classes=5))
    reference.pre_logits.fc1, reference.pre_logits.fc2 = nn.Conv2d(512, hidden, 7), nn.Conv2d(hidden, hidden, 1)
    reference.head.fc = nn.Linear(hidden, 5)
    return reference.to_empty(device="cpu")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_equal(package, name, compare_by_file):
    reference = (torchvision_vgg if package == "torchvision" else timm_vgg)(name, 32)
    compare_by_file(name, package, name, reference, size=(32, 65), layout=package, labels=LABELS, hidden=32)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_equal_at_the_papers_size(package, compare_by_file):
    reference = (torchvision_vgg if package == "torchvision" else timm_vgg)("vgg11", 32)
    compare_by_file("vgg11", package, "vgg11", reference, size=224, layout=package, labels=LABELS, hidden=32)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name)
