"""Faster R-CNN against torchvision: what both networks say, proposals, each loss term, gradients, and what is found."""

import re
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.system import Preprocess
from foveal.weights import fits, translate

from .compare import LABELS, TOLERANCE, compare_losses, on_meta, oracle, randomise, relative_error, row
from .detection import batch_with_boxes, compare_found

SIZE = 128, 192
SIZES = ((16,), (32,), (64,), (96,), (160,))
WIDTH, HIDDEN, ALL = 12, 20, 10**6
FIELDS = {
    "labels": LABELS,
    "width": WIDTH,
    "anchors": SIZES,
    "hidden": HIDDEN,
    "proposals": 60,
    "learned_from": 90,
    "sampled": ALL,  # larger than all that there is, so that nothing is left to chance
    "sampled_regions": ALL,
    "shortlist": ALL,
    "detections": ALL,
    "preprocess": Preprocess(SIZE, "squash", 1.0, (0.5,) * 3, (0.25,) * 3),
}
TERMS = {
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
}
RESNET, MOBILENET = "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"
# What the narrow variants have besides FIELDS.
VARIANTS = {
    RESNET: {},
    RESNET + "_v2": {"pyramid_norm": True, "depth": 2, "convolutions": 2, "layers": 1},
    MOBILENET: {"maps": ("stage5.0", "head"), "anchors": ((16, 40, 90),) * 3, "proposal_threshold": 0.7},
}
# Blocks of the narrow MobileNet: maps that enter, kernel, those inside, those that leave, squeeze and excitation,
# activation, stride.
BLOCKS = (
    (16, 3, 16, 16, False, "RE", 1),
    (16, 3, 64, 24, False, "RE", 2),
    (24, 5, 72, 40, True, "RE", 2),
    (40, 3, 240, 48, False, "HS", 2),
    (48, 5, 144, 56, True, "HS", 2),
    (56, 5, 224, 56, True, "HS", 1),
)


def pyramid(name, norm):
    """torchvision's narrow backbone of a variant, with its pyramid."""
    models, theirs = oracle("torchvision.models"), oracle("torchvision.models.detection")
    with_pyramid = theirs.backbone_utils.BackboneWithFPN
    if name == MOBILENET:
        rows = [models.mobilenetv3.InvertedResidualConfig(*block, 1, 1.0) for block in BLOCKS]
        features = models.MobileNetV3(rows, 8, norm_layer=norm).features
        return with_pyramid(features, {"5": "0", "7": "1"}, [56, 336], WIDTH)
    resnet = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    returned = {f"layer{n}": str(n - 1) for n in range(1, 5)}
    norm = nn.BatchNorm2d if "v2" in name else None
    return with_pyramid(resnet, returned, [64, 128, 256, 512], WIDTH, norm_layer=norm)


def build(name, norm=nn.BatchNorm2d):
    """A narrow Faster R-CNN of torchvision."""
    theirs, fields = oracle("torchvision.models.detection"), FIELDS | VARIANTS[name]
    parts = {}
    if "v2" in name:
        parts["rpn_head"] = theirs.rpn.RPNHead(WIDTH, 3, conv_depth=2)
        parts["box_head"] = theirs.faster_rcnn.FastRCNNConvFCHead(
            (WIDTH, 7, 7), [WIDTH] * 2, [HIDDEN], norm_layer=nn.BatchNorm2d
        )
    else:
        parts["box_head"] = theirs.faster_rcnn.TwoMLPHead(WIDTH * 49, HIDDEN)
    sizes = fields["anchors"]
    counts = {f"rpn_{when}_nms_top_n_test": FIELDS["proposals"] for when in ("pre", "post")}
    counts |= {f"rpn_{when}_nms_top_n_train": FIELDS["learned_from"] for when in ("pre", "post")}
    reference = theirs.FasterRCNN(
        pyramid(name, norm),
        min_size=SIZE[0],
        max_size=SIZE[1],
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=theirs.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_predictor=theirs.faster_rcnn.FastRCNNPredictor(HIDDEN, len(LABELS) + 1),
        rpn_score_thresh=fields.get("proposal_threshold", 0.0),
        rpn_batch_size_per_image=ALL,
        box_batch_size_per_image=ALL,
        box_detections_per_img=ALL,
        **counts,
        **parts,
    )
    randomise(reference)
    with torch.no_grad():  # deltas that keep proposals apart
        reference.rpn.head.bbox_pred.weight *= 0.2
        reference.roi_heads.box_predictor.bbox_pred.weight *= 0.2
        reference.roi_heads.box_predictor.cls_score.weight *= 0.1
    return reference


def ours(name, path, state):
    save_file(state, path)
    if name == MOBILENET:
        activations = {"RE": "relu", "HS": "hardswish"}
        rows = [(k, inside / into, out, 1, s, se, activations[act]) for into, k, inside, out, se, act, s in BLOCKS]
        backbone = create("mobilenetv3_large_100", rows=rows, head=336)
    else:
        backbone = create("resnet18", depths=(1, 1, 1, 1))
    return create(name, weights=path, **{**FIELDS, "backbone": backbone, **VARIANTS[name]})


@pytest.fixture(params=VARIANTS)
def pair(request, tmp_path):
    """torchvision's and, through a file of its weights, ours."""
    reference = build(request.param)
    system = ours(request.param, tmp_path / "weights.safetensors", reference.state_dict())
    assert translate(system, reference.state_dict())[0] == "torchvision"
    return system.double().eval(), reference.double().eval()


def test_outputs_and_proposals(pair):
    system, reference = pair
    batch = batch_with_boxes(system, SIZE)
    with torch.no_grad():
        found = system(batch.images)
        images = reference.transform(list(batch.images))[0]
        maps = reference.backbone(images.tensors)
        objects, deltas = reference.rpn.head(list(maps.values()))
        objects, deltas = oracle("torchvision.models.detection.rpn").concat_box_prediction_layers(objects, deltas)
        assert relative_error(found.seen.objects.flatten(), objects.flatten()) < TOLERANCE
        assert relative_error(found.seen.deltas.flatten(0, 1), deltas) < TOLERANCE
        assert torch.equal(found.seen.anchors, reference.rpn.anchor_generator(images, list(maps.values()))[0])
        proposals = reference.rpn(images, maps)[0]
        for boxes, expected in zip(found.boxes, proposals, strict=True):
            assert relative_error(boxes, expected) < TOLERANCE
        if system.spec.proposal_threshold:  # it has something to say
            assert max(map(len, found.boxes)) < FIELDS["proposals"]
        regions = reference.roi_heads.box_roi_pool(maps, proposals, images.image_sizes)
        scores, moved = reference.roi_heads.box_predictor(reference.roi_heads.box_head(regions))
    assert relative_error(found.classes, scores[:, [1, 2, 3, 4, 5, 0]]) < TOLERANCE
    assert relative_error(found.deltas.flatten(1), moved[:, 4:]) < TOLERANCE


def test_losses_and_gradients(pair, record_property):
    system, reference = pair
    batch = batch_with_boxes(system, SIZE)
    reference.train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assign = reference.rpn.assign_targets_to_anchors

    def exactly(*inputs):  # its labels of anchors are float32, and so is what it says of them
        labels, boxes = assign(*inputs)
        return [each.double() for each in labels], boxes

    reference.rpn.assign_targets_to_anchors = exactly
    targets = [{"boxes": each.boxes, "labels": each.labels + 1} for each in batch.targets]
    said = reference(list(batch.images), targets)
    expected = {ours: said[theirs] for ours, theirs in TERMS.items()}
    figures = compare_losses(system, reference, system.loss(batch), expected)
    record_property("parity", row(f"{system.name} (narrow)", "torchvision", "FasterRCNN", "torchvision", figures))


def test_what_is_found(pair):
    system, reference = pair
    batch = batch_with_boxes(system, SIZE)
    with torch.no_grad():
        expected = reference(list(batch.images))
        found = system.decode(system(batch.images), batch)
    # It does not tell of smaller ones, and numbers labels from one.
    found = [each[((each.boxes[:, 2:] - each.boxes[:, :2]) >= 0.01).all(1)] for each in found]
    compare_found(found, [each | {"labels": each["labels"] - 1} for each in expected])


@pytest.mark.parametrize(("name", "eps"), [(RESNET, 0.0), (MOBILENET, 1e-5)])
def test_old_files_have_other_names_and_no_eps(name, eps, tmp_path):
    """As those on disk: made before the pyramid's layers were numbered, with frozen norms that had no eps, those on
    MobileNets after they had."""
    frozen = partial(oracle("torchvision.ops").FrozenBatchNorm2d, eps=eps)
    reference = build(name, frozen)
    state = {}
    for key, tensor in reference.state_dict().items():
        key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key)
        state[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
        if key.endswith("running_var"):
            tensor[:3] = torch.tensor([1e-6, 1e-5, 1e-4])  # where eps counts
    assert "rpn.head.conv.weight" in state
    system = ours(name, tmp_path / "old.safetensors", state).double()
    images = torch.rand(1, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        maps = reference.double().backbone(reference.transform(list(images))[0].tensors)
        for found, expected in zip(system.own_maps(images), maps.values(), strict=True):
            assert relative_error(found, expected) < 1e-6  # the gains of the norms are kept in float32


PUBLISHED = {
    RESNET: 41755286,
    RESNET + "_v2": 43712278,
    MOBILENET: 19386354,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19386354,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_names_and_rows_are_those_that_torchvision_publishes(name):
    detection = oracle("torchvision.models.detection")
    weights = oracle("torchvision.models").get_model_weights(name)["COCO_V1"]
    second = name.endswith("v2")
    reference = on_meta(lambda: getattr(detection, name)(weights=None, weights_backbone=None))
    with torch.device("meta"):
        system = create(name, labels=[str(i) for i in range(90)], frozen_norm=not second)
        published = create(name)
    background = 4 * 1025  # the parameters of a box for background, of which nothing is ever asked
    count = sum(parameter.numel() for parameter in system.parameters())
    assert count + background == weights.meta["num_params"] == PUBLISHED[name]
    if not second:
        norms = [module for module in reference.backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
        unfrozen = sum(parameter.numel() for parameter in reference.parameters())
        assert unfrozen == PUBLISHED[name] + sum(2 * norm.num_features for norm in norms)
    assert fits(published, reference.state_dict())
    categories = weights.meta["categories"]
    assert list(published.labels) == [name for name in categories[1:] if name != "N/A"]
    predictor = "roi_heads.box_predictor."
    rows = {predictor + "cls_score.bias": torch.arange(91.0), predictor + "bbox_pred.bias": torch.arange(364.0)}
    kept = translate(published, reference.state_dict() | rows)[1]
    named = [categories[int(i)] for i in kept["predictor.score.bias"]]
    assert named == [*published.labels, "__background__"]
    assert [categories[int(i)] for i in kept["predictor.delta.bias"].view(80, 4)[:, 2] // 4] == named[:-1]
    theirs, prepared = reference.transform, published.preprocess
    assert (list(prepared.mean), list(prepared.std)) == (theirs.image_mean, theirs.image_std)
    assert (prepared.resize, prepared.size) == ("bound", (*theirs.min_size, theirs.max_size))


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_and_maps_are_those_of_torchvision(name):
    reference = on_meta(lambda: oracle("torchvision.models").get_model(name, weights=None, weights_backbone=None))
    with torch.device("meta"):
        system = create(name)
    rpn, heads, spec = reference.rpn, reference.roi_heads, system.spec
    assert rpn.anchor_generator.sizes == spec.anchors
    assert rpn.anchor_generator.aspect_ratios == (spec.ratios,) * len(spec.anchors)
    for most in (rpn._pre_nms_top_n, rpn._post_nms_top_n):
        assert most == {"testing": spec.proposals, "training": spec.learned_from}
    assert (rpn.score_thresh, rpn.nms_thresh) == (spec.proposal_threshold, spec.overlap)
    assert (heads.score_thresh, heads.nms_thresh) == (spec.score_threshold, spec.nms_threshold)
    # The modules that make the maps, by all their weights, and what the norms count with.
    maps = spec.maps or [f"stage{number}" for number in range(1, 5)]
    for theirs, ours in zip(reference.backbone.body.return_layers, maps, strict=True):
        begin = f"backbone.body.{theirs}."
        weights = {key: tensor for key, tensor in reference.state_dict().items() if key.startswith(begin)}
        weights = translate(system, weights)[1]
        assert weights
        assert all(key.startswith(f"backbone.network.{ours}.") for key in weights)
    norms = [
        {(module.eps, module.momentum) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
        for network in (reference, system)
    ]
    assert norms[0] == norms[1]


@pytest.mark.parametrize(
    ("name", "count"), [("fasterrcnn_resnet50_fpn", 41699936), ("fasterrcnn_resnet50_c4", 33791644)]
)
def test_parameters_are_those_of_detectron2(name, count):
    """Those that its models have for COCO's 80 classes, with frozen norms."""
    with torch.device("meta"):
        system = create(name, frozen_norm=True)
    assert sum(parameter.numel() for parameter in system.parameters()) == count
