"""Inception v3 against torchvision and timm; that of the usual FID against torchvision's modules, changed."""

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from foveal.build import create
from foveal.catalog import variant
from foveal.structures import Batch, Label
from foveal.system import Preprocess
from foveal.weights import translate

from .compare import LABELS, compare_logits_and_gradients, compare_losses, oracle, randomise, relative_error, row


def build(classes=5, **fields):
    return oracle("torchvision.models").inception_v3(num_classes=classes, init_weights=False, **fields)


def test_equal_to_torchvision_of_a_whole_file(tmp_path, record_property):
    """The smallest images in height, others in width; the file has the auxiliary classifier, which is left out."""
    reference = randomise(build())
    file = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), file)
    system = create("inception_v3", labels=LABELS, weights=file, auxiliary=False)
    file.unlink()
    assert translate(system, reference.state_dict())[0] == "torchvision"
    reference.AuxLogits = None
    figures = compare_logits_and_gradients(system, reference, lambda state: translate(system, state)[1], size=(75, 101))
    told = row("inception_v3 (of a whole file, 75 x 101)", "torchvision", "inception_v3", "torchvision", figures)
    record_property("parity", told)


def test_equal_to_timm(compare_by_file):
    reference = oracle("timm").create_model("inception_v3", num_classes=5)
    fields = {"auxiliary": False, "labels": LABELS}
    compare_by_file("inception_v3", "timm", "inception_v3", reference, size=107, layout="torchvision", **fields)


def test_training_with_the_auxiliary_classifier_equal_to_torchvision(record_property):
    """At the paper's height, below which torchvision cannot run it, and a width of which the auxiliary classifier sees
    three parts. Both losses, their gradients, and the statistics."""
    reference = randomise(build(dropout=0.0))
    system = create("inception_v3", labels=LABELS, dropout=0.0)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    system, reference = system.double().train(), reference.double().train()
    torch.manual_seed(0)
    images, truth = torch.rand(1, 3, 299, 395, dtype=torch.float64), torch.tensor([3])
    nothing = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)
    losses = system.loss(Batch(images, tuple(map(Label, truth)), torch.arange(1), *nothing))
    outputs = reference(system.normalize(images))
    expected = {
        "class": functional.cross_entropy(outputs.logits, truth),
        "auxiliary": 0.4 * functional.cross_entropy(outputs.aux_logits, truth),
    }
    figures = compare_losses(system, reference, losses, expected)
    told = row("inception_v3 (loss in training)", "torchvision", "inception_v3", "torchvision", figures)
    record_property("parity", told)
    statistics = translate(system, reference.state_dict())[1]
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, statistics[name], rtol=1e-9, atol=1e-12)


def averaged(x):
    """3x3 windows, by the sum of what there is and how much there is of it."""
    sums, counts = (functional.avg_pool2d(y, 3, 1, 1, divisor_override=1) for y in (x, torch.ones_like(x)))
    return sums / counts


def changed(module, pool):
    """torchvision's module with another pooling in its last branch; the others are as they are."""

    def forward(x):
        return torch.cat([*module._forward(x)[:3], module.branch_pool(pool(x))], 1)

    module.forward = forward


def fid_network(**fields):
    """What others compute Frechet distances by: torchvision's, but for the pooling of nine modules."""
    network = build(aux_logits=False, **fields)
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
        changed(getattr(network, f"Mixed_{name}"), averaged)
    changed(network.Mixed_7c, lambda x: functional.max_pool2d(x, 3, 1, 1))
    return network


def test_the_network_of_frechet_distances(tmp_path, record_property):
    """A file as it is published, without counters; logits, gradients and the features."""
    reference = randomise(fid_network())
    state = {name: tensor for name, tensor in reference.state_dict().items() if "num_batches" not in name}
    file = tmp_path / "pt_inception-2015-12-05.pth"
    torch.save(state, file)
    system = create("inception_v3_fid", labels=LABELS, weights=file)
    file.unlink()
    figures = compare_logits_and_gradients(
        system, reference, lambda state: translate(system, state)[1], size=(107, 139)
    )
    model = "inception_v3, its pooling changed"
    record_property("parity", row("inception_v3_fid (107 x 139)", "torchvision", model, "torchvision", figures))
    reference.fc = nn.Identity()
    images = torch.rand(1, 3, 107, 75, dtype=torch.float64)
    with torch.no_grad():
        features = system.features(images)
        assert features.shape == (1, 2048)
        assert relative_error(features, reference(2 * images - 1)) < 1e-9


def test_parameters_and_preprocessing_are_those_that_are_published():
    weights = oracle("torchvision.models").Inception_V3_Weights.IMAGENET1K_V1
    with torch.device("meta"):
        system = create("inception_v3")
    assert sum(parameter.numel() for parameter in system.parameters()) == weights.meta["num_params"]
    assert list(system.labels) == weights.meta["categories"]
    theirs, ours = weights.transforms(), variant("inception_v3").preprocess
    assert (ours.interpolation, ours.resize) == (theirs.interpolation.value, "crop")
    assert ([ours.size[0]], [round(ours.size[0] / ours.crop)]) == (theirs.crop_size, theirs.resize_size)


def test_torchvisions_change_of_its_pixels_is_our_preprocessing():
    reference = build(aux_logits=False, transform_input=True)
    system = create("inception_v3", width=2, labels=LABELS)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (Preprocess().mean, Preprocess().std))
    found = reference._transform_input((images - mean) / std)
    assert relative_error(system.double().normalize(images), found) < 1e-6
