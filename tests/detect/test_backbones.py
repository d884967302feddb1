"""Each family of detectors on backbones of other kinds than its own."""

import pytest
import torch

import foveal
from foveal.classify.backbone import Backbone
from foveal.nn.record import record
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


def test_what_has_no_maps_is_refused():
    with pytest.raises(foveal.InputError, match="vit_nano cannot serve as a backbone: it has no maps"):
        foveal.create("fcos_nano", backbone="vit_nano")
