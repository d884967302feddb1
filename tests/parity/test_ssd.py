"""SSD against torchvision: what the network says, default boxes, each loss term, gradients, and what is found."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.catalog import create
from foveal.system import Preprocess
from foveal.weights import fits, translate

from .compare import LABELS, TOLERANCE, compare_losses, on_meta, oracle, randomise, relative_error, row
from .detection import batch_with_boxes, compare_found

DEPTHS, WIDTHS, HIDDEN = (1, 2, 1, 2, 2), (4, 4, 6, 8, 10), 12
EXTRA = ((5, 6, 3, 2, 1), (4, 7, 3, 2, 1), (3, 5, 3, 1, 0), (2, 4, 3, 1, 0))
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
SIZE = 300


class Given(nn.Module):
    """Default boxes as the oracle asks for them: ours, which differ from its own by the rounding of float32."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def forward(self, images, maps):
        return [self.boxes] * len(images.image_sizes)


@pytest.fixture
def pair(tmp_path):
    """A narrow SSD300 of torchvision and, through a file of its weights, ours; and the default boxes of both."""
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
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    reference = theirs.SSD(
        maps.to_empty(device="cpu"), generator, (SIZE, SIZE), 6, head=head, detections_per_img=9999, **plain
    )
    save_file(randomise(reference).state_dict(), tmp_path / "weights.safetensors")
    backbone = create("vgg16", depths=DEPTHS, widths=WIDTHS)
    halves = Preprocess((SIZE, SIZE), "squash", 1.0, (0.5,) * 3, (0.3,) * 3)
    fields = {"backbone": backbone, "hidden": HIDDEN, "extra": EXTRA, "preprocess": halves, "detections": 9999}
    system = create("ssd300_vgg16", labels=LABELS, weights=tmp_path / "weights.safetensors", **fields)
    assert translate(system, reference.state_dict())[0] == "torchvision"
    system, reference = system.double(), reference.double()
    image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64)
    images = detection.image_list.ImageList(image, [(SIZE, SIZE)])
    with torch.no_grad():
        own, known = system(image).boxes, generator(images, list(maps(image).values()))[0]
    reference.anchor_generator = Given(own)
    return system, reference, own, known


def test_default_boxes(pair):
    _, _, own, known = pair
    assert own.shape == (8732, 4)
    assert relative_error(own, known) < 1e-6


def test_outputs_losses_and_gradients(pair, record_property):
    system, reference, _, _ = pair
    batch = batch_with_boxes(system, (SIZE, SIZE), (18, 6))
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
    said = reference.train()(list(images), targets)
    expected = {"box": said["bbox_regression"], "class": said["classification"]}
    figures = compare_losses(system, reference, system.loss(batch), expected)
    figures["logits"] = max(*outputs, figures["logits"])
    record_property("parity", row("ssd300_vgg16 (narrow)", "torchvision", "SSD", "torchvision", figures))


def test_what_is_found(pair):
    system, reference, _, _ = pair
    batch = batch_with_boxes(system, (SIZE, SIZE), (18, 6))
    with torch.no_grad():
        expected = reference.eval()(list(system.normalize(batch.images)))
        found = system.decode(system(batch.images), batch)
    for each in expected:
        seen = (each["boxes"][:, 2:] > each["boxes"][:, :2]).all(1)  # we do not tell what lies outside
        each |= {name: values[seen] for name, values in each.items()} | {"labels": each["labels"][seen] - 1}
    compare_found(found, expected, least=100)


def test_parameters_names_and_rows_are_those_that_torchvision_publishes():
    ssd = oracle("torchvision.models.detection.ssd")
    reference = on_meta(lambda: ssd.ssd300_vgg16(weights=None, weights_backbone=None))
    with torch.device("meta"):
        ours = create("ssd300_vgg16", labels=[str(i) for i in range(90)])  # its 91 rows, 11 of them without a class
        published = create("ssd300_vgg16")
    weights = ssd.SSD300_VGG16_Weights.COCO_V1
    assert sum(parameter.numel() for parameter in ours.parameters()) == weights.meta["num_params"] == 35641826
    assert fits(published, reference.state_dict())
    named = [name for name in weights.meta["categories"][1:] if name != "N/A"]
    assert list(published.labels) == named
    rows = torch.arange(4 * 91, dtype=torch.float32)
    name = "head.classification_head.module_list.0.bias"
    kept = translate(published, {**reference.state_dict(), name: rows})[1]["score_heads.0.bias"].view(4, 81)
    categories = weights.meta["categories"]
    assert [categories[int(i)] for i in kept[0]] == [*published.labels, "__background__"]
    assert torch.equal(kept, kept[:1] + 91 * torch.arange(4)[:, None])
    mean, std = reference.transform.image_mean, reference.transform.image_std
    assert (list(published.preprocess.mean), list(published.preprocess.std)) == (mean, std)
    assert published.preprocess == replace(published.preprocess, size=(300, 300), resize="squash")


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
