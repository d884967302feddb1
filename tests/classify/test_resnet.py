"""What the parity tests of ResNet cannot see: parameter-free shortcuts, regularisers, initialisation, settings."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.classify.resnet import Block, PaddedIdentity, PreactivationBlock
from foveal.errors import InputError
from foveal.nn.stochastic_depth import StochasticDepth


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet20_cifar", 269_722), ("resnet56_cifar", 853_018), ("resnet110_cifar", 1_727_962)]
)
def test_cifar_networks_have_the_known_number_of_parameters(name, parameters):
    system = create(name)
    assert sum(p.numel() for p in system.parameters()) == parameters
    layers = [m for m in system.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("resnet").removesuffix("_cifar"))


@pytest.mark.parametrize(("extra", "stride"), [(16, 2), (3, 2), (4, 1)])
def test_padded_identity_is_the_input_at_every_other_pixel(extra, stride):
    x = torch.randn(2, 5, 7, 8)
    expected = torch.zeros(2, 5 + extra, len(range(0, 7, stride)), len(range(0, 8, stride)))
    for c in range(5):
        for i, row in enumerate(range(0, 7, stride)):
            for j, column in enumerate(range(0, 8, stride)):
                expected[:, extra // 2 + c, i, j] = x[:, c, row, column]
    assert torch.equal(PaddedIdentity(extra, stride)(x), expected)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", ["projection", "identity"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_with_zeroed_branches_only_the_shortcuts_are_left(preactivation, shortcut, block):
    fields = {"preactivation": preactivation, "shortcut": shortcut, "block": block, "depths": (2, 1), "width": 16}
    torch.manual_seed(0)
    system = create("resnet_nano", zero_init_residual=True, **fields)
    torch.manual_seed(0)
    ordinary = create("resnet_nano", **fields)
    images = torch.rand(2, 3, 16, 16)
    blocks = [m for m in system.modules() if isinstance(m, Block | PreactivationBlock)]
    x = system.stem(system.normalize(images))
    for module in blocks:
        a = module.activate(x) if preactivation and isinstance(module.shortcut, nn.Sequential) else x
        x = module.shortcut(a)
        x = x if preactivation else x.relu()
    expected = system.classifier(system.activate(x).mean((2, 3)))
    torch.testing.assert_close(system(images), expected)
    assert not torch.allclose(ordinary(images), expected)


@pytest.mark.parametrize("name", ["resnet_nano", "resnetv2_18"])
def test_drop_probability_grows_linearly_with_depth(name):
    system = create(name, labels=("a", "b"), width=16, depths=(1, 2, 1), stochastic_depth=0.4)
    drops = [m.probability for m in system.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_stochastic_depth_leaves_out_whole_branches_in_training_only():
    system = create("resnet_nano", stochastic_depth=0.5)
    block, x = system.stage3[0], torch.randn(64, 32, 8, 8)
    torch.manual_seed(1)
    block.train()
    shortcut = block.shortcut(x).relu()
    left_out = (block(x) - shortcut).flatten(1).abs().amax(1) == 0
    assert 10 < left_out.sum() < 54
    block.eval()
    assert ((block(x) - block.shortcut(x).relu()).flatten(1).abs().amax(1) > 0).all()


def test_dropout_acts_before_the_classifier_in_training_only():
    system = create("resnet_nano", dropout=0.5)
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(system(images), system(images))
    system.dropout.train()
    assert not torch.equal(system(images), system(images))


def test_convolutions_start_with_the_variance_that_keeps_gradients():
    system = create("resnet18")
    for module in system.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["resnet_nano", "resnetv2_50"])
def test_every_non_linearity_is_a_module_of_its_own_that_runs_once_and_not_in_place(name):
    system = create(name, labels=("a", "b"))
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 32, 32))
    assert sorted(map(id, runs)) == sorted(map(id, relus))
    assert not any(relu.inplace for relu in relus)


def test_pictures_are_the_first_filters():
    system = create("resnet_nano")
    ((images, captions),) = system.pictures().values()
    assert images.shape == (16, 3, 3, 3)
    assert len(captions) == 16
    assert images.amin() >= 0
    assert images.amax() <= 1
    weight = system.stem.conv.weight.detach()
    assert torch.equal((images - 0.5).sign(), weight.sign())
    torch.testing.assert_close((images - 0.5).abs().amax((1, 2, 3)), torch.full((16,), 0.5))


@pytest.mark.parametrize(
    "fields",
    [
        {"depths": ()},
        {"depths": (2, 0)},
        {"width": 0},
        {"groups": 2},
        {"width_per_group": 128},
        {"stride_in_1x1": True},
        {"dropout": 1.0},
        {"stochastic_depth": -0.1},
        {"block": "bottleneck", "width": 5, "width_per_group": 4},
    ],
)
def test_settings_that_cannot_be_are_refused(fields):
    with pytest.raises(InputError):
        create("resnet_nano", **fields)


def test_the_nano_variant_learns_the_digits():
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    images, labels = nn.functional.interpolate(images, size=(16, 16), mode="bilinear"), torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1260], order[1260:]
    torch.manual_seed(0)
    system = create("resnet_nano").train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=0.002)
    for _ in range(6):
        for rows in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(system(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (system.eval()(images[test]).argmax(1) == labels[test]).double().mean().item()
    assert accuracy > 0.95
