"""DETR: Carion, Massa, Synnaeve, Usunier, Kirillov and Zagoruyko 2020, "End-to-end object detection with transformers",
arXiv:2005.12872. Objects are a set that is answered at once: no anchors on a grid, no suppression of double answers.

    z = encoder(project(map) + positions of sines)       tokens, one for each place of the backbone's last map
    y_q = decoder(z) of learned queries q = 1 ... Q      each query looks for one object
    class_q = W y_q, "no object" last;  box_q = sigmoid(mlp(y_q)), centre and size in parts of the image

Queries and true objects are paired so that the sum of their costs is least (the Hungarian method, equation 1), each
query learns its object or that there is none (equation 2), and so do the answers after every layer of the decoder.

The backbone, which starts from trained weights, learns at a tenth of the rate of the rest.

Queries take long to find out where to look. With `anchored` they are given boxes to begin with, which the places of the
image propose (the two stages of Zhu et al. 2020, Deformable DETR, arXiv:2010.04159): each token answers by itself, and
the Q surest ones become queries. Each object is to be proposed by several tokens (Jia et al. 2022, H-DETR,
arXiv:2207.13080). A query's position is the code of its box, which each layer corrects (Liu et al. 2022, DAB-DETR,
arXiv:2201.12329), and its attention is weighed by a Gaussian around the box (Gao et al. 2021, SMCA, arXiv:2101.07448):

    box <- sigmoid(logit(box) + mlp(y)),  bias(place) = -|(place - centre) / size|^2
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from foveal.classify.backbone import dilate
from foveal.classify.resnet import ResNet
from foveal.detect.detector import Candidates, Detector, DetectorSpec, to_learn
from foveal.detect.labels import COCO, SCENES
from foveal.errors import InputError, check_drop
from foveal.losses.boxes import BOX_LOSSES, BoxLoss, BoxLossName, Code
from foveal.nn.attention import PostNormDecoder, PostNormEncoder, check_heads
from foveal.ops.boxes import cxcywh_to_xyxy, giou, xyxy_to_cxcywh
from foveal.ops.matching import assign
from foveal.ops.positions import box_code, grid_places
from foveal.structures import Batch
from foveal.system import Player, Preprocess

SIDE = 0.25  # of the box, in parts of the image, that each place corrects to propose one
MARGIN = 0.05  # what a query sees around its box, however small that is
WEIGHTS = {"box": 5.0, "giou": 2.0}  # of the costs of a pair, and of the terms of the loss
CODE = Code(xyxy_to_cxcywh, cxcywh_to_xyxy)  # of boxes in parts of what is shown


@dataclass(frozen=True)
class DETRSpec(DetectorSpec):
    """
    width:         channels of a token.
    heads:         of each attention, by which the width is divided.
    hidden:        width in the middle of each block's mlp.
    encoder_depth: blocks in which places look at places.
    decoder_depth: blocks in which queries look at places.
    queries:       how many objects can be found.
    dropout:       probability, of attention and after each matrix but those of q, k and v.
    class_weight:  of the class in the cost of a pair and in the loss, beside 5 for the L1 distance and 2 for GIoU.
    no_object:     weight of "no object" in the loss of the class, since that is what most queries are to say.
    anchored:      queries are boxes, at most `queries` of those that places of the image propose; each block of the
                   decoder looks around them and corrects them.
    proposals:     of how many places each object is to be proposed, where they are anchored.
    dilated:       the last stage of a ResNet keeps the size of its maps (DC5 of the paper).
    backbone_lr:   factor on the learning rate of the backbone; 1 suits one that starts from random weights.
    overlap_loss:  as box_loss, of the term beside it. The cost of a pair is L1 and GIoU whatever both are.
    """

    width: int = 256
    heads: int = 8
    hidden: int = 2048
    encoder_depth: int = 6
    decoder_depth: int = 6
    queries: int = 100
    dropout: float = 0.1
    class_weight: float = 1.0
    no_object: float = 0.1
    anchored: bool = False
    proposals: int = 4
    dilated: bool = False
    box_loss: BoxLossName = field(default="l1", kw_only=True)
    overlap_loss: BoxLossName = "giou"
    backbone_lr: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "decoder_depth", "queries", "proposals"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.encoder_depth < 0 or min(self.no_object, self.class_weight, self.backbone_lr) <= 0:
            raise InputError("encoder_depth is at least 0, no_object, class_weight and backbone_lr are above 0")
        if self.width % 4:
            raise InputError(f"width must be a multiple of 4, for sines and cosines of x and y, not {self.width}")
        check_heads(self.width, self.heads)
        check_drop("dropout", self.dropout)


@dataclass(frozen=True)
class Answers:
    """What each of Q queries says after each of L layers of the decoder.

    logits: (L, B, Q, C + 1) scores before the softmax, "no object" last.
    boxes:  (L, B, Q, 4) centre and size, in parts of what is shown.
    frames: (B, 4) which part of the images is shown and no padding, x1, y1, x2, y2 in pixels.
    proposed: logits (B, S, C + 1) and boxes (B, S, 4) of the S places of the map, where queries are anchored.
    """

    logits: Tensor
    boxes: Tensor
    frames: Tensor
    proposed: tuple[Tensor, Tensor] | None = None


def box_mlp(inputs: int, width: int, outputs: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with relu between them. (..., inputs) -> (..., outputs)."""
    layers: list[nn.Module] = []
    for n in range(depth):
        last = n + 1 == depth
        layers += [nn.Linear(inputs if n == 0 else width, outputs if last else width)] + [nn.ReLU()] * (not last)
    return nn.Sequential(*layers)


class Start(NamedTuple):
    """What the decoder begins with: content (B, Q, width) and boxes (B, Q, 4) before the sigmoid, which its answers are
    added to; and what places proposed, if they did."""

    content: Tensor
    boxes: Tensor
    proposed: tuple[Tensor, Tensor] | None = None


class Queries(nn.Module):
    """Learned vectors (Q, width), the same for all images, which look anywhere."""

    def __init__(self, spec: DETRSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(spec.queries, spec.width))

    def start(self, z: Tensor, centres: Tensor, seen: Tensor) -> Start:
        count, width = self.weight.shape
        return Start(z.new_zeros(len(z), count, width), z.new_zeros(len(z), 1, 4))

    def forward(self, boxes: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight.expand(len(boxes), -1, -1), centres.new_zeros(())

    def corrected(self, boxes: Tensor, found: Tensor) -> Tensor:
        return boxes


class Anchors(nn.Module):
    """Boxes that places propose, as queries that look around them."""

    def __init__(self, spec: DETRSpec) -> None:
        super().__init__()
        self.count, self.width = spec.queries, spec.width
        self.token = nn.Sequential(nn.Linear(spec.width, spec.width), nn.LayerNorm(spec.width))
        self.classifier = nn.Linear(spec.width, len(spec.labels) + 1)
        self.box = box_mlp(spec.width, spec.width, 4, 3)
        self.position = box_mlp(2 * spec.width, spec.width, spec.width, 2)

    def start(self, z: Tensor, centres: Tensor, seen: Tensor) -> Start:
        """Of tokens (B, S, width) with centres (B, S, 2), some of which are seen (B, S), the surest ones."""
        z = self.token(z)
        logits = self.classifier(z)  # (B, S, C + 1)
        around = torch.cat([centres, torch.full_like(centres, SIDE)], -1).clamp(0.01, 0.99)
        boxes = around.logit() + self.box(z)  # (B, S, 4)
        sure = logits.softmax(-1)[..., :-1].amax(-1).masked_fill(~seen, -1)
        best = sure.topk(min(self.count, sure.shape[1])).indices[..., None]  # (B, Q, 1)
        # The decoder answers for its own corrections, not for the boxes that it is given.
        return Start(z.take_along_dim(best, 1), boxes.detach().take_along_dim(best, 1), (logits, boxes.sigmoid()))

    def forward(self, boxes: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the queries (B, Q, width), and the bias of looking at each place (B, 1, Q, S)."""
        boxes = boxes.sigmoid()
        centre, size = boxes[:, :, None].split(2, -1)  # (B, Q, 1, 2)
        distance = (centres[:, None] - centre) / (size + MARGIN)  # (B, Q, S, 2)
        return self.position(box_code(boxes, self.width // 2)), -distance.square().sum(-1)[:, None]

    def corrected(self, boxes: Tensor, found: Tensor) -> Tensor:
        return found.detach()


class DETR(Detector):
    """Images are (B, 3, H, W) of any size.

    box_loss, overlap_loss: see losses/boxes.py; default as the spec names them.
    """

    spec: DETRSpec

    def __init__(self, spec: DETRSpec, *, box_loss: BoxLoss | None = None, overlap_loss: BoxLoss | None = None) -> None:
        super().__init__(spec)
        self.box_loss = box_loss or BOX_LOSSES[spec.box_loss]
        self.overlap_loss = overlap_loss or BOX_LOSSES[spec.overlap_loss]
        self.backbone = spec.build()
        if spec.dilated:
            network = self.backbone.network
            stage = f"stage{len(network.spec.depths)}" if isinstance(network, ResNet) else ""
            if not stage or stage in self.backbone.removed:
                raise InputError("dilated is for the last stage of a ResNet, whose map has to be the one looked at")
            dilate(network.get_submodule(stage))  # type: ignore[arg-type]
        self.projection = nn.Conv2d(self.backbone.channels[-1], spec.width, 1)
        shape = spec.width, spec.heads, spec.hidden, spec.dropout
        self.encoder = nn.ModuleList(PostNormEncoder(*shape) for _ in range(spec.encoder_depth))
        self.queries = Anchors(spec) if spec.anchored else Queries(spec)
        self.decoder = nn.ModuleList(PostNormDecoder(*shape) for _ in range(spec.decoder_depth))
        self.norm = nn.LayerNorm(spec.width)
        self.classifier = nn.Linear(spec.width, len(spec.labels) + 1)
        self.box = box_mlp(spec.width, spec.width, 4, 3)

    @property
    def players(self) -> dict[str, Player]:
        return {"system": Player(self, parts={"backbone": self.spec.backbone_lr})}

    def forward(self, images: Tensor, shown: Tensor | None = None) -> Answers:
        """shown: (B, H, W) bool, which pixels are no padding; without it, all."""
        if shown is None:
            shown = images.new_ones(len(images), *images.shape[2:], dtype=torch.bool)
        x = self.projection(self.backbone(self.normalize(images))[-1])  # (B, width, h, w)
        seen = interpolate(shown[:, None].float(), x.shape[2:]).bool()[:, 0]  # (B, h, w)
        seen = seen | ~seen.flatten(1).any(1)[:, None, None]  # there is always something to look at
        places = grid_places(seen, x.dtype)
        position = box_code(places, self.spec.width // 2).flatten(1, 2)  # (B, h w, width)
        centres = (places - 0.5 / places.new_tensor(x.shape[:1:-1])).flatten(1, 2)  # (B, h w, 2)
        seen = seen.flatten(1)
        padding = torch.zeros_like(centres[..., 0]).masked_fill(~seen, -torch.inf)[:, None, None]  # (B, 1, 1, h w)
        z = x.flatten(2).transpose(1, 2)  # (B, h w, width)
        for block in self.encoder:
            z = block(z, position, padding)

        y, given, proposed = self.queries.start(z, centres, seen)
        logits, boxes = [], []
        for block in self.decoder:
            asked, focus = self.queries(given, centres)
            y = block(y, asked, z, position, padding + focus)
            answer = self.norm(y)
            found = given + self.box(answer)
            logits.append(self.classifier(answer))
            boxes.append(found.sigmoid())
            given = self.queries.corrected(given, found)
        return Answers(torch.stack(logits), torch.stack(boxes), frames(shown), proposed)

    def outputs(self, batch: Batch) -> Answers:
        return self(batch.images, batch.shown())

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """The terms of the last layer, and the sum of those of the layers before it and of what places propose."""
        answers = self.outputs(batch)
        truths = [
            (truth.labels, ((truth.boxes - frame[:2].repeat(2)) / sides(frame)).to(answers.boxes))
            for truth, frame in zip(to_learn(batch.targets), answers.frames, strict=True)
        ]
        layers = [self.terms(*layer, truths) for layer in zip(answers.logits, answers.boxes, strict=True)]
        if answers.proposed is not None:
            count = self.spec.proposals
            several = [(labels.repeat(count), boxes.repeat(count, 1)) for labels, boxes in truths]
            layers.insert(0, self.terms(*answers.proposed, several))
        *earlier, last = layers
        auxiliary = sum((term for terms in earlier for term in terms.values()), last["class"].new_zeros(()))
        return {**last, "auxiliary": auxiliary} if earlier else last

    def terms(self, logits: Tensor, boxes: Tensor, truths: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Equation 2, of one layer's logits (B, Q, C + 1) and boxes (B, Q, 4).

        truths: labels (N,) and boxes (N, 4), xyxy in parts of what is shown."""
        image, query, truth = self.pairs(logits.detach(), boxes.detach(), truths)
        labels, wanted = (torch.cat(column) for column in zip(*truths, strict=True))
        wanted_class = torch.full_like(logits[..., 0], logits.shape[-1] - 1, dtype=torch.int64)
        wanted_class[image, query] = labels[truth]
        importance = logits.new_ones(logits.shape[-1])
        importance[-1] = self.spec.no_object
        found, count = boxes[image, query], max(1, len(labels))
        terms = {
            "class": cross_entropy(logits.flatten(0, 1), wanted_class.flatten(), importance),
            "box": self.box_loss(found, wanted[truth], CODE).sum() / count,
            "giou": self.overlap_loss(found, wanted[truth], CODE).sum() / count,
        }
        weights = {"class": self.spec.class_weight, **WEIGHTS}
        return {name: weights[name] * term for name, term in terms.items()}

    def pairs(
        self, logits: Tensor, boxes: Tensor, truths: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Equation 1: image, query and truth of each pair, truths counted through all images."""
        labels, wanted = (torch.cat(column) for column in zip(*truths, strict=True))
        # Of all queries with all truths, (B, Q, N): one operation on many numbers is faster than many on few.
        cost = -self.spec.class_weight * logits.softmax(-1)[..., labels]
        cost = cost + WEIGHTS["box"] * torch.cdist(boxes, CODE.encode(wanted).expand(len(boxes), -1, -1), p=1)
        overlap = giou(CODE.decode(boxes.flatten(0, 1)), wanted)
        cost = (cost - WEIGHTS["giou"] * overlap.view_as(cost)).cpu()
        rows, before = [], 0
        for number, (own, _) in enumerate(truths):
            query, truth = assign(cost[number, :, before : before + len(own)])
            rows.append(torch.stack([torch.full_like(query, number), query, truth + before]))
            before += len(own)
        image, query, truth = torch.cat(rows, 1).to(labels.device)
        return image, query, truth

    def candidates(self, outputs: Answers) -> list[Candidates]:
        probabilities = outputs.logits[-1].softmax(-1)[..., :-1]
        boxes = cxcywh_to_xyxy(outputs.boxes[-1])
        return [
            Candidates((each * sides(frame) + frame[:2].repeat(2))[:, None], scores)
            for each, frame, scores in zip(boxes, outputs.frames.to(boxes), probabilities, strict=True)
        ]

    def choose(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Of each query the most probable class alone."""
        best = torch.zeros_like(found.scores).scatter(1, found.scores.argmax(1, keepdim=True), 1)
        return super().choose(replace(found, scores=found.scores * best))

    @property
    def explained_layer(self) -> str:
        return "projection"


def sides(frame: Tensor) -> Tensor:
    """(4,) x1, y1, x2, y2 -> (4,) width, height, width, height."""
    return (frame[2:] - frame[:2]).repeat(2)


def frames(shown: Tensor) -> Tensor:
    """(B, H, W) bool -> (B, 4) float: the smallest box around what is shown; the whole image where nothing is."""
    spans = []
    for line in (shown.any(1), shown.any(2)):  # columns, rows
        line = line.float()
        spans.append((line.argmax(1), line.shape[1] - line.flip(1).argmax(1)))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], 1).float()


RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 1e-4, "clip": 0.1, "batch_size": 16}
RECIPE |= {"epochs": 300, "schedule": "step", "milestones": (200,), "flip": True}

# As the paper evaluates: all queries are told, none is suppressed.
ALL: dict[str, Any] = {"score_threshold": 0.0, "nms_threshold": 1.0}
RESNET50 = DETRSpec(COCO, Preprocess((800, 1333), "bound", 1.0), RECIPE, "resnet50", (32,), True, **ALL)

VARIANTS = {
    "detr_resnet50": RESNET50,
    "detr_resnet50_dc5": replace(RESNET50, dilated=True),
    "detr_resnet101": replace(RESNET50, backbone="resnet101"),
    "detr_resnet101_dc5": replace(RESNET50, backbone="resnet101", dilated=True),
    "detr_nano": DETRSpec(
        SCENES,
        Preprocess((96, 96), "squash", 1.0),
        {"epochs": 90, "batch_size": 16, "lr": 1e-3, "weight_decay": 1e-4, "warmup": 1.0, "clip": 0.1, "shift": 0.125},
        backbone="resnet10_nano",
        strides=(8,),
        width=96,
        heads=4,
        hidden=192,
        encoder_depth=1,
        decoder_depth=3,
        queries=16,
        dropout=0.0,
        class_weight=3.0,
        anchored=True,
        backbone_lr=1.0,
        **ALL,
    ),
}
