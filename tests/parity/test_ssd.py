"""SSD and SSDLite against torchvision: what the network says, default boxes, loss terms, gradients, what is found."""

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

DEPTHS, WIDTHS, HIDDEN = (1, 2, 1, 2, 2), (4, 4, 6, 8, 10), 12
EXTRA = ((5, 6, 3, 2, 1), (4, 7, 3, 2, 1), (3, 5, 3, 1, 0), (2, 4, 3, 1, 0))
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
# Of a narrow MobileNet v3: blocks without and with all parts, of which the last but one has the last stride.
ROWS = (
    (3, 1, 8, 1, 1, False, "relu"),
    (3, 3, 16, 1, 2, True, "relu"),
    (5, 3, 24, 2, 2, False, "hardswish"),
    (5, 4, 16, 2, 2, True, "hardswish"),
)
EXTRA_LITE = ((16, 32, 3, 2, 1), *((8, 16, 3, 2, 1),) * 3)
# Side of the images, default boxes, and true boxes in two images, so many that every map has its part in the loss.
NARROW = {"ssd300_vgg16": (300, 8732, (18, 6)), "ssdlite320_mobilenet_v3_large": (160, 3234, (30, 12))}
PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "detections_per_img": 9999}


class Given(nn.Module):
    """Default boxes as the oracle asks for them: ours, which differ from its own by the rounding of float32."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def forward(self, images, maps):
        return [self.boxes] * len(images.image_sizes)


def narrow_ssd300():
    """A narrow SSD300 of torchvision, and what makes ours like it."""
    detection = oracle("torchvision.models.detection")
    theirs, vgg = oracle("torchvision.models.detection.ssd"), oracle("torchvision.models.vgg")
    plan = [step for depth, width in zip(DEPTHS, WIDTHS, strict=True) for step in (*[width] * depth, "M")]
    maps = on_meta(lambda: theirs.SSDFeatureExtractorVGG(vgg.make_layers(plan), highres=False))
    maps.scale_weight = nn.Parameter(torch.empty(WIDTHS[-2]))
    hidden = maps.extra[0][-1]
    hidden[1], hidden[3] = nn.Conv2d(WIDTHS[-1], HIDDEN, 3, padding=6, dilation=6), nn.Conv2d(HIDDEN, HIDDEN, 1)
    channels = [WIDTHS[-2], HIDDEN]
    for block, (middle, width, side, stride, padding) in zip(maps.extra[1:], EXTRA, strict=True):
        block[0] = nn.Conv2d(channels[-1], middle, 1)
        block[2] = nn.Conv2d(middle, width, side, stride, padding)
        channels.append(width)
    generator = detection.anchor_utils.DefaultBoxGenerator(RATIOS, scales=SCALES, steps=[8, 16, 32, 64, 100, 300])
    head = theirs.SSDHead(channels, generator.num_anchors_per_location(), len(LABELS) + 1)
    reference = randomise(theirs.SSD(maps.to_empty(device="cpu"), generator, (300, 300), 6, head=head, **PLAIN))
    backbone = create("vgg16", depths=DEPTHS, widths=WIDTHS)
    return reference, {"backbone": backbone, "hidden": HIDDEN, "extra": EXTRA}


def narrow_ssdlite():
    """The same of SSDLite on MobileNet v3."""
    detection, theirs = oracle("torchvision.models.detection"), oracle("torchvision.models.detection.ssdlite")
    v3, norm = oracle("torchvision.models.mobilenetv3"), partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    plan, channels = [], 8
    for kernel, expansion, out, depth, stride, excite, activation in ROWS:
        for n in range(depth):
            word = {"relu": "RE", "hardswish": "HS"}[activation]
            row = channels, kernel, channels * expansion, out, excite, word, stride if n == 0 else 1
            plan.append(v3.InvertedResidualConfig(*row, dilation=1, width_mult=1))
            channels = out
    features = v3.MobileNetV3(plan, 10, norm_layer=norm).features
    extractor = theirs.SSDLiteFeatureExtractorMobileNet(features, 5, norm, width_mult=1 / 16, min_depth=16)
    generator = detection.anchor_utils.DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    channels = [24 * 4, 16 * 6, *(width for _, width, _, _, _ in EXTRA_LITE)]
    head = theirs.SSDLiteHead(channels, generator.num_anchors_per_location(), len(LABELS) + 1, norm)
    fields = {"score_thresh": 0.001, "nms_thresh": 0.55, "topk_candidates": 300}
    reference = randomise(detection.ssd.SSD(extractor, generator, (160, 160), 6, head=head, **PLAIN, **fields))
    for layer in reference.modules():
        if isinstance(layer, nn.Sequential) and isinstance(layer[-1], nn.ReLU6):
            layer[1].weight.data *= 4  # so that relu6 has something to cut
    backbone = create("mobilenet_v3_large_reduced", rows=ROWS, stem=8, head=16 * 6)
    return reference, {
        "backbone": backbone,
        "strides": (8, 16),
        "maps": ("stage4.0.expand", "head"),
        "extra": EXTRA_LITE,
    }


@pytest.fixture(params=NARROW)
def pair(request, tmp_path):
    """A narrow system of torchvision and, through a file of its weights, ours; and the default boxes of both."""
    name, size = request.param, (NARROW[request.param][0],) * 2
    reference, fields = narrow_ssd300() if name == "ssd300_vgg16" else narrow_ssdlite()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    fields |= {"preprocess": Preprocess(size, "squash", 1.0, (0.5,) * 3, (0.3,) * 3), "detections": 9999}
    system = create(name, labels=LABELS, weights=tmp_path / "weights.safetensors", **fields)
    assert translate(system, reference.state_dict())[0] == "torchvision"
    system, reference = system.double(), reference.double()
    image = torch.zeros(1, 3, *size, dtype=torch.float64)
    images = oracle("torchvision.models.detection").image_list.ImageList(image, [size])
    with torch.no_grad():
        own = system(image).boxes
        known = reference.anchor_generator(images, list(reference.backbone(image).values()))[0]
    reference.anchor_generator = Given(own)
    return system, reference, own, known


def test_default_boxes(pair):
    system, _, own, known = pair
    assert own.shape == (NARROW[system.name][1], 4)
    assert relative_error(own, known) < 1e-6


def test_outputs_losses_and_gradients(pair, record_property):
    system, reference, _, _ = pair
    batch = batch_with_boxes(system, system.preprocess.size, NARROW[system.name][2])
    images = system.normalize(batch.images)
    found = system(batch.images)
    raw = reference.head(list(reference.backbone(images).values()))
    background_first = found.scores[..., [5, 0, 1, 2, 3, 4]]
    outputs = [
        relative_error(background_first, raw["cls_logits"]),
        relative_error(found.deltas, raw["bbox_regression"]),
    ]
    assert max(outputs) < TOLERANCE

    targets = [{"boxes": each.boxes, "labels": each.labels + 1} for each in batch.targets]
    for module in reference.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # the loss is that of given statistics
    said = reference(list(images), targets)
    expected = {"box": said["bbox_regression"], "class": said["classification"]}
    figures = compare_losses(system, reference, system.loss(batch), expected)
    figures["logits"] = max(*outputs, figures["logits"])
    record_property("parity", row(f"{system.name} (narrow)", "torchvision", "SSD", "torchvision", figures))


def test_what_is_found(pair):
    system, reference, _, _ = pair
    batch = batch_with_boxes(system, system.preprocess.size, NARROW[system.name][2])
    with torch.no_grad():
        expected = reference.eval()(list(system.normalize(batch.images)))
        found = system.decode(system(batch.images), batch)
    for each in expected:
        seen = (each["boxes"][:, 2:] > each["boxes"][:, :2]).all(1)  # we do not tell what lies outside
        each |= {name: values[seen] for name, values in each.items()} | {"labels": each["labels"][seen] - 1}
    compare_found(found, expected, least=100)


@pytest.mark.parametrize(
    ("name", "weights", "count", "theirs", "own"),
    [
        ("ssd300_vgg16", "SSD300_VGG16_Weights", 35641826, "0.bias", "0.bias"),
        (
            "ssdlite320_mobilenet_v3_large",
            "SSDLite320_MobileNet_V3_Large_Weights",
            3440060,
            "0.1.bias",
            "0.across.bias",
        ),
    ],
)
def test_parameters_names_and_rows_are_those_that_torchvision_publishes(name, weights, count, theirs, own):
    home = oracle("torchvision.models.detection")
    reference = on_meta(lambda: getattr(home, name)(weights=None, weights_backbone=None))
    with torch.device("meta"):
        ours = create(name, labels=[str(i) for i in range(90)])  # its 91 rows, 11 of them without a class
        published = create(name)
    meta = getattr(home, weights).COCO_V1.meta
    assert sum(parameter.numel() for parameter in ours.parameters()) == meta["num_params"] == count
    assert fits(published, reference.state_dict())
    categories = meta["categories"]
    assert list(published.labels) == [label for label in categories[1:] if label != "N/A"]
    shapes = published.spec.shapes[0]
    rows = torch.arange(shapes * 91, dtype=torch.float32)
    changed = {**reference.state_dict(), f"head.classification_head.module_list.{theirs}": rows}
    kept = translate(published, changed)[1][f"score_heads.{own}"].view(shapes, 81)
    assert [categories[int(i)] for i in kept[0]] == [*published.labels, "__background__"]
    assert torch.equal(kept, kept[:1] + 91 * torch.arange(shapes)[:, None])
    transform, size = reference.transform, published.preprocess.size
    assert published.preprocess == Preprocess(size, "squash", 1.0, (*transform.image_mean,), (*transform.image_std,))
    assert size == transform.fixed_size
    spec, settings = published.spec, ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")
    ours = (spec.score_threshold, spec.nms_threshold, spec.shortlist, spec.detections)
    assert ours == tuple(getattr(reference, setting) for setting in settings)
    norms = [
        [(m.eps, m.momentum) for m in each.modules() if isinstance(m, nn.BatchNorm2d)]
        for each in (published, reference)
    ]
    assert norms[0] == norms[1]


def test_vggs_weights_of_imagenet_go_into_the_backbone(tmp_path):
    """Those of torchvision's IMAGENET1K_FEATURES, whose classifier is not numbers."""
    reference = randomise(on_meta(lambda: oracle("torchvision.models").vgg16(num_classes=5)).to_empty(device="cpu"))
    state = {name: value for name, value in reference.state_dict().items() if name.startswith("features")}
    state |= {f"classifier.{n}.{part}": torch.full((1,), torch.nan) for n in (0, 3, 6) for part in ("weight", "bias")}
    save_file(state, tmp_path / "features.safetensors")
    few = {"extra": (), "shapes": (4, 6), "scales": (0.1, 0.3, 0.5), "hidden": 8, "image_size": 64}
    system = create("ssd300_vgg16", labels=LABELS, weights=tmp_path / "features.safetensors", **few)
    assert torch.equal(system.backbone.network.stage5.conv3.weight, state["features.28.weight"])
    assert system.preprocess.std == (1 / 255,) * 3
    assert "for its backbone vgg16" in system.started_from
