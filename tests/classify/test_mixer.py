"""What the parity tests of Mixer cannot see: its figures, maps, regularisers, refused settings and weights."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.cost import cost
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.nn.stochastic_depth import StochasticDepth

SMALL = {"labels": ("a", "b", "c"), "width": 24, "depth": 2, "token_hidden": 7, "channel_hidden": 10, "patch": 4}


@pytest.fixture
def system():
    torch.manual_seed(0)
    system = create("mixer_nano", image_size=(8, 12), **SMALL)  # 2 x 3 patches
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return system


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [("mixer_s32_224", 19_104_624, 1.0), ("mixer_b16_224", 59_880_472, 12.62), ("mixer_l16_224", 208_196_168, 44.6)],
)
def test_figures_that_timm_publishes(name, params, gmacs):
    with torch.device("meta"):
        found = cost(create(name))
    assert found.params == params
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_equation_1_channel_by_channel_and_token_by_token(system):
    block, x = system.blocks[0], torch.randn(1, 6, 24)
    gelu = nn.GELU()
    first, second = block.mlp_tokens.fc1, block.mlp_tokens.fc2
    between, normed = x.clone(), block.norm1(x)
    for c in range(24):
        between[0, :, c] += second.weight @ gelu(first.weight @ normed[0, :, c] + first.bias) + second.bias
    first, second = block.mlp_channels.fc1, block.mlp_channels.fc2
    expected, normed = between.clone(), block.norm2(between)
    for t in range(6):
        expected[0, t] += second.weight @ gelu(first.weight @ normed[0, t] + first.bias) + second.bias
    torch.testing.assert_close(block(x), expected)


def test_the_last_bias_along_the_tokens_has_no_effect(system):
    images = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    before = system.double()(images)
    for block in system.blocks:
        nn.init.normal_(block.mlp_tokens.fc2.bias)
    torch.testing.assert_close(system(images), before)
    nn.init.normal_(block.mlp_tokens.fc1.bias)
    assert not torch.allclose(system(images), before, rtol=1e-3)


def test_tokens_as_a_map_lie_where_their_patches_are(system):
    with record(system, "patch_embedding", "blocks.0.norm1", system.explained_layer) as outputs:
        scores = system(torch.rand(2, 3, 8, 12))
    features = outputs["patch_embedding"]
    assert system.as_map(features) is features
    normed = system.blocks[0].norm1(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(system.as_map(outputs["blocks.0.norm1"]), normed)
    explained = system.as_map(outputs[system.explained_layer])
    assert explained.shape == (2, 24, 2, 3)
    torch.testing.assert_close(system.classifier(explained.mean((2, 3))), scores)


@pytest.mark.parametrize("shape", [(2, 24), (2, 5, 24), (2, 24, 6)])
def test_what_is_no_map_is_told(system, shape):
    with pytest.raises(
        InputError, match=rf"mixer_nano cannot lay .* of shape {re.escape(str(shape))} out on the image"
    ):
        system.as_map(torch.zeros(shape))


def test_each_gelu_runs_once(system):
    gelus = [m for m in system.modules() if isinstance(m, nn.GELU)]
    runs = []
    for gelu in gelus:
        gelu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 8, 12))
    assert list(map(id, runs)) == list(map(id, gelus))
    assert len(gelus) == 4


def test_drop_probability_grows_linearly_with_depth():
    system = create("mixer_nano", depth=4, stochastic_depth=0.4)
    drops = [m.probability for m in system.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_size": 18}, "18 x 18 pixels cannot be cut .* 4 x 4; set image_size to 16 x 16 or 20 x 20$"),
        ({"patch": 0}, "at least 1"),
        ({"token_hidden": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"stochastic_depth": 1.0}, "drop probability"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("mixer_nano", **fields)


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"mixer_nano takes images of 16 x 16 pixels, not 20 x 16; .*image_size="):
        create("mixer_nano")(torch.rand(1, 3, 20, 16))


def test_weights_for_images_of_another_size_are_refused_with_the_size_to_use(tmp_path):
    file = tmp_path / "weights.safetensors"
    state = create("mixer_nano", image_size=24, **SMALL).state_dict()
    save_file(state, file)
    said = "it mixes the tokens of 6 x 6 patches, the system those of 2 x 3; create it with image_size=24$"
    with pytest.raises(InputError, match=said):
        create("mixer_nano", image_size=(8, 12), weights=file, **SMALL)
    create("mixer_nano", image_size=24, weights=file, **SMALL)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("mixer_nano"), epochs=4, lr=0.004) > 0.85
