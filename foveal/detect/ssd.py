"""SSD: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg 2015, "SSD: single shot multibox detector", arXiv:1512.02325.

Boxes of several shapes lie at every place of maps of falling size, small boxes on the fine maps. For each of these
default boxes a 3x3 convolution says in one pass how probable each class and background are, and where the object is:

    t = (10 (x - xd) / wd, 10 (y - yd) / hd, 5 log(w / wd), 5 log(h / hd))     as seen from the default box d
    loss = sum over matched boxes of smooth L1(t) / N + (sum over matched and hard boxes of cross-entropy) / N

A default box is matched with the object that it overlaps most, from an IoU of 0.5 on, and each object with the default
box that overlaps it most. Hard are of each image the unmatched boxes that are least surely background, three for each
matched one. N is the number of matched boxes in the batch; without any, nothing is learned.

On VGG the maps are those of the paper: conv4_3, its length at each place brought to a learned scale; what were the
fully connected layers, fc6 spread over 13 x 13 places and fc7, after a fifth pooling that keeps the size; and further
convolutions. On another backbone they are its own maps, then these layers. VGG's weights of ImageNet fit; they do not
say for which colours they are, and without a trained backbone those of Caffe are meant, as in torchvision's
IMAGENET1K_FEATURES: `backbone=create("vgg16", weights=FILE)` takes others.

Departs from the paper: fc6 and fc7 begin anew instead of with every third weight of VGG's; N is of the batch, as in the
authors' code, and so is the sampling of each image by its own boxes; scales are those of the authors' COCO models.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from foveal.classify.backbone import Backbone
from foveal.classify.labels import DIGITS
from foveal.classify.vgg import VGG
from foveal.detect.detector import Candidates, Detector, DetectorSpec, to_learn
from foveal.detect.labels import COCO
from foveal.errors import InputError
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, deltas_from
from foveal.nn.norm import freeze_norms
from foveal.ops.anchors import default_boxes
from foveal.ops.boxes import cxcywh_to_xyxy, decode, iou
from foveal.ops.matching import claim_best, match
from foveal.structures import Batch
from foveal.system import Preprocess, System

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the four numbers of a box, so that all have a deviation of about one
SCALE = 20.0  # length that a place of conv4_3 has at first, about that of the maps behind it

BETA = 1.0  # of the deltas (losses.boxes.Code)

# What a further map is made by: channels of a 1x1 convolution, then channels, side, stride and padding of another.
Extra = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class SSDSpec(DetectorSpec):
    """
    shortlist:     here of each class.
    hidden:        channels of fc6 and fc7, which follow the last map of the backbone; 0 leaves them out.
    extra:         the maps that follow, each as (channels of a 1x1 convolution, channels, side, stride, padding).
    norm:          batch norms in these layers.
    eps:           added to the variance in these norms.
    norm_momentum: weight of a batch in their running statistics.
    shapes:        default boxes at each place of each map: two squares, then 1:2 and 2:1, then 1:3 and 3:1.
    scales:        side of the squares on each map as a share of the image, and of those on one map more.
    evenly:        the places of every map fill the image evenly; else they lie a stride apart, as far as each map
                   halves the one before.
    negatives:     hard boxes for each matched one.
    """

    backbone: System | str = "vgg16"
    strides: tuple[int, ...] = (8, 16)
    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    shortlist: int = 400
    detections: int = 200
    hidden: int = 1024
    extra: tuple[Extra, ...] = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
    norm: bool = False
    eps: float = 1e-5
    norm_momentum: float = 0.1
    shapes: tuple[int, ...] = (4, 6, 6, 6, 4, 4)
    scales: tuple[float, ...] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    evenly: bool = False
    negatives: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        maps = len(self.strides) + len(self.extra)
        if len(self.shapes) != maps or len(self.scales) != maps + 1:
            raise InputError(
                f"there are {maps} maps, so shapes must have {maps} numbers and scales {maps + 1}, "
                f"not {len(self.shapes)} and {len(self.scales)}"
            )
        if min(self.shapes) < 2 or any(number % 2 for number in self.shapes):
            raise InputError(f"shapes must be even numbers, 2 or more, not {self.shapes}")
        if min(self.scales) <= 0 or self.hidden < 0 or self.negatives < 0:
            raise InputError("scales must be above 0, hidden and negatives at least 0")
        if self.eps <= 0 or not 0 < self.norm_momentum <= 1:
            raise InputError("eps must be above 0, norm_momentum above 0 and at most 1")
        if not self.norm and (self.eps, self.norm_momentum) != (SSDSpec.eps, SSDSpec.norm_momentum):
            raise InputError("eps and norm_momentum have no effect without norm")
        for middle, width, side, stride, padding in self.extra:
            if min(middle, width, side, stride) < 1 or padding < 0 or 2 * padding >= side:
                raise InputError(f"extra has no layer of {(middle, width, side, stride, padding)}")

    def taken(self, parts: Sequence[System]) -> dict[str, Any]:
        if isinstance(parts[0], VGG) and parts[0].started_from is None:
            return {}
        return super().taken(parts)

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which something is left on the last map."""
        places = 1
        for _, _, side, stride, padding in reversed(self.extra):
            places = max(1, (places - 1) * stride + side - 2 * padding)
        return places * self.strides[-1]


@dataclass(frozen=True)
class Found:
    """What the network says of the N default boxes of all maps, finest first.

    scores: (B, N, C + 1) before the softmax; the last is background.
    deltas: (B, N, 4) from each default box to its object, as `ops.boxes.encode` has it.
    boxes:  (N, 4) the default boxes in pixels of the prepared images.
    """

    scores: Tensor
    deltas: Tensor
    boxes: Tensor


class VGGMaps(nn.Module):
    """Normalised images -> conv4_3 (B, 512, H / 8, W / 8), scaled, and conv5_3 (B, 512, H / 16, W / 16) after a pooling
    that keeps its size. Of a VGG of fewer stages the last two. Raises InputError for other strides."""

    def __init__(self, network: VGG, strides: Sequence[int], frozen_norm: bool = False) -> None:
        super().__init__()
        depth = len(network.spec.depths)
        if tuple(strides) != (2 ** (depth - 2), 2 ** (depth - 1)):
            raise InputError(f"on a VGG of {depth} stages strides are {2 ** (depth - 2)}, {2 ** (depth - 1)}")
        self.network, self.stages = network.eval(), [f"stage{number}" for number in range(1, depth + 1)]
        self.channels = tuple(network.spec.widths[-2:])
        if depth > 2:  # a third stage of 75 places leaves 38
            network.set_submodule(f"{self.stages[-3]}.pool", nn.MaxPool2d(2, ceil_mode=True))
        network.set_submodule(f"{self.stages[-1]}.pool", nn.MaxPool2d(3, 1, padding=1))
        network.set_submodule("classifier", nn.Identity())  # which has most of the weights
        if frozen_norm:
            freeze_norms(network)
        self.scale = nn.Parameter(torch.full((self.channels[0],), SCALE))

    def forward(self, x: Tensor) -> list[Tensor]:
        for name in self.stages[:-2]:
            x = self.network.get_submodule(name)(x)
        *before, pool = self.network.get_submodule(self.stages[-2]).children()
        for layer in before:
            x = layer(x)
        fine = self.scale.view(-1, 1, 1) * normalize(x)  # divided by the length of each place's vector
        return [fine, self.network.get_submodule(self.stages[-1])(pool(x))]


class Conv(NamedTuple):
    """A convolution to `width` maps."""

    width: int
    side: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


def layers(
    spec: SSDSpec, channels: int, plan: Sequence[Conv], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """The convolutions of the plan, [norms] and activations."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for n, (width, side, stride, padding, dilation, groups) in enumerate(plan, 1):
        parts[f"conv{n}"] = nn.Conv2d(channels, width, side, stride, padding, dilation, groups, bias=not spec.norm)
        if spec.norm:
            parts[f"norm{n}"] = nn.BatchNorm2d(width, spec.eps, spec.norm_momentum)
        parts[f"relu{n}"] = activation()
        channels = width
    return begin(nn.Sequential(parts))


def further(spec: SSDSpec, channels: int, extra: Extra) -> nn.Module:
    """From a map of so many channels to the next."""
    middle, *last = extra
    return layers(spec, channels, (Conv(middle), Conv(*last)))


def head(spec: SSDSpec, channels: int, rows: int) -> nn.Module:
    """From a map of so many channels to what is told of each place."""
    return nn.Conv2d(channels, rows, 3, padding=1)


def begin(module: Any) -> Any:
    """The module with Glorot's weights and biases of zero, as the paper has its new layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class SSD(Detector):
    """Images are (B, 3, H, W), of 300 x 300 or 512 x 512 pixels in the paper, and of `spec.smallest` pixels or more.

    box_loss: see losses/boxes.py; default as the spec names it.
    further, head: what its parts are made by, as the functions of these names.
    """

    spec: SSDSpec

    def __init__(
        self,
        spec: SSDSpec,
        *,
        box_loss: BoxLoss | None = None,
        further: Callable[[SSDSpec, int, Extra], nn.Module] = further,
        head: Callable[[SSDSpec, int, int], nn.Module] = head,
    ) -> None:
        super().__init__(spec)
        self.box_loss = box_loss or BOX_LOSSES[spec.box_loss]
        self._check_size(spec.preprocess.size)
        if isinstance(spec.backbone, VGG) and not spec.maps:
            self.backbone: VGGMaps | Backbone = VGGMaps(spec.backbone, spec.strides, spec.frozen_norm)
        else:
            self.backbone = spec.build()
        channels = list(self.backbone.channels)
        # Pixels between places; None where they fill the image.
        self.steps: list[int | None] = [None if spec.evenly else stride for stride in spec.strides]
        # Both see the last map of the backbone, as do methods of explanation.
        self.last: nn.Module = nn.Identity()
        self.hidden: nn.Module = nn.Identity()
        if spec.hidden:
            plan = (Conv(spec.hidden, 3, padding=6, dilation=6), Conv(spec.hidden))
            self.hidden = layers(spec, channels[-1], plan)
            channels[-1] = spec.hidden
        self.extra = nn.ModuleList()
        for extra in spec.extra:
            self.extra.append(further(spec, channels[-1], extra))
            _, width, _, stride, _ = extra
            channels.append(width)
            self.steps.append(self.steps[-1] * 2 if stride == 2 and self.steps[-1] else None)
        heads = list(zip(channels, spec.shapes, strict=True))
        columns = len(spec.labels) + 1
        self.score_heads = begin(nn.ModuleList(head(spec, n, shapes * columns) for n, shapes in heads))
        self.box_heads = begin(nn.ModuleList(head(spec, n, shapes * 4) for n, shapes in heads))

    def forward(self, images: Tensor) -> Found:
        self._check_size(images.shape[2:])
        *maps, x = self.backbone(self.normalize(images))
        x = self.hidden(self.last(x))
        maps.append(x)
        for layer in self.extra:
            x = layer(x)
            maps.append(x)
        return Found(
            laid_out(maps, self.score_heads, len(self.labels) + 1),
            laid_out(maps, self.box_heads, 4),
            self.default_boxes(images, maps),
        )

    def default_boxes(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """The default boxes (N, 4) of maps (B, C, h, w) of these images, in pixels: place by place, shape by shape."""
        size = images.shape[2:]
        extents = [(x.shape[2], x.shape[3]) for x in maps]
        strides = [
            (1 / h, 1 / w) if step is None else (step / size[0], step / size[1])
            for (h, w), step in zip(extents, self.steps, strict=True)
        ]
        ratios = [range(2, shapes // 2 + 1) for shapes in self.spec.shapes]
        shares = default_boxes(extents, self.spec.scales, ratios, strides).to(images)
        return cxcywh_to_xyxy(shares) * images.new_tensor([size[1], size[0]]).repeat(2)

    def candidates(self, outputs: Found) -> list[Candidates]:
        boxes = decode(outputs.deltas, outputs.boxes, WEIGHTS)
        scores = outputs.scores.float().softmax(2)[:, :, :-1]
        return [Candidates(each[:, None], rows) for each, rows in zip(boxes, scores, strict=True)]

    def choose(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Row and class: of each class the `shortlist` most probable boxes above the threshold."""
        best = found.scores.topk(min(self.spec.shortlist, len(found.scores)), dim=0)
        place, classes = (best.values > self.spec.score_threshold).nonzero(as_tuple=True)
        return best.indices[place, classes], classes

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        found, truths = self(batch.images), to_learn(batch.targets)
        labels = torch.full(found.scores.shape[:2], len(self.labels), device=found.scores.device)  # (B, N)
        matched, wanted = [], []
        for number, truth in enumerate(truths):
            overlap = iou(truth.boxes.to(found.boxes), found.boxes)  # (G, N)
            matches = claim_best(match(overlap, 0.5, 0.5, keep_best=False), overlap)
            rows = (matches >= 0).nonzero()[:, 0]
            labels[number, rows] = truth.labels[matches[rows]]
            matched.append(rows + number * len(found.boxes))
            wanted.append(truth.boxes.to(found.boxes)[matches[rows]])
        rows = torch.cat(matched)
        count = max(1, len(rows))
        code = deltas_from(found.boxes[rows % len(found.boxes)], WEIGHTS, BETA)
        box = self.box_loss(found.deltas.flatten(0, 1)[rows], torch.cat(wanted), code).sum()
        each = cross_entropy(found.scores.transpose(1, 2), labels, reduction="none")  # (B, N)
        learned = hard_boxes(each.detach(), labels < len(self.labels), self.spec.negatives)
        return {"box": box / count, "class": (each * learned).sum() / count}

    @property
    def explained_layer(self) -> str:
        # What most maps come from; on VGG all of them.
        if isinstance(self.backbone, VGGMaps):
            return f"backbone.network.{self.backbone.stages[-2]}.relu{self.backbone.network.spec.depths[-2]}"
        return "last"

    def _check_size(self, size: Sequence[int]) -> None:
        if min(size) < self.spec.smallest:
            raise InputError(
                f"{self.name or 'ssd'} takes images of {self.spec.smallest} x {self.spec.smallest} pixels or more, not "
                f"{size[0]} x {size[1]}; image_size sets the size that images are brought to"
            )


def laid_out(maps: Sequence[Tensor], heads: Sequence[nn.Module], columns: int) -> Tensor:
    """What each head says of its map (B, shapes columns, h, w), place by place, shape by shape: (B, N, columns)."""
    rows = [head(x).permute(0, 2, 3, 1).flatten(1) for x, head in zip(maps, heads, strict=True)]
    return torch.cat(rows, 1).unflatten(1, (-1, columns))


def hard_boxes(losses: Tensor, matched: Tensor, negatives: float) -> Tensor:
    """From losses (B, N) and which boxes are matched (B, N) those that are learned from: of each image the matched ones
    and `negatives` times as many others, those of the highest loss."""
    rank = losses.masked_fill(matched, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
    return matched | (rank < negatives * matched.sum(1, keepdim=True))


# What Caffe's networks take: colours from 0 to 255, less their mean.
CAFFE = Preprocess((300, 300), "squash", 1.0, (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))
# Section 3.1 of the paper, with a longer course from torchvision's recipe for COCO.
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.002, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 32}
RECIPE |= {"epochs": 120, "schedule": "step", "flip": True}

SSD300 = SSDSpec(COCO, CAFFE, RECIPE)

VARIANTS = {
    "ssd300_vgg16": SSD300,
    # Maps of 64, 32, 16, 8, 4, 2 and 1 places: 24564 default boxes.
    "ssd512_vgg16": replace(
        SSD300,
        preprocess=replace(CAFFE, size=(512, 512)),
        extra=((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1)),
        shapes=(4, 6, 6, 6, 6, 4, 4),
        scales=(0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06),
    ),
    "ssd_nano": SSDSpec(
        DIGITS,
        Preprocess((96, 96), "squash", 1.0),
        {"epochs": 20, "batch_size": 16, "lr": 0.002},
        backbone="resnet10_nano",
        strides=(4, 8, 16),
        hidden=0,
        extra=((64, 128, 3, 2, 1),),
        norm=True,
        shapes=(4, 6, 6, 4),
        scales=(0.15, 0.25, 0.4, 0.6, 0.85),
    ),
}
