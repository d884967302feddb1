"""What the parity tests of AlexNet and ZFNet cannot see: the norm's formula, halves, sizes, dropout, settings."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.cost import cost
from foveal.errors import InputError
from foveal.explain.gradcam import gradcam
from foveal.nn.response_norm import response_norm

from .learning import check_smallest_image

SMALL = {"labels": ("a", "b", "c"), "channels": (4, 6, 8, 8, 6), "hidden": 5}


def test_response_norm_is_the_papers_formula():
    torch.manual_seed(0)
    x = 50 * torch.randn(
        2, 7, 3, 4, dtype=torch.float64
    )  # large, so that the norm is far from a division by a constant
    expected = torch.empty_like(x)
    for image in range(2):
        for i in range(7):
            for row in range(3):
                for column in range(4):
                    total = sum(x[image, j, row, column] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
                    expected[image, i, row, column] = x[image, i, row, column] / (2 + 1e-4 * total) ** 0.75
    torch.testing.assert_close(response_norm()(x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "parameters"), [("alexnet", 61_100_840), ("alexnet_paper", 60_965_224), ("zfnet", 62_357_608)]
)
def test_parameters_are_the_known_number(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in create(name).parameters()) == parameters


@pytest.mark.parametrize(("name", "sides"), [("alexnet_paper", (55, 27, 13, 13, 13)), ("zfnet", (110, 26, 13, 13, 13))])
def test_maps_have_the_sizes_that_the_papers_give(name, sides):
    with torch.device("meta"):
        system = create(name)
    shapes = {layer.path: layer.shape for layer in cost(system).layers}
    for stage, side in enumerate(sides, 1):
        assert shapes[f"stage{stage}.relu"] == (1, system.spec.channels[stage - 1], side, side)
    assert shapes["stage5.pool"] == (1, 256, 6, 6)


def test_order_in_a_stage():
    with torch.device("meta"):
        orders = {
            name: list(dict(create(name).stage1.named_children())) for name in ("alexnet", "alexnet_paper", "zfnet")
        }
    assert orders == {
        "alexnet": ["conv", "relu", "pool"],
        "alexnet_paper": ["conv", "relu", "norm", "pool"],
        "zfnet": ["conv", "relu", "pool", "norm"],
    }


def test_halves_of_the_paper_meet_in_the_third_convolution():
    """A change in the first half of the first maps reaches the first half of the second maps, and all of the third."""
    torch.manual_seed(0)
    system = create("alexnet_paper", response_norm="none", **SMALL)
    x, other = torch.rand(2, 4, 27, 27).split(1)
    other = torch.cat([other[:, :2], x[:, 2:]], 1)
    before, after = system.stage2(x), system.stage2(other)
    assert not torch.equal(before[:, :3], after[:, :3])
    assert torch.equal(before[:, 3:], after[:, 3:])
    before, after = system.stage3.conv(before), system.stage3.conv(after)
    assert ((before - after).abs().amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", 63), ("zfnet", 47), ("alexnet_nano", 7), ("zfnet_nano", 4)])
def test_the_smallest_image(name, smallest):
    check_smallest_image(name, smallest, **({} if name.endswith("nano") else SMALL))


def test_dropout_hides_half_of_each_hidden_layer_in_training_only():
    system = create("alexnet", **SMALL | {"hidden": 400})
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(system(images), system(images))
    hidden = system.train().classifier[:3](torch.rand(3, 6 * 36))
    silent = (hidden == 0).double().mean().item()
    assert 0.6 < silent < 0.9  # a half by dropout, half of the rest by relu
    assert not torch.equal(system(images), system(images))


def test_a_signal_keeps_its_size_and_no_class_is_preferred_at_the_start():
    torch.manual_seed(0)
    system = create("alexnet", hidden=256)
    x = torch.randn(4, 3, 224, 224)
    for number in range(1, 6):
        x = system.get_submodule(f"stage{number}.conv")(x)
        assert 0.5 < x.square().mean().sqrt() < 10  # pooling keeps the largest
        x = system.get_submodule(f"stage{number}")[1:](x)
    assert system(torch.rand(2, 3, 64, 64)).std() < 0.5


@pytest.mark.parametrize("name", ["alexnet", "alexnet_paper", "zfnet"])
def test_every_non_linearity_is_a_module_of_its_own_that_runs_once_and_not_in_place(name):
    system = create(name, **SMALL)
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 64, 64))
    assert list(map(id, runs)) == list(map(id, relus))
    assert len(relus) == 7
    assert not any(relu.inplace for relu in relus)


def test_gradcam_sees_the_map_before_it_is_pooled():
    system = create("alexnet", **SMALL)
    assert gradcam(system, torch.rand(2, 3, 224, 224), "b").shape == (2, 13, 13)


def test_pictures_are_the_first_filters():
    ((images, captions),) = create("alexnet_nano").pictures().values()
    assert images.shape == (16, 3, 5, 5)
    assert len(captions) == 16
    assert images.amin() >= 0
    assert images.amax() <= 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kernels": (3, 3)}, r"kernels must have a value for each of the 5 channels, not \(3, 3\)"),
        ({"channels": ()}, "kernels must have a value for each of the 0 channels"),
        ({"channels": (16, 0, 48, 48, 32)}, "at least 1"),
        ({"hidden": 0}, "at least 1"),
        ({"grid": 0}, "at least 1"),
        ({"padding": (2, 1, 1, 1, 3)}, "padding must be at least 0 and below"),
        ({"groups": (1, 3, 1, 1, 1)}, "3 groups cannot share the 16 and 32 channels of stage 2"),
        ({"pooled": (1, 6)}, "there is no stage 6"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"response_norm": "after"}, "no response_norm 'after'; did you mean after_pool"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("alexnet_nano", **fields)


@pytest.mark.parametrize("name", ["alexnet_nano", "zfnet_nano"])
def test_the_nano_variant_learns_the_digits(name, small_digits):
    assert small_digits(create(name), epochs=6, lr=0.002) > 0.93
