"""What parity cannot see of SSDLite: where its maps come from, settings that do not fit, that it learns."""

import pytest
import torch
from safetensors.torch import save_file

from foveal.build import create, load
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.train import checkpoint

from .test_ssd import LABELS, batch_of, objects

# On MobileNet v3, but narrow.
SMALL = {
    "labels": LABELS,
    "backbone": "mobilenet_v3_nano",
    "strides": (2, 4),
    "maps": ("stage3.0.expand", "head"),
    "extra": ((4, 8, 3, 2, 1),),
    "shapes": (4, 6, 4),
    "scales": (0.2, 0.35, 0.6, 0.9),
    "image_size": 32,
}


def small(**fields):
    torch.manual_seed(0)
    return create("ssdlite320_mobilenet_v3_large", **{**SMALL, **fields})


def test_maps_and_default_boxes_of_the_paper():
    """The expansion of bottleneck 13 of v3 large with 16 pixels a place, and the last convolution with 32."""
    system = create("ssdlite320_mobilenet_v3_large", labels=LABELS)
    first, last = system.spec.maps
    assert list(system.backbone.network.blocks).index(first.removesuffix(".expand")) == 13 - 1
    assert system.backbone.channels == (672, 480)
    layers = [f"backbone.network.{name}" for name in (first, last)]
    layers += [f"extra.{n}.relu3" for n in range(4)]
    with record(system, *layers) as seen, torch.no_grad():
        found = system(torch.rand(1, 3, 320, 320))
    assert [tuple(seen[layer].shape[1:]) for layer in layers] == [
        (672, 20, 20), (480, 10, 10), (512, 5, 5), (256, 3, 3), (256, 2, 2), (128, 1, 1)
    ]  # fmt: skip
    assert found.boxes.shape == (3234, 4)
    # The square of the first place of the first map, and that of the third of three places, which fill the image.
    assert torch.allclose(found.boxes[0], torch.tensor([8.0 - 32, 8.0 - 32, 8 + 32, 8 + 32]))
    centre, half = 320 * 5 / 6, 320 * 0.65 / 2
    last = (400 + 100 + 25 + 8) * 6
    assert torch.allclose(found.boxes[last], torch.tensor([centre - half] * 2 + [centre + half] * 2))


def test_on_v2_the_first_map_is_the_expansion_of_layer_15():
    """Of which the first is the stem; section 6.2 of the paper."""
    backbone = create("mobilenet_v2", width=0.25)
    system = small(backbone=backbone, strides=(16, 32), maps=("stage6.0.expand", "head"))
    assert list(system.backbone.network.blocks).index("stage6.0") == 15 - 2
    assert system.backbone.channels == (24 * 6, 1280)


@pytest.mark.parametrize(
    ("fields", "layer"),
    [
        ({"backbone": "resnet_nano", "maps": ()}, "last"),
        ({"backbone": "vgg_nano", "maps": ()}, "backbone.network.stage2.relu2"),
        ({"backbone": "vgg_nano", "maps": ("stage2.relu2", "stage3.relu2")}, "last"),
        ({}, "last"),
    ],
)
def test_on_any_backbone_a_checkpoint_rebuilds_it(fields, layer, tmp_path):
    system = small(**fields)
    assert system.explained_layer == layer
    checkpoint.save(tmp_path / "lite.safetensors", checkpoint.describe(system), system.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(system(images).scores, load(tmp_path / "lite.safetensors")(images).scores)


def test_weights_of_the_classifier_go_into_the_backbone(tmp_path):
    classifier = create("mobilenet_v3_nano")
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    system = small(weights=tmp_path / "classifier.safetensors")
    own = system.backbone.network.state_dict()
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in own.items())
    assert set(classifier.state_dict()) - set(own) == {
        "hidden.linear.weight", "hidden.linear.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    assert "for its backbone mobilenet_v3_nano" in system.started_from


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"strides": (4, 8)}, "maps stage3.0.expand, head of mobilenet_v3_nano have strides 2, 4, not 4, 8"),
        ({"backbone": "mobilenet_v1_nano"}, "MobileNet has no module 'stage3.0.expand'"),
        ({"backbone": "resnet_nano", "maps": (), "strides": (16, 32)}, "resnet_nano has maps with strides"),
    ],
)
def test_settings_that_do_not_fit(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        small(**fields)


def test_it_overfits():
    system = small().train()
    targets = objects((0, 2.0, 3, 20, 21), (2, 10, 10, 31, 30)), objects((1, 0.0, 5, 12, 17))
    batch = batch_of(system, *targets)
    optimizer = torch.optim.Adam(system.parameters(), 0.01)
    totals = []
    for _ in range(60):
        optimizer.zero_grad()
        total = sum(system.loss(batch).values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.05 * totals[0]
