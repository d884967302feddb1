"""What the parity tests of GoogLeNet cannot see: the paper's network, auxiliary classifiers, sizes, settings."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.cost import cost
from foveal.errors import InputError
from foveal.explain.gradcam import gradcam
from foveal.metrics.classify import ClassifyEvaluator
from foveal.structures import Batch, Label

from .learning import check_smallest_image, own_loss

SMALL = {"labels": ("a", "b", "c"), "width": 8}


def batch_of(images):
    count = len(images)
    targets = tuple(Label(torch.tensor(i % 3)) for i in range(count))
    return Batch(images, targets, torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


@pytest.mark.parametrize(
    ("name", "auxiliary", "parameters"),
    [
        ("googlenet", False, 6_624_904),
        ("googlenet", True, 13_004_888),
        ("googlenet_paper", False, 6_998_552),
        ("googlenet_paper", True, 13_378_280),
    ],
)
def test_parameters_are_the_known_number(name, auxiliary, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in create(name, auxiliary=auxiliary).parameters()) == parameters


def test_table_1_of_the_paper():
    with torch.device("meta"):
        system = create("googlenet_paper")
    layers = {layer.path: layer for layer in cost(system).layers}
    shapes = {path: layer.shape[1:] for path, layer in layers.items() if layer.shape}
    assert shapes["stem.unit1.relu"] == (64, 112, 112)
    assert shapes["stem.pool1"] == (64, 56, 56)
    assert shapes["stem.unit3.relu"] == (192, 56, 56)
    assert shapes["stem.pool2"] == (192, 28, 28)
    sizes = {"3": (28, {"a": 256, "b": 480}), "4": (14, {"a": 512, "b": 512, "c": 512, "d": 528, "e": 832})}
    sizes |= {"5": (7, {"a": 832, "b": 1024})}
    for stage, (side, modules) in sizes.items():
        for name, channels in modules.items():
            assert shapes[f"stage{stage}.{name}"] == (channels, side, side)
            assert system.get_submodule(f"stage{stage}.{name}.branch3.spatial.conv").kernel_size == (5, 5)
    convolutions = [m for m in system.modules() if isinstance(m, nn.Conv2d)]
    assert all(convolution.bias is not None for convolution in convolutions)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in system.modules())
    order = ["unit1", "pool1", "norm1", "unit2", "unit3", "norm2", "pool2"]
    assert [name for name, _ in system.stem.named_children()] == order


def test_a_module_looks_in_four_ways():
    """Each branch alone, by a loop over what it sees: 1x1, 3x3, 5x5 pixels, and the largest of 3x3."""
    system = create("googlenet_paper", **SMALL)
    module, x = system.stage3.a, torch.rand(1, 24, 9, 9)
    for parameter in module.parameters():
        parameter.data.abs_()  # so that no relu is silent
    y = module(x)
    assert y.shape == (1, 32, 9, 9)
    channel = 0
    known = (module.branch1, 1, 8), (module.branch2, 3, 16), (module.branch3, 5, 4), (module.branch4, 3, 4)
    for branch, side, width in known:
        torch.testing.assert_close(y[:, channel : channel + width], branch(x))
        pixels = x.clone().requires_grad_()
        (seen,) = torch.autograd.grad(branch(pixels).sum((0, 1))[4, 4], pixels)
        rows, columns = seen.abs().sum((0, 1)).nonzero().unbind(1)
        reach = side // 2
        assert rows.min() >= 4 - reach
        assert rows.max() <= 4 + reach
        assert columns.min() >= 4 - reach
        assert columns.max() <= 4 + reach
        if side > 1 and branch is not module.branch4:
            assert rows.max() - rows.min() == side - 1
        channel += width
    assert channel == 32


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_adds_the_auxiliary_classifiers_in_both_modes(training):
    torch.manual_seed(0)
    system = create("googlenet_paper", image_size=64, dropout=0.0, auxiliary_dropout=0.0, **SMALL).train(training)
    batch = batch_of(torch.rand(4, 3, 64, 64))
    losses = system.loss(batch)
    truth = torch.stack([target.label for target in batch.targets])
    x = system.stem(system.normalize(batch.images))
    x = system.pool3(system.stage3(x))
    four_a = system.stage4.a(x)
    four_d = system.stage4[1:4](four_a)
    expected = {
        "class": nn.functional.cross_entropy(system(batch.images), truth),
        "auxiliary1": 0.3 * nn.functional.cross_entropy(system.auxiliary1(four_a), truth),
        "auxiliary2": 0.3 * nn.functional.cross_entropy(system.auxiliary2(four_d), truth),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert system(batch.images).shape == (4, 3)
    heavier = create(
        "googlenet_paper", image_size=64, auxiliary_weight=0.6, dropout=0.0, auxiliary_dropout=0.0, **SMALL
    )
    heavier.load_state_dict(system.state_dict())
    torch.testing.assert_close(heavier.loss(batch)["auxiliary1"], 2 * losses["auxiliary1"])
    assert create("googlenet", image_size=64, **SMALL).loss(batch).keys() == {"class"}
    evaluator = ClassifyEvaluator(3)
    with torch.no_grad():
        evaluator.update(system, batch, batch.targets)
    assert evaluator.compute()["loss"] == pytest.approx(sum(loss.item() for loss in losses.values()), rel=1e-5)


def test_prediction_does_not_need_the_auxiliary_classifiers():
    system = create("googlenet_paper", image_size=64, **SMALL)
    images = torch.rand(2, 3, 64, 64)
    scores = system(images)
    for parameter in (*system.auxiliary1.parameters(), *system.auxiliary2.parameters()):
        parameter.data.fill_(torch.nan)
    assert torch.equal(system(images), scores)


def test_weights_with_and_without_auxiliary_classifiers(tmp_path):
    torch.manual_seed(1)
    whole, bare = tmp_path / "whole.safetensors", tmp_path / "bare.safetensors"
    system = create("googlenet", auxiliary=True, **SMALL)
    save_file(system.state_dict(), whole)
    without = create("googlenet", weights=whole, **SMALL)
    assert without.auxiliary1 is None
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(without(images), system(images))
    save_file(without.state_dict(), bare)
    assert torch.equal(create("googlenet", weights=bare, **SMALL)(images), system(images))
    both = create("googlenet", weights=whole, auxiliary=True, **SMALL)
    assert torch.equal(both.auxiliary2.output.weight, system.auxiliary2.output.weight)
    with pytest.raises(InputError, match=r"it has no auxiliary classifiers; create it with auxiliary=False$"):
        create("googlenet", weights=bare, auxiliary=True, **SMALL)


@pytest.mark.parametrize(("name", "smallest"), [("googlenet", 15), ("googlenet_paper", 31), ("googlenet_nano", 2)])
def test_the_smallest_image(name, smallest):
    check_smallest_image(name, smallest, **SMALL)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_every_non_linearity_is_a_module_of_its_own_that_runs_once_and_not_in_place(name):
    system = create(name, image_size=64, **SMALL)
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system.loss(batch_of(torch.rand(2, 3, 64, 64)))
    assert sorted(map(id, runs)) == sorted(map(id, relus))
    assert len(relus) == 57 + (4 if name == "googlenet_paper" else 0)
    assert not any(relu.inplace for relu in relus)


def test_gradcam_sees_the_map_that_is_averaged():
    assert gradcam(create("googlenet", **SMALL), torch.rand(2, 3, 224, 224), "b").shape == (2, 7, 7)


def test_pictures_are_the_first_filters():
    ((images, captions),) = create("googlenet", **SMALL).pictures().values()
    assert images.shape == (8, 3, 7, 7)
    assert len(captions) == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 0}, "width must be a multiple of 8"),
        ({"width": 12}, "width must be a multiple of 8, not 12"),
        ({"depths": (0, 3, 1)}, "depths must be"),
        ({"depths": (1, 3, 3)}, "depths must be"),
        ({"depths": (1, 1, 1)}, "auxiliary classifiers need at least two modules"),
        ({"dropout": 1.0}, "^dropout must be"),
        ({"auxiliary_dropout": 1.5}, "auxiliary_dropout must be"),
        ({"auxiliary_weight": -0.3}, "auxiliary_weight must be"),
        ({"large_kernel": 7}, "no large_kernel 7"),
        ({"last_pool": 4}, "no last_pool 4"),
        ({"stem": "5x5"}, "no stem '5x5'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("googlenet_nano", **fields)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("googlenet_nano"), epochs=4, lr=0.01, objective=own_loss) > 0.9
