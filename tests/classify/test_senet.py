"""What the parity tests of SENet cannot see: where the excitation stands, its size, settings, learning."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.classify.senet import SEBlock
from foveal.errors import InputError
from foveal.nn.record import record
from tests.classify.learning import accuracy_on_digits


def blocks(system):
    return [module for module in system.modules() if isinstance(module, SEBlock)]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("seresnet18", [8, 8, 8, 8, 16, 16, 32, 32]),
        ("legacy_seresnet18", [4, 4, 8, 8, 16, 16, 32, 32]),
        ("legacy_seresnet50", [16] * 3 + [32] * 4 + [64] * 6 + [128] * 3),
    ],
)
def test_lengths_of_the_squeezed_vectors(name, lengths):
    with torch.device("meta"):
        system = create(name)
    assert [block.excite.fc1.out_channels for block in blocks(system)] == lengths


def test_an_excitation_of_zero_leaves_half_of_each_branch():
    """sigmoid(0) = 1/2, on the branch alone and not on the shortcut."""
    system = create("senet_nano")
    block, x = system.stage2[0], torch.rand(2, 16, 8, 8)
    nn.init.zeros_(block.excite.fc2.weight)
    nn.init.zeros_(block.excite.fc2.bias)
    torch.testing.assert_close(block(x), (block.shortcut(x) + block.branch(x) / 2).relu())


def test_zero_init_residual_starts_each_block_as_its_shortcut():
    system, x = create("senet_nano", zero_init_residual=True), torch.rand(2, 16, 16, 16)
    assert torch.equal(system.stage1[0](x), x)
    assert not torch.equal(create("senet_nano").stage1[0](x), x)


def test_senet154_has_154_layers_less_the_projections_and_excitations():
    with torch.device("meta"):
        system = create("senet154")
    names = [name for name, module in system.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    # 3 in the stem, 3 in each of 50 blocks, the classifier.
    assert len([name for name in names if "shortcut" not in name and "excite" not in name]) == 154


@pytest.mark.parametrize("name", ["senet_nano", "legacy_seresnet18", "seresnet18"])
def test_each_relu_runs_once_and_not_in_place(name):
    system = create(name)
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 32, 32))
    assert sorted(map(id, runs)) == sorted(map(id, relus))
    assert not any(relu.inplace for relu in relus)


def test_the_explained_layer_is_what_the_classifier_averages():
    system = create("senet_nano")
    with record(system, system.explained_layer) as outputs:
        scores = system(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(system.classifier(outputs["stage3"].mean((2, 3))), scores)


@pytest.mark.parametrize(("name", "count"), [("senet154", 64), ("legacy_senet154", 64), ("senet_nano", 16)])
def test_pictures_are_the_first_filters(name, count):
    fields = {} if name == "senet_nano" else {"depths": (1,)}
    ((images, _),) = create(name, **fields).pictures().values()
    assert images.shape == (count, 3, 3, 3)


def test_the_smallest_image_of_a_caffe_network():
    system = create("legacy_seresnet18", image_size=3)
    assert system(torch.rand(1, 3, 3, 3)).isfinite().all()
    assert create("seresnet18")(torch.rand(1, 3, 1, 1)).isfinite().all()
    with pytest.raises(InputError, match="3 pixels or more, not 2 x 3"):
        system(torch.rand(1, 3, 2, 3))
    with pytest.raises(InputError, match="3 pixels or more, not 2 x 2"):
        create("legacy_seresnet18", image_size=2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reduction": 0}, "reduction must be at least 1"),
        ({"preactivation": True}, "without preactivation"),
        ({"deep": True}, "deep is for bottleneck blocks"),
        ({"deep": True, "block": "bottleneck"}, "deep is for bottleneck blocks, the 7x7 stem"),
        ({"deep": True, "block": "bottleneck", "stem": "7x7", "stride_in_1x1": True}, "does not go with it"),
        ({"depths": ()}, "at least one block"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("senet_nano", **fields)


def test_the_nano_variant_learns_the_digits():
    assert accuracy_on_digits("senet_nano", epochs=6) > 0.95
