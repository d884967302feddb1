"""What the parity tests of MobileNet cannot see: tables, equations, shortcuts, settings, learning."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.classify.mobilenet import Block, MobileNet, rounded
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.nn.stochastic_depth import StochasticDepth
from tests.classify.learning import accuracy_on_digits


@pytest.mark.parametrize(
    ("name", "mega"),
    # MACs as the papers print them: table 8 of v1, table 4 of v2, table 3 of v3; parameters likewise.
    [
        ("mobilenetv1_100", (569, 4.2)),
        ("mobilenet_v2", (300, 3.4)),
        ("mobilenet_v3_large", (219, 5.4)),
        ("mobilenet_v3_small", (56, 2.5)),
        ("efficientnet_lite0", (407, 4.7)),
    ],
)
def test_cost_is_about_what_the_papers_say(name, mega):
    from foveal.cost import cost

    found = cost(create(name))
    assert found.macs / 1e6 == pytest.approx(mega[0], rel=0.06)
    assert found.params / 1e6 == pytest.approx(mega[1], rel=0.04)


@pytest.mark.parametrize(
    ("number", "multiple"),
    [(1, 8), (8, 8), (11, 16), (12, 16), (18, 24), (30, 32), (36, 40), (50, 48), (91, 88), (92, 96), (1280, 1280)],
)
def test_numbers_of_maps_are_multiples_of_8_and_no_tenth_below(number, multiple):
    assert rounded(number) == multiple
    assert rounded(number) >= 0.9 * number


def test_v1_is_two_plain_layers():
    system = create("mobilenet_v1_nano")
    block, x = system.stage2[1], torch.rand(2, 64, 4, 4)
    assert block.parts == ("depthwise", "project")
    by_hand = torch.zeros(2, 64, 4, 4)
    for channel in range(64):
        weight = block.depthwise.conv.weight[channel : channel + 1]
        by_hand[:, channel : channel + 1] = nn.functional.conv2d(x[:, channel : channel + 1], weight, padding=1)
    by_hand = block.depthwise.norm(by_hand).clamp(0, 6)
    by_hand = torch.einsum("oc,bchw->bohw", block.project.conv.weight.flatten(1), by_hand)
    torch.testing.assert_close(block(x), block.project.norm(by_hand).clamp(0, 6))


@pytest.mark.parametrize("name", ["mobilenet_v2_nano", "mobilenet_v3_nano"])
def test_a_projection_is_linear_and_a_shortcut_stands_where_shapes_agree(name):
    system = create(name)
    with record(system, *system.blocks) as outputs:
        system(torch.rand(2, 3, 16, 16))
    assert all((output < 0).any() for output in outputs.values())
    shortcuts = [name for name, block in system.blocks.items() if block.shortcut]
    assert shortcuts == [name for name in ("stage1.0", "stage2.1", "stage3.1") if name in system.blocks]
    for block in system.blocks.values():
        nn.init.zeros_(block.project.norm.weight)
    x = torch.rand(2, 32, 4, 4)
    assert torch.equal(system.stage3[1](x), x)


def test_parts_of_the_blocks_of_v3():
    system = create("mobilenet_v3_small")
    excited = [name for name, block in system.blocks.items() if "excite" in block.parts]
    assert excited == [name for name in system.blocks if not name.startswith("stage2")]
    assert [block.parts[0] for block in system.blocks.values()] == ["depthwise"] + ["expand"] * 10
    middles = [block.depthwise.conv.out_channels for block in system.blocks.values()]
    assert middles == [16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576]
    assert isinstance(system.stage2[0].expand.act, nn.ReLU)
    assert isinstance(system.stage3[0].expand.act, nn.Hardswish)


@pytest.mark.parametrize("name", ["mobilenet_v1_nano", "mobilenet_v2_nano", "mobilenet_v3_nano"])
def test_each_non_linearity_runs_once_and_not_in_place(name):
    system = create(name)
    kinds = nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.Hardsigmoid
    modules = [m for m in system.modules() if isinstance(m, kinds)]
    runs = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 16, 16))
    assert sorted(map(id, runs)) == sorted(map(id, modules))
    assert not any(module.inplace for module in modules)


@pytest.mark.parametrize(("name", "layer"), [("mobilenet_v1_nano", "stage2"), ("mobilenet_v3_nano", "head")])
def test_the_explained_layer_is_what_is_averaged(name, layer):
    system = create(name)
    assert system.explained_layer == layer
    with record(system, layer) as outputs:
        scores = system(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(system.classifier(system.hidden(outputs[layer].mean((2, 3)))), scores)


def test_convolutions_start_with_the_variance_that_keeps_gradients():
    torch.manual_seed(0)
    system = create("mobilenet_v2")
    block = system.stage7[0]
    assert block.depthwise.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert block.expand.conv.weight.std().item() == pytest.approx((2 / 960) ** 0.5, rel=0.05)


def test_drop_probability_grows_linearly_with_depth():
    system = create("mobilenet_v2_nano", stochastic_depth=0.5)
    drops = [m.probability for m in system.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_own_rows():
    rows = [(3, 0, 8, 1, 2, False, "relu"), (5, 1, 8, 2, 1, True, "hardswish"), (3, 2.0, 16, 1, 2, False, "relu6")]
    system = create("mobilenet_v1_nano", rows=rows)
    assert isinstance(system, MobileNet)
    assert [name for name, m in system.named_modules() if isinstance(m, Block)] == list(system.blocks)
    assert list(system.blocks) == ["stage1.0", "stage1.1", "stage1.2", "stage2.0"]
    assert system(torch.rand(2, 3, 16, 16)).shape == (2, 10)


ROW = (3, 1, 8, 1, 1, False, "relu")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rows": ()}, "at least one row"),
        ({"rows": ((4, *ROW[1:]),)}, "odd kernel.*not \\(4, 1, 8"),
        ({"rows": ((3, -1, *ROW[2:]),)}, "not \\(3, -1"),
        ({"rows": ((3, 1, 0, *ROW[3:]),)}, "at least 1"),
        ({"rows": ((*ROW[:3], 0, *ROW[4:]),)}, "at least 1"),
        ({"rows": ((*ROW[:6], "tanh"),)}, "one of relu, relu6, hardswish, not 'tanh'"),
        ({"rows": ((3, 1, 8),)}, "seven"),
        ({"stem": 0}, "at least 1"),
        ({"head": -1}, "at least 0"),
        ({"width": 0.0}, "above 0"),
        ({"eps": 0.0}, "above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"norm_momentum": 0.0}, "norm_momentum"),
        ({"stochastic_depth": 1.0}, "drop probability"),
        ({"padding": "valid"}, "no padding 'valid'"),
        ({"activation": "gelu"}, "no activation 'gelu'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("mobilenet_v1_nano", **fields)


@pytest.mark.parametrize("name", ["mobilenet_v1_nano", "mobilenet_v2_nano", "mobilenet_v3_nano"])
def test_the_nano_variants_learn_the_digits(name):
    assert accuracy_on_digits(name, epochs=8, lr=0.005) > 0.93
