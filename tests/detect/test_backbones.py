"""Each family of detectors on backbones of other kinds than its own."""

import pytest
import torch

import foveal
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


def test_what_has_no_maps_is_refused():
    with pytest.raises(foveal.InputError, match="vit_nano cannot serve as a backbone: it has no maps"):
        foveal.create("fcos_nano", backbone="vit_nano")
