"""GoogLeNet against torchvision; the auxiliary classifiers in training, where alone it runs them."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.catalog import variant
from foveal.structures import Batch, Label
from foveal.weights import translate

from .compare import LABELS, compare_logits_and_gradients, compare_losses, oracle, randomise, relative_error, row


def build(**fields):
    return oracle("torchvision.models").googlenet(num_classes=5, init_weights=False, **fields)


@pytest.mark.parametrize("size", [15, (70, 101), 224])  # the smallest; rows and columns not the same; the paper's
def test_equal_to_torchvision(size, compare_by_file):
    reference = build(aux_logits=False)
    compare_by_file("googlenet", "torchvision", "googlenet", reference, size=size, layout="torchvision", labels=LABELS)


def test_published_files_have_auxiliary_classifiers_which_are_left_out(tmp_path, record_property):
    reference = randomise(build(aux_logits=True))
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    system = create("googlenet", labels=LABELS, weights=tmp_path / "weights.safetensors")
    reference.aux1 = reference.aux2 = None
    figures = compare_logits_and_gradients(system, reference, lambda state: translate(system, state)[1])
    record_property("parity", row("googlenet (of a whole file)", "torchvision", "googlenet", "torchvision", figures))


def test_training_with_auxiliary_classifiers_equal_to_torchvision(tmp_path, record_property):
    """Batch statistics, the three losses as torchvision's reference training adds them, and all gradients."""
    reference = randomise(build(aux_logits=True, dropout=0.0, dropout_aux=0.0))
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    fields = {"auxiliary": True, "dropout": 0.0, "auxiliary_dropout": 0.0}
    system = create("googlenet", labels=LABELS, weights=tmp_path / "weights.safetensors", **fields)
    system, reference = system.double().train(), reference.double().train()
    torch.manual_seed(0)
    images, truth = torch.rand(4, 3, 75, 64, dtype=torch.float64), torch.tensor([0, 3, 1, 3])
    nothing = torch.zeros(4, 2, 3), torch.zeros(4, 2, dtype=torch.long)
    batch = Batch(images, tuple(Label(label) for label in truth), torch.arange(4), *nothing)
    losses = system.loss(batch)
    outputs = reference(system.normalize(images))
    expected = {
        "class": nn.functional.cross_entropy(outputs.logits, truth),
        "auxiliary1": 0.3 * nn.functional.cross_entropy(outputs.aux_logits1, truth),
        "auxiliary2": 0.3 * nn.functional.cross_entropy(outputs.aux_logits2, truth),
    }
    figures = compare_losses(system, reference, losses, expected)
    record_property("parity", row("googlenet (loss in training)", "torchvision", "googlenet", "torchvision", figures))
    statistics = translate(system, reference.state_dict())[1]
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, statistics[name], rtol=1e-9, atol=1e-12)


def test_parameters_and_preprocessing_are_those_that_torchvision_publishes():
    """Its weights want pixels in [-1, 1], which `transform_input` makes of what its preprocessing gives."""
    models = oracle("torchvision.models")
    weights, ours = models.GoogLeNet_Weights.IMAGENET1K_V1, variant("googlenet").preprocess
    with torch.device("meta"):
        system = create("googlenet")
    assert sum(parameter.numel() for parameter in system.parameters()) == weights.meta["num_params"]
    assert list(system.labels) == weights.meta["categories"]
    theirs = weights.transforms()
    assert (ours.interpolation, ours.resize) == (theirs.interpolation.value, "crop")
    assert ([ours.size[0]], [round(ours.size[0] / ours.crop)]) == (theirs.crop_size, theirs.resize_size)
    reference = randomise(build(aux_logits=False, transform_input=True)).double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (theirs.mean, theirs.std))
    system = create("googlenet", labels=LABELS)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    assert relative_error(system.double()(images), reference((images - mean) / std)) < 1e-7  # their constants' rounding
