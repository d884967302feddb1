"""Each family of detectors on backbones of other kinds than its own."""

from typing import Any

import pytest
import torch

import foveal
from foveal.classify.backbone import Backbone
from foveal.nn.record import record
from foveal.train import checkpoint
from tests.detect.test_faster_rcnn import batch_of, objects

NANO = [name for name in foveal.names("detect") if name.endswith("_nano")]
# Narrow ones with all strides that the small detectors look at; Swin's maps end with tokens on a grid.
KINDS = {
    "densenet121": {"depths": (1, 1, 2, 1), "growth": 4, "width": 8},
    "mobilenet_v3_large": {"width": 0.25},
    "swin_t": {"width": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NANO)
def test_a_detector_on_another_backbone(name, kind):
    torch.manual_seed(0)
    few = {"regions": 8} if name == "rcnn_nano" else {"windows": (46.0,)} if name == "sliding_window_nano" else {}
    system = foveal.create(name, backbone=foveal.create(kind, **KINDS[kind]), labels=("a", "b"), **few)
    batch = batch_of(system, objects([[10, 10, 60, 60]]), objects([]))
    sum(system.loss(batch).values()).backward()
    gradients = [p.grad for p in system.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    (found,) = system.predict([torch.rand(3, 70, 96)])
    assert found.boxes.isfinite().all()


def test_maps_by_name():
    torch.manual_seed(0)
    network = foveal.create("mobilenet_v3_large", width=0.25)
    images = torch.rand(2, 3, 64, 96)
    names = ["stage4.0", "stage6.0.depthwise", "stage6.0", "head"]
    with record(network, *names) as wanted, torch.no_grad():
        network(images)
    backbone = Backbone(network, (16, 32, 32, 32), names=names)
    assert backbone.removed == ("hidden", "classifier")
    assert backbone.channels == tuple(wanted[name].shape[1] for name in names)
    with torch.no_grad():
        x = network.normalize(images)
        for count in (1, 3, 4):
            found = backbone(x, count)
            assert len(found) == count
            assert all(torch.equal(each, wanted[name]) for name, each in zip(names, found, strict=False))


def test_what_follows_the_last_named_map_is_removed():
    backbone = Backbone(foveal.create("mobilenet_v3_large", width=0.25), (8,), names=["stage3.1"])
    assert backbone.removed == ("stage4", "stage5", "stage6", "head", "hidden", "classifier")
    assert [x.shape[2:] for x in backbone(torch.rand(1, 3, 64, 96))] == [(8, 12)]


@pytest.mark.parametrize(
    ("strides", "maps", "text"),
    [
        ((4, 8), ("stage3.0", "head"), "maps stage3.0, head of mobilenet_v3_nano have strides 4, 4, not 4, 8"),
        ((4, 4), ("stage3.0", "haed"), "no module 'haed'; did you mean head"),
        ((4, 4), ("stage3.0", "hidden"), "does not make maps stage3.0, hidden"),
        ((4, 4), (), "told apart by their names"),
    ],
)
def test_maps_that_a_backbone_does_not_have(strides, maps, text):
    with pytest.raises(foveal.InputError, match=text):
        Backbone(foveal.create("mobilenet_v3_nano"), strides, names=maps)


# Those that have one map, or the second of two, with four pixels a place; and what each detector needs for one alone.
PLAIN = ("vit_nano", "deit_nano", "mixer_nano", "lenet")
ONE: dict[str, dict[str, Any]] = {
    "fast_rcnn_nano": {},
    "rcnn_nano": {"regions": 8},
    "sliding_window_nano": {"windows": (46.0,)},
    "detr_nano": {},
    "faster_rcnn_nano": {"anchors": ((8,), (16,))},
    "rpn_nano": {"anchors": ((8,), (16,))},
    "fcos_nano": {"steps": (4,)},
    "retinanet_nano": {"sizes": ((8.0, 12.0),)},
    "ssd_nano": {"shapes": (4, 4), "scales": (0.3, 0.5, 0.8)},
}


@pytest.mark.parametrize("backbone", PLAIN)
@pytest.mark.parametrize("name", NANO)
def test_a_detector_on_one_map(name, backbone, tmp_path):
    torch.manual_seed(0)
    labels = {} if name == "rpn_nano" else {"labels": ("a", "b")}
    system = foveal.create(name, backbone=backbone, strides=(4,), image_size=32, **labels, **ONE[name])
    batch = batch_of(system, objects([[2, 2, 20, 24]]), objects([]))
    sum(system.loss(batch).values()).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in system.backbone.parameters())
    (found,) = system.predict([torch.rand(3, 40, 32)])
    assert found.boxes.isfinite().all()
    checkpoint.save(tmp_path / "it.safetensors", checkpoint.describe(system), system.state_dict())
    again = foveal.load(tmp_path / "it.safetensors").predict([torch.rand(3, 40, 32)])[0]
    assert again.boxes.isfinite().all()


def test_the_one_map_is_what_the_last_block_tells_of_each_patch():
    network = foveal.create("vit_nano", image_size=(16, 24))
    images = torch.rand(2, 3, 16, 24)
    with record(network, "blocks.2") as wanted, torch.no_grad():
        network(images)
        (found,) = network.maps(network.normalize(images))
    tokens = wanted["blocks.2"][:, 1:]
    assert found.shape == (2, 64, 4, 6)
    assert torch.equal(found[:, :, 1, 2], tokens[:, 1 * 6 + 2])
    with pytest.raises(foveal.InputError, match="takes images of 16 x 24 pixels, not 16 x 16"):
        next(network.maps(images[..., :16]))


def test_what_has_no_maps_is_refused():
    with pytest.raises(foveal.InputError, match="linear_softmax cannot serve as a backbone: it has no maps"):
        foveal.create("fcos_nano", backbone="linear_softmax")
