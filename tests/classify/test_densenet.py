"""What the parity tests of DenseNet cannot see: the equation, small images, settings, learning."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.errors import InputError
from foveal.nn.record import record
from tests.classify.learning import accuracy_on_digits


@pytest.mark.parametrize(("name", "parameters"), [("densenet40_cifar", 1_019_722), ("densenet100_bc_cifar", 769_162)])
def test_cifar_networks_have_the_size_that_the_paper_says(name, parameters):
    """Table 2: 1.0M and 0.8M; and the depth in the name, where transitions and classifier count."""
    system = create(name)
    assert sum(p.numel() for p in system.parameters()) == parameters
    layers = [m for m in system.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("densenet").split("_")[0])


@pytest.mark.parametrize("bottleneck", [0, 2])
def test_each_layer_reads_all_before_it(bottleneck):
    """Equation 2, with lists of maps."""
    system = create("densenet_nano", bottleneck=bottleneck, depths=(3,))
    images = torch.rand(2, 3, 16, 16)
    with record(system, "stem", "stage1") as outputs:
        system(images)
    maps = [outputs["stem"]]
    for layer in system.stage1:
        maps.append(layer.branch(torch.cat(maps, 1)))
    assert [m.shape[1] for m in maps] == [16, 12, 12, 12]
    assert torch.equal(torch.cat(maps, 1), outputs["stage1"])


@pytest.mark.parametrize(
    ("name", "least"), [("densenet121", 29), ("densenet40_cifar", 4), ("densenet_nano", 4)]
)  # fmt: skip
def test_the_smallest_image(name, least):
    system = create(name, image_size=least)
    assert system(torch.rand(1, 3, least, least + 3)).isfinite().all()
    said = f"takes images of {least} pixels or more, not {least - 1} x {least}$"
    with pytest.raises(InputError, match=said):
        system(torch.rand(1, 3, least - 1, least))
    with pytest.raises(InputError, match=said):
        create(name, image_size=(least - 1, least))


def test_each_relu_runs_once_and_not_in_place():
    system = create("densenet_nano")
    relus = [m for m in system.modules() if isinstance(m, nn.ReLU)]
    runs = []
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 16, 16))
    assert sorted(map(id, runs)) == sorted(map(id, relus))
    assert not any(relu.inplace for relu in relus)


def test_the_explained_layer_is_what_the_classifier_averages():
    system = create("densenet_nano")
    with record(system, system.explained_layer) as outputs:
        scores = system(torch.rand(2, 3, 16, 16))
    maps = outputs[system.explained_layer]
    assert (maps >= 0).all()
    torch.testing.assert_close(system.classifier(maps.mean((2, 3))), scores)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depths": ()}, "at least one layer"),
        ({"depths": (2, 0)}, "at least one layer"),
        ({"growth": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"bottleneck": -1}, "at least 0"),
        ({"compression": 0.0}, "compression"),
        ({"compression": 1.5}, "compression"),
        ({"compression": 0.05}, "leave a map"),
        ({"dropout": 1.0}, "dropout"),
        ({"stem": "5x5"}, "no stem '5x5'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("densenet_nano", **fields)


def test_the_nano_variant_learns_the_digits():
    assert accuracy_on_digits("densenet_nano", epochs=6) > 0.95
