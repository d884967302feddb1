"""RetinaNet and FCOS against torchvision: what both networks say, each loss term, gradients, and what is found."""

import re
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.detect.labels import COCO, COCO_IDS
from foveal.detect.retinanet import sizes_from
from foveal.system import Preprocess
from foveal.weights import translate

from .compare import LABELS, TOLERANCE, compare_losses, on_meta, oracle, randomise, relative_error, row
from .detection import batch_with_boxes, compare_found

SIZE = 128, 192
WIDTH = 64
SHORTLIST, ALL = 100, 10**6
SIZES = sizes_from(16, 32, 64, 96, 128)
FIELDS = {
    "width": WIDTH,
    "frozen_norm": False,
    "shortlist": SHORTLIST,
    "detections": ALL,
    "preprocess": Preprocess(SIZE, "squash", 1.0, (0.5,) * 3, (0.25,) * 3),
}
OURS = {
    "retinanet_resnet50_fpn": {"sizes": SIZES},
    "retinanet_resnet50_fpn_v2": {"sizes": SIZES},
    "fcos_resnet50_fpn": {"score_threshold": 0.3},
}
TERMS = {"class": "classification", "box": "bbox_regression", "centre": "bbox_ctrness"}


def build(name, classes=5, norm=nn.BatchNorm2d):
    """A narrow one of torchvision's."""
    models, theirs = oracle("torchvision.models"), oracle("torchvision.models.detection")
    feature_pyramid = oracle("torchvision.ops.feature_pyramid_network")
    resnet = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    entering = 512 if name.endswith("v2") else WIDTH
    pyramid = theirs.backbone_utils.BackboneWithFPN(
        resnet,
        {f"layer{n}": str(n - 2) for n in range(2, 5)},
        [128, 256, 512],
        WIDTH,
        extra_blocks=feature_pyramid.LastLevelP6P7(entering, WIDTH),
    )
    fields = {"min_size": SIZE[0], "max_size": SIZE[1], "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    fields |= {"topk_candidates": SHORTLIST, "detections_per_img": ALL}
    if name.startswith("fcos"):
        reference = theirs.FCOS(pyramid, classes, score_thresh=0.3, **fields)
    else:
        fields["anchor_generator"] = theirs.anchor_utils.AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5)
        if name.endswith("v2"):
            norm_layer = partial(nn.GroupNorm, 32)
            fields["head"] = theirs.retinanet.RetinaNetHead(WIDTH, 9, classes, norm_layer=norm_layer)
            fields["head"].regression_head._loss_type = "giou"
        reference = theirs.RetinaNet(pyramid, classes, **fields)
    randomise(reference)
    with torch.no_grad():  # deltas that keep boxes apart, and scores that are not all near 0 or 1
        reference.head.regression_head.bbox_reg.weight *= 0.2
        reference.head.classification_head.cls_logits.weight *= 0.5 if name.endswith("v2") else 0.05
        if name.startswith("fcos"):
            reference.head.regression_head.bbox_ctrness.weight *= 0.05
    return reference


def load(name, path, state, **fields):
    save_file(state, path)
    backbone = create("resnet18", depths=(1, 1, 1, 1))
    return create(name, weights=path, backbone=backbone, **{**FIELDS, **OURS[name], **fields})


@pytest.fixture(params=list(OURS))
def pair(request, tmp_path):
    """torchvision's and, through a file of its weights, ours."""
    reference = build(request.param)
    system = load(request.param, tmp_path / "weights.safetensors", reference.state_dict(), labels=LABELS)
    assert translate(system, reference.state_dict())[0] == "torchvision"
    return system.double().eval(), reference.double().eval()


def a_batch(system):
    return batch_with_boxes(system, SIZE, (9, 3, 0), alike=True)


def theirs_of(reference, images):
    """What torchvision's network says of images: outputs, anchors, and how many of these each map has."""
    prepared = reference.transform(list(images))[0]
    maps = list(reference.backbone(prepared.tensors).values())
    said = reference.head(maps)
    shapes = reference.anchor_generator.num_anchors_per_location()[0]
    return said, reference.anchor_generator(prepared, maps), [x.shape[2] * x.shape[3] * shapes for x in maps]


def test_outputs_losses_and_gradients(pair, record_property):
    system, reference = pair
    batch = a_batch(system)
    said, anchors, counts = theirs_of(reference, batch.images)
    found = system(batch.images)
    outputs = {"cls_logits": found.scores}
    if system.name.startswith("fcos"):
        outputs |= {"bbox_regression": found.sides, "bbox_ctrness": found.centre}
        assert torch.equal(found.points, (anchors[0][:, :2] + anchors[0][:, 2:]) / 2)
    else:
        outputs["bbox_regression"] = found.deltas
        assert torch.equal(found.anchors, anchors[0])
    assert found.level.bincount().tolist() == counts
    error = max(relative_error(value, said[key]) for key, value in outputs.items())
    assert error < TOLERANCE

    targets = [{"boxes": each.boxes, "labels": each.labels} for each in batch.targets]
    extra = [counts] if system.name.startswith("fcos") else []
    wanted = reference.compute_loss(targets, said, anchors, *extra)
    terms = system.loss(batch)
    # Their GIoU has 1e-7 square pixels more in its denominators.
    tolerance = TOLERANCE if system.name == "retinanet_resnet50_fpn" else 1e-7
    wanted = {ours: wanted[theirs] for ours, theirs in TERMS.items() if theirs in wanted}
    figures = compare_losses(system, reference, terms, wanted, tolerance=tolerance)
    figures["logits"] = max(error, figures["logits"])
    model = type(reference).__name__
    record_property("parity", row(f"{system.name} (narrow)", "torchvision", model, "torchvision", figures))


def test_what_is_found(pair):
    system, reference = pair
    batch = a_batch(system)
    with torch.no_grad():
        expected = reference(list(batch.images))
        found = system.decode(system(batch.images), batch)
    for theirs in expected:
        # They tell boxes without area as well, which neither remove others nor are removed.
        seen = (theirs["boxes"][:, 2:].float() > theirs["boxes"][:, :2].float()).all(1)
        theirs |= {key: values[seen] for key, values in theirs.items()}
    compare_found(found, expected)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_files_of_coco_with_old_names(name, tmp_path):
    """91 rows, no numbers of what is inside a layer, and for RetinaNet frozen norms without eps."""
    frozen = oracle("torchvision.ops").FrozenBatchNorm2d
    reference = build(name, 91, frozen)
    for module in reference.modules():
        if isinstance(module, frozen):
            module.running_var[0] = 3e-5  # where eps would matter
            module.eps = 0.0 if name.startswith("retinanet") else 1e-5
    state = {}
    for key, tensor in reference.state_dict().items():
        key = re.sub(r"((?:inner|layer)_blocks\.\d\.)0\.", r"\1", key)
        if name.startswith("retinanet"):
            key = re.sub(r"(head\.conv\.|_head\.conv\.)(\d)\.0\.", lambda m: f"{m[1]}{2 * int(m[2])}.", key)
        state[key] = tensor
    assert "backbone.fpn.inner_blocks.0.weight" in state
    system = load(name, tmp_path / "weights.safetensors", state, frozen_norm=True).double()
    assert system.labels == COCO
    images = a_batch(system).images
    with torch.no_grad():
        scores = theirs_of(reference.double(), images)[0]["cls_logits"][..., list(COCO_IDS)]
        assert relative_error(system(images).scores, scores) < (1e-6 if name.startswith("retinanet") else TOLERANCE)


@pytest.mark.parametrize("name", list(OURS))
def test_parameters_are_those_that_torchvision_publishes(name):
    models = oracle("torchvision.models")
    published = models.get_model_weights(name)["COCO_V1"]
    names = published.meta["categories"]
    assert tuple(names[i] for i in COCO_IDS) == COCO
    system = on_meta(lambda: create(name, labels=[str(i) for i in range(len(names))]))
    count = sum(p.numel() for p in system.parameters())
    # Which tells the kinds of norms, too: frozen ones learn nothing.
    assert count == published.meta["num_params"]
