"""How weights begin: the deviations, where they act, and what each of them does to a deep network."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import foveal
from foveal.classify.resnet import Block, PreactivationBlock
from foveal.errors import InputError
from foveal.nn.init import Init, initialise, inputs, uninitialised
from foveal.train import checkpoint

LAYERS: dict[str, tuple[nn.Module, float]] = {  # a layer, and the inputs of one output
    "linear": (nn.Linear(300, 200), 300),
    "convolution": (nn.Conv2d(40, 60, 5), 25 * 40),
    "grouped": (nn.Conv2d(80, 120, 3, groups=4), 9 * 20),
    "depthwise": (nn.Conv2d(600, 600, 5, groups=600), 25),
    "transposed": (nn.ConvTranspose2d(60, 40, 4, stride=2), 60 * 16 / 4),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_inputs_of_an_output(layer: str) -> None:
    """Counted as what ones become: each output of weights of one is the number of its inputs."""
    module, expected = LAYERS[layer]
    assert inputs(module) == expected
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    ones = torch.ones(1, 300) if layer == "linear" else torch.ones(1, module.in_channels, 20, 20)
    y = module(ones)
    inside = y if layer == "linear" else y[..., 6:-6, 6:-6]  # no border
    assert inside.amin().item() == inside.amax().item() == expected


@pytest.mark.parametrize("how", get_args(Init))
@pytest.mark.parametrize("layer", LAYERS)
def test_deviations(layer: str, how: Init) -> None:
    torch.manual_seed(0)
    module, count = LAYERS[layer]
    module.bias.data.fill_(7)
    initialise(module, how)
    expected = {"zero": 0, "small": 0.01, "large": 1, "xavier": 1 / math.sqrt(count), "kaiming": math.sqrt(2 / count)}
    assert module.weight.std().item() == pytest.approx(expected[how], rel=0.05)
    assert abs(module.weight.mean().item()) <= 5 * expected[how] / math.sqrt(module.weight.numel())
    assert not module.bias.any()
    if how != "zero":  # a normal distribution, of which 4.6 % lies beyond two deviations
        assert (module.weight.abs() > 2 * expected[how]).double().mean().item() == pytest.approx(0.0455, abs=0.008)


def test_only_convolutions_and_linear_layers_begin_anew() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Embedding(5, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    initialise(net, "zero")
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias", "4.weight", "4.bias"}


def stack(activation: type[nn.Module], how: Init, depth: int = 12, width: int = 256) -> tuple[list[float], list[float]]:
    """The root mean square of what each layer of a deep network gives, and of the gradient that comes back to it."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(depth)]
    initialise(nn.ModuleList(layers), how)
    x, seen = torch.randn(512, width), []
    for layer in layers:
        x = activation()(layer(x))
        x.requires_grad_() if x.is_leaf else x.retain_grad()
        seen.append(x)
    x.backward(torch.randn_like(x))
    return [y.square().mean().sqrt().item() for y in seen], [y.grad.square().mean().sqrt().item() for y in seen]


def test_what_the_text_says_of_each() -> None:
    # zero: nothing passes, in either direction.
    values, gradients = stack(nn.Tanh, "zero")
    assert max(values) == 0
    assert max(gradients[:-1]) == 0
    # small: by 0.01 * 256 ** 0.5 = 0.16 a layer, activations fade to nothing, and gradients with them.
    values, gradients = stack(nn.Tanh, "small")
    assert values[-1] / values[-2] == pytest.approx(0.16, rel=0.1)
    assert values[-1] < 1e-8
    assert gradients[0] < 1e-8
    # large: tanh saturates at -1 and 1.
    values, gradients = stack(nn.Tanh, "large")
    assert min(values) > 0.95
    # xavier: tanh takes a little of the variance in each layer, no more.
    values, gradients = stack(nn.Tanh, "xavier")
    assert 0.2 < values[-1] < values[0] < 0.7
    assert 0.1 < gradients[0] < 1
    # relu halves the mean square in each layer, and kaiming doubles it again.
    values, gradients = stack(nn.ReLU, "xavier")
    assert values[-1] == pytest.approx(2**-6, rel=0.4)
    values, gradients = stack(nn.ReLU, "kaiming")
    assert values[-1] == pytest.approx(1, rel=0.4)
    assert gradients[0] == pytest.approx(1, rel=0.4)


def test_zero_gives_all_units_the_same_gradient() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))
    initialise(net, "zero")
    net(torch.randn(8, 5)).square().sum().backward()
    assert net[2].weight.grad.std(1).max() < 1e-6  # every hidden unit says the same
    net[2].weight.data.fill_(0.5)
    net.zero_grad()
    (net(torch.randn(8, 5)) - 3).square().sum().backward()
    assert net[0].weight.grad.abs().max() > 0
    assert net[0].weight.grad.std(0).max() < 1e-6  # and hears the same


@pytest.mark.parametrize("how", get_args(Init))
def test_a_system_begins_by_it(how: Init, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = foveal.create("resnet_nano", init=how)
    conv = system.stage3[0].branch.conv2
    expected = {"zero": 0, "small": 0.01, "large": 1, "xavier": 1 / math.sqrt(576), "kaiming": math.sqrt(2 / 576)}
    assert conv.weight.std().item() == pytest.approx(expected[how], rel=0.05)
    assert torch.equal(system.stage1[0].branch.norm1.weight, torch.ones(16))
    # A checkpoint says how its weights began and brings them along.
    checkpoint.save(tmp_path / "a.safetensors", checkpoint.describe(system), system.state_dict())
    loaded = foveal.load(tmp_path / "a.safetensors")
    assert loaded.variant["init"] == how
    assert torch.equal(loaded.stage3[0].branch.conv2.weight, conv.weight)


@pytest.mark.parametrize("fields", [{}, {"preactivation": True}])
def test_branches_that_begin_as_zero_stay_so(fields: dict[str, Any]) -> None:
    system = foveal.create("resnet_nano", zero_init_residual=True, init="kaiming", **fields)
    for block in system.modules():
        if isinstance(block, Block | PreactivationBlock):
            assert not block.branch[-1].weight.any()
            assert block.branch.conv1.weight.std() > 0


def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no init 'kaimng'; did you mean kaiming"):
        foveal.create("resnet_nano", init="kaimng")
    system = foveal.create("resnet_nano")
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    with pytest.raises(InputError, match="init has no effect on weights that are loaded"):
        foveal.create("resnet_nano", weights=path, init="kaiming")
    with pytest.raises(InputError, match="init has no effect: ReLU has neither"):
        initialise(nn.ReLU(), "zero")


def test_what_is_built_for_a_file_draws_only_what_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejection sampling has to draw, for in memory that holds large numbers it would otherwise never end."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, 9.0))
    with uninitialised():
        for fill in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            assert fill(torch.arange(600.0).view(20, 30)).equal(torch.arange(600.0).view(20, 30))
        assert nn.init.kaiming_normal_(torch.empty(20, 30)).eq(0).all()
        assert nn.init.trunc_normal_(torch.full((20, 30), 9.0), std=0.02).abs().max() < 2


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    system = foveal.create("vit_nano")
    checkpoint.save(tmp_path / "s.safetensors", checkpoint.describe(system), system.state_dict())
    before = torch.get_rng_state()
    foveal.load(tmp_path / "s.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
