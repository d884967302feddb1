"""What the parity tests of VGG cannot see: layers, sizes, initialisation, weights that are refused, settings."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.cost import cost
from foveal.errors import InputError
from foveal.explain.gradcam import gradcam

SMALL = {"labels": ("a", "b", "c"), "widths": (2, 3, 4, 5, 6), "hidden": 5}


@pytest.mark.parametrize("layers", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", ["", "_bn"])
def test_the_number_in_a_name_counts_the_layers_with_weights(layers, norm):
    system = create(f"vgg{layers}{norm}", **SMALL)
    weighted = [m for m in system.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers
    assert sum(isinstance(m, nn.BatchNorm2d) for m in system.modules()) == (layers - 3 if norm else 0)
    assert all(m.bias is not None for m in weighted)


def test_two_convolutions_see_5x5_pixels_and_three_7x7():
    layers = {layer.path: layer for layer in cost(create("vgg16", **SMALL)).layers}
    assert layers["stage1.conv2"].receptive_field == (5, 5)
    # From stage3 on, where a step is of four pixels and one unit sees 16 by the pooling before it.
    assert layers["stage2.pool"].receptive_field == (16, 16)
    assert layers["stage3.conv3"].receptive_field == (16 + 4 * (7 - 1),) * 2
    assert layers["stage5.pool"].shape == (1, 6, 7, 7)
    assert layers["stage5.pool"].receptive_field == (212, 212)  # known of VGG-16


def test_the_smallest_image():
    system = create("vgg11", image_size=32, **SMALL)
    assert system(torch.rand(1, 3, 32, 70)).isfinite().all()
    with pytest.raises(InputError, match=r"^vgg11 takes images of 32 x 32 pixels or more, not 40 x 31; image_size"):
        system(torch.rand(1, 3, 40, 31))
    with pytest.raises(InputError, match="takes images of 32 x 32 pixels or more, not 31 x 31"):
        create("vgg11", image_size=31, **SMALL)


def test_a_signal_passes_nineteen_layers_at_the_start():
    torch.manual_seed(0)
    system = create("vgg19", labels=("a", "b"), widths=(16, 32, 32, 64, 64), hidden=64)
    x = torch.randn(2, 3, 64, 64)
    for stage in range(1, 6):
        x = system.get_submodule(f"stage{stage}")(x)
        assert 0.3 < x.square().mean().sqrt() < 30
    assert system(torch.rand(2, 3, 64, 64)).std() < 2


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_every_non_linearity_is_a_module_of_its_own_that_runs_once_and_not_in_place(name):
    system = create(name, **SMALL)
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 32, 32))
    assert list(map(id, runs)) == list(map(id, relus))
    assert len(relus) == 15
    assert not any(relu.inplace for relu in relus)


@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn"])
def test_gradcam_sees_the_map_before_it_is_pooled(name):
    assert gradcam(create(name, **SMALL), torch.rand(2, 3, 64, 96), "b").shape == (2, 4, 6)


def test_pictures_are_the_first_filters():
    ((images, captions),) = create("vgg_nano").pictures().values()
    assert images.shape == (16, 3, 3, 3)
    assert len(captions) == 16


def test_the_trunk_of_a_detector_is_refused(tmp_path):
    """torchvision's VGG16_Weights.IMAGENET1K_FEATURES."""
    models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))
    layers = models.vgg.make_layers([4, "M", 8, "M"])
    state = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    sizes = {"0": (5, 8 * 49), "3": (5, 5), "6": (3, 5)}
    for number, (rows, columns) in sizes.items():
        state |= {f"classifier.{number}.weight": torch.full((rows, columns), torch.nan)}
        state |= {f"classifier.{number}.bias": torch.full((rows,), torch.nan)}
    fields = {"labels": ("a", "b", "c"), "depths": (1, 1), "widths": (4, 8), "hidden": 5}
    save_file(state, tmp_path / "trunk.safetensors")
    with pytest.raises(InputError, match=r"fully connected layers are not numbers.* another normalisation$"):
        create("vgg16", weights=tmp_path / "trunk.safetensors", **fields)
    save_file({name: tensor.nan_to_num(0.5) for name, tensor in state.items()}, tmp_path / "whole.safetensors")
    system = create("vgg16", weights=tmp_path / "whole.safetensors", **fields)
    assert torch.equal(system.stage2.conv1.weight, layers[3].weight)


@pytest.mark.parametrize(("name", "other"), [("vgg13", "vgg16"), ("vgg16", "vgg16_bn"), ("vgg16_bn", "vgg16")])
def test_weights_of_another_variant_are_refused(name, other, tmp_path):
    save_file(create(other, **SMALL).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"missing: .*norm|left over: .*(norm|conv)"):
        create(name, weights=tmp_path / "weights.safetensors", **SMALL)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depths": ()}, "a number for each stage"),
        ({"depths": (1, 1)}, "a number for each stage"),
        ({"depths": (1, 0, 1)}, "at least 1"),
        ({"hidden": 0}, "at least 1"),
        ({"grid": 0}, "at least 1"),
        ({"dropout": -0.1}, "dropout must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("vgg_nano", **fields)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("vgg_nano"), epochs=6, lr=0.002) > 0.93
