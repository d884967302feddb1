"""AlexNet and ZFNet against torchvision and pytorchcv."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from .compare import LABELS, by_order, check_published, oracle


def test_equal_to_torchvision(compare_by_file):
    reference = oracle("torchvision.models").alexnet(num_classes=5)
    compare_by_file("alexnet", "torchvision", "alexnet", reference, layout="torchvision", labels=LABELS)


@pytest.mark.parametrize("size", [63, (70, 101), 224])  # the smallest; rows and columns not the same; the papers'
def test_sizes_equal_to_torchvision(size, compare_by_file):
    reference = oracle("torchvision.models").alexnet(num_classes=5)
    reference.classifier[1], reference.classifier[4] = nn.Linear(256 * 36, 32), nn.Linear(32, 32)
    reference.classifier[6] = nn.Linear(32, 5)
    fields = {"labels": LABELS, "hidden": 32}
    compare_by_file("alexnet", "torchvision", "alexnet", reference, size=size, layout="torchvision", **fields)


@pytest.fixture
def pytorchcv(monkeypatch):
    """Its local response norm takes torch's default for alpha, which weighs the mean over five maps, where the paper's
    weighs their sum; in all else it is the paper's."""
    package = oracle("pytorchcv.models.alexnet")

    def local_response_norm(x, size, k):
        return nn.functional.local_response_norm(x, size, alpha=5e-4, k=k)

    monkeypatch.setattr(package, "F", SimpleNamespace(local_response_norm=local_response_norm))
    return package


def test_towers_in_one_equal_to_pytorchcv(pytorchcv, compare_by_file):
    """The 2012 network without its halves; at 227 pixels no padding comes to the same maps as the paper's 55 x 55."""
    reference = pytorchcv.get_alexnet(num_classes=5)
    fields = {"groups": (1,) * 5, "padding": (0, 2, 1, 1, 1)}
    names = by_order(reference, "alexnet_paper", labels=LABELS, **fields)
    compare_by_file("alexnet_paper", "pytorchcv", "alexnet", reference, size=227, names=names, labels=LABELS, **fields)


@pytest.mark.parametrize(("model", "channels"), [("zfnet", None), ("zfnetb", (96, 256, 512, 1024, 512))])
def test_zfnet_equal_to_pytorchcv(model, channels, pytorchcv, compare_by_file):
    """Theirs norms before it pools."""
    reference = oracle("pytorchcv.models.zfnet").get_zfnet(num_classes=5, version=model[5:] or "a")
    fields = {"response_norm": "before_pool"} | ({"channels": channels} if channels else {})
    names = by_order(reference, "zfnet", labels=LABELS, **fields)
    compare_by_file("zfnet", "pytorchcv", model, reference, size=224, names=names, labels=LABELS, **fields)


def test_parameters_and_preprocessing_are_those_that_torchvision_publishes():
    check_published("alexnet")


def test_sizes_that_torchvision_refuses_are_refused():
    reference = oracle("torchvision.models").alexnet(num_classes=5).eval()
    with pytest.raises(RuntimeError, match="too small"):
        reference(torch.rand(1, 3, 62, 62))
