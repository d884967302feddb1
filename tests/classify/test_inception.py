"""What the parity tests of Inception v3 cannot see: the costs, small maps, files, settings."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.cost import cost
from foveal.errors import InputError
from foveal.structures import Batch, Label

from .learning import check_smallest_image, own_loss

SMALL = {"labels": ("a", "b", "c"), "width": 2}


def batch_of(images):
    count = len(images)
    targets = tuple(Label(torch.tensor(i % 3)) for i in range(count))
    return Batch(images, targets, torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


def test_costs_and_shapes_are_the_known_ones():
    """Parameters and 5.713 billion multiply-accumulates as torchvision publishes them; the maps."""
    with torch.device("meta"):
        found = cost(create("inception_v3"))
        bare, fid = create("inception_v3", auxiliary=False), create("inception_v3_fid")
    assert found.params == 27_161_264
    assert round(found.macs / 1e9, 3) == 5.713
    auxiliary = 768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 768 * 1000 + 1000
    assert sum(p.numel() for p in bare.parameters()) == 27_161_264 - auxiliary
    assert sum(p.numel() for p in fid.parameters()) == 27_161_264 - auxiliary + 8 * (2048 + 1)  # 1008 classes
    shapes = {layer.path: layer.shape[1:] for layer in found.layers if layer.shape}
    assert shapes["stem.unit1.relu"] == (32, 149, 149)
    assert shapes["stem.unit3.relu"] == (64, 147, 147)
    assert shapes["stem.pool1"] == (64, 73, 73)
    assert shapes["stem.unit5.relu"] == (192, 71, 71)
    for last, channels, side in (("stage1.d", 288, 35), ("stage2.e", 768, 17), ("stage3.c", 2048, 8)):
        assert shapes[last] == (channels, side, side)


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_adds_the_auxiliary_classifier_in_both_modes(training):
    torch.manual_seed(0)
    system = create("inception_v3", image_size=96, dropout=0.0, **SMALL).train(training)
    batch = batch_of(torch.rand(4, 3, 96, 96))
    truth = torch.stack([target.label for target in batch.targets])
    losses = system.loss(batch)
    middle = system.stage2(system.stage1(system.stem(system.normalize(batch.images))))
    assert middle.shape[2:] == (4, 4)  # too small for the paper's windows
    expected = {
        "class": nn.functional.cross_entropy(system(batch.images), truth),
        "auxiliary": 0.4 * nn.functional.cross_entropy(system.auxiliary(middle), truth),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert create("inception_v3", image_size=96, auxiliary=False, **SMALL).loss(batch).keys() == {"class"}
    for parameter in system.auxiliary.parameters():
        parameter.data.fill_(torch.nan)
    assert system(batch.images).isfinite().all()


def test_averages_at_the_border_of_a_map():
    """Of ones: those that count the zeros around a map find less at its border; the last module of one takes maxima."""
    x = torch.ones(1, 1, 3, 3)
    counting, not_counting = create("inception_v3", **SMALL), create("inception_v3_fid", **SMALL)
    corner = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    for system, expected in ((counting, corner), (not_counting, torch.ones(3, 3))):
        pools = [pool for pool in system.modules() if isinstance(pool, nn.AvgPool2d)]
        assert len(pools) == (9 if system is counting else 8)
        for pool in pools:
            torch.testing.assert_close(pool(x)[0, 0], expected)
    assert isinstance(not_counting.stage3.c.branches[3].pool, nn.MaxPool2d)
    assert isinstance(not_counting.stage3.b.branches[3].pool, nn.AvgPool2d)


def test_weights_with_and_without_the_auxiliary_classifier(tmp_path):
    whole = tmp_path / "whole.safetensors"
    system = create("inception_v3", **SMALL)
    save_file(system.state_dict(), whole)
    without = create("inception_v3", weights=whole, auxiliary=False, **SMALL)
    images = torch.rand(2, 3, 80, 80)
    assert torch.equal(without(images), system(images))
    said = "it has no auxiliary classifiers; create it with auxiliary=False"
    assert system.misfit(without.state_dict()) == said
    assert system.misfit(system.state_dict()) is None


@pytest.mark.parametrize(
    ("name", "smallest"), [("inception_v3", 75), ("inception_v3_fid", 75), ("inception_v3_nano", 7)]
)
def test_the_smallest_image(name, smallest):
    check_smallest_image(name, smallest, **SMALL)


def test_every_non_linearity_is_a_module_of_its_own_that_runs_once_and_not_in_place():
    system = create("inception_v3", image_size=75, **SMALL)
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system.loss(batch_of(torch.rand(2, 3, 75, 75)))
    assert sorted(map(id, runs)) == sorted(map(id, relus))
    assert len(relus) == 94 + 2
    assert not any(relu.inplace for relu in relus)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 0}, "width must be an even number, not 0"),
        ({"width": 5}, "width must be an even number, not 5"),
        ({"depths": (0, 3, 1)}, "depths must be"),
        ({"depths": (1, 5, 1)}, "depths must be"),
        ({"depths": (1, 1)}, "depths must be"),
        ({"dropout": 1.0}, "^dropout must be"),
        ({"auxiliary_weight": -0.3}, "auxiliary_weight must be"),
        ({"last_pool": "min"}, "no last_pool 'min'"),
        ({"stem": "5x5"}, "no stem '5x5'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("inception_v3_nano", **fields)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("inception_v3_nano"), epochs=4, lr=0.003, objective=own_loss) > 0.9
