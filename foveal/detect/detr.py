"""DETR: Carion, Massa, Synnaeve, Usunier, Kirillov and Zagoruyko 2020, "End-to-end object detection with transformers",
arXiv:2005.12872. Objects are a set that is answered at once: no anchors on a grid, no suppression of double answers.

    z = encoder(project(map) + positions of sines)       tokens, one for each place of the backbone's last map
    y_q = decoder(z) of learned queries q = 1 ... Q      each query looks for one object
    class_q = W y_q, "no object" last;  box_q = sigmoid(mlp(y_q)), centre and size in parts of the image

Queries and true objects are paired so that the sum of their costs is least (the Hungarian method, equation 1), each
query learns its object or that there is none (equation 2), and so do the answers after every layer of the decoder.

Departs from the paper: one learning rate for all, where the paper's backbone has a tenth of it.

Queries take long to find out where to look. With `anchored` each of them is a box (Liu et al. 2022, DAB-DETR,
arXiv:2201.12329): its position is the code of the box, each layer corrects the box that it was given, and attention to
the image is weighed by a Gaussian around it (Gao et al. 2021, SMCA, arXiv:2101.07448):

    box <- sigmoid(logit(box) + mlp(y)),  bias(place) = -|(place - centre) / size|^2
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from foveal.detect.detector import Candidates, Detector, DetectorSpec, to_learn
from foveal.detect.labels import COCO
from foveal.errors import InputError, check_drop
from foveal.nn.attention import PostNormDecoder, PostNormEncoder, check_heads
from foveal.ops.boxes import cxcywh_to_xyxy, giou, xyxy_to_cxcywh
from foveal.ops.matching import assign
from foveal.ops.positions import box_code, grid_places
from foveal.structures import Batch, Objects
from foveal.system import Preprocess

Compare = Callable[[Tensor, Tensor], Tensor]

WEIGHTS = {"class": 1.0, "box": 5.0, "giou": 2.0}  # of the costs of a pair, and of the terms of the loss


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
    no_object:     weight of "no object" in the loss of the class, since that is what most queries are to say.
    anchored:      queries are boxes that each block of the decoder looks around, and corrects.
    """

    width: int = 256
    heads: int = 8
    hidden: int = 2048
    encoder_depth: int = 6
    decoder_depth: int = 6
    queries: int = 100
    dropout: float = 0.1
    no_object: float = 0.1
    anchored: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "decoder_depth", "queries"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.encoder_depth < 0 or self.no_object <= 0:
            raise InputError("encoder_depth is at least 0, and no_object above 0")
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
    """

    logits: Tensor
    boxes: Tensor
    frames: Tensor


def l1(found: Tensor, wanted: Tensor) -> Tensor:
    """|found - wanted|, summed over the four numbers of each box: (N, 4), (N, 4) -> (N,)."""
    return (found - wanted).abs().sum(-1)


def unlike(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of boxes (N, 4) and (N, 4), as centre and size, row by row -> (N,)."""
    return 1 - giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted), paired=True)


def box_mlp(inputs: int, width: int, outputs: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with relu between them. (..., inputs) -> (..., outputs)."""
    layers: list[nn.Module] = []
    for n in range(depth):
        last = n + 1 == depth
        layers += [nn.Linear(inputs if n == 0 else width, outputs if last else width)] + [nn.ReLU()] * (not last)
    return nn.Sequential(*layers)


class Queries(nn.Module):
    """Q learned vectors, which are the same for all images; they look anywhere."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))

    def start(self, count: int) -> Tensor:
        """What the first box of each query is added to, before the sigmoid: (B, Q, 4)."""
        return self.weight.new_zeros(count, len(self.weight), 4)

    def follow(self, found: Tensor) -> Tensor:
        """What the next layer's boxes are added to, now that these boxes (B, Q, 4) were found, before the sigmoid."""
        return torch.zeros_like(found)

    def forward(self, boxes: Tensor, places: Tensor) -> tuple[Tensor, Tensor | float]:
        """Boxes before the sigmoid (B, Q, 4), places (B, S, 2) -> positions (B, Q, width), bias of looking there."""
        return self.weight.expand(len(boxes), -1, -1), 0.0


class Anchors(nn.Module):
    """Q learned boxes, each of which looks around itself."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        # Roberts' sequence covers a square evenly, whatever the number of points.
        centres = (torch.arange(1, count + 1)[:, None] * torch.tensor([0.7548776662, 0.5698402910])) % 1
        boxes = torch.cat([centres, torch.full((count, 2), 0.25)], 1)
        self.boxes = nn.Parameter(boxes.logit(1e-3))
        self.position = box_mlp(2 * width, width, width, 2)

    def start(self, count: int) -> Tensor:
        return self.boxes.expand(count, -1, -1)

    def follow(self, found: Tensor) -> Tensor:
        # Each layer answers for its own correction, not for those before it.
        return found.detach()

    def forward(self, boxes: Tensor, places: Tensor) -> tuple[Tensor, Tensor | float]:
        boxes = boxes.sigmoid()
        centre, size = boxes[:, :, None].split(2, -1)  # (B, Q, 1, 2)
        distance = (places[:, None] - centre) / (size + 0.05)  # (B, Q, S, 2); a small box still sees its neighbours
        width = self.position[0].in_features // 4
        return self.position(box_code(boxes, width)), -distance.square().sum(-1)[:, None]


class DETR(Detector):
    """Images are (B, 3, H, W) of any size.

    box_loss: of boxes that were found and their true ones, (N, 4) and (N, 4) -> (N,), centre and size in parts of the
              image.
    overlap:  the same for what depends on how far they cover each other.
    """

    spec: DETRSpec

    def __init__(self, spec: DETRSpec, *, box_loss: Compare = l1, overlap: Compare = unlike) -> None:
        super().__init__(spec)
        self.box_loss, self.overlap = box_loss, overlap
        self.backbone = spec.build()
        self.projection = nn.Conv2d(self.backbone.channels[-1], spec.width, 1)
        shape = spec.width, spec.heads, spec.hidden, spec.dropout
        self.encoder = nn.ModuleList(PostNormEncoder(*shape) for _ in range(spec.encoder_depth))
        self.queries = (Anchors if spec.anchored else Queries)(spec.queries, spec.width)
        self.decoder = nn.ModuleList(PostNormDecoder(*shape) for _ in range(spec.decoder_depth))
        self.norm = nn.LayerNorm(spec.width)
        self.classifier = nn.Linear(spec.width, len(spec.labels) + 1)
        self.box = box_mlp(spec.width, spec.width, 4, 3)
        if spec.anchored:  # at first, boxes stay where they are
            nn.init.zeros_(self.box[-1].weight)
            nn.init.zeros_(self.box[-1].bias)

    def forward(self, images: Tensor, shown: Tensor | None = None) -> Answers:
        """shown: (B, H, W) bool, which pixels are no padding; without it, all."""
        if shown is None:
            shown = images.new_ones(len(images), *images.shape[2:], dtype=torch.bool)
        x = self.projection(self.backbone(self.normalize(images))[-1])  # (B, width, h, w)
        seen = interpolate(shown[:, None].float(), x.shape[2:]).bool()[:, 0]  # (B, h, w)
        seen = seen | ~seen.flatten(1).any(1)[:, None, None]  # there is always something to look at
        corners = grid_places(seen, x.dtype)
        position = box_code(corners, self.spec.width // 2).flatten(1, 2)  # (B, h w, width)
        padding = torch.zeros_like(position[:, None, None, :, 0]).masked_fill(
            ~seen.flatten(1)[:, None, None], -torch.inf
        )
        z = x.flatten(2).transpose(1, 2)  # (B, h w, width)
        for block in self.encoder:
            z = block(z, position, padding)

        centres = (corners - 0.5 / corners.new_tensor(x.shape[:1:-1])).flatten(1, 2)
        y = z.new_zeros(len(z), self.spec.queries, self.spec.width)
        start, logits, boxes = self.queries.start(len(z)), [], []
        for block in self.decoder:
            asked, focus = self.queries(start, centres)
            y = block(y, asked, z, position, padding + focus)
            answer = self.norm(y)
            found = start + self.box(answer)
            logits.append(self.classifier(answer))
            boxes.append(found.sigmoid())
            start = self.queries.follow(found)
        return Answers(torch.stack(logits), torch.stack(boxes), frames(shown))

    def outputs(self, batch: Batch) -> Answers:
        return self(batch.images, batch.shown())

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """The terms of the last layer, and the sum of all those of the layers before it."""
        answers = self.outputs(batch)
        truths = [
            (truth.labels, xyxy_to_cxcywh((truth.boxes - frame[:2].repeat(2)) / sides(frame)).to(answers.boxes))
            for truth, frame in zip(to_learn(batch.targets), answers.frames, strict=True)
        ]
        *earlier, last = (self.terms(*layer, truths) for layer in zip(answers.logits, answers.boxes, strict=True))
        auxiliary = sum((term for terms in earlier for term in terms.values()), last["class"].new_zeros(()))
        return {**last, "auxiliary": auxiliary} if earlier else last

    def terms(self, logits: Tensor, boxes: Tensor, truths: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Equation 2, of one layer's logits (B, Q, C + 1) and boxes (B, Q, 4); truths: labels (N,) and boxes (N, 4)."""
        image, query, truth = self.pairs(logits.detach(), boxes.detach(), truths)
        labels, wanted = (torch.cat(column) for column in zip(*truths, strict=True))
        wanted_class = torch.full_like(logits[..., 0], logits.shape[-1] - 1, dtype=torch.int64)
        wanted_class[image, query] = labels[truth]
        importance = logits.new_ones(logits.shape[-1])
        importance[-1] = self.spec.no_object
        found, count = boxes[image, query], max(1, len(labels))
        terms = {
            "class": cross_entropy(logits.flatten(0, 1), wanted_class.flatten(), importance),
            "box": self.box_loss(found, wanted[truth]).sum() / count,
            "giou": self.overlap(found, wanted[truth]).sum() / count,
        }
        return {name: WEIGHTS[name] * term for name, term in terms.items()}

    def pairs(
        self, logits: Tensor, boxes: Tensor, truths: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Equation 1: image, query and truth of each pair, truths counted through all images."""
        rows, before = [], 0
        for number, (labels, wanted) in enumerate(truths):
            cost = -WEIGHTS["class"] * logits[number].softmax(-1)[:, labels]  # (Q, N)
            cost = cost + WEIGHTS["box"] * torch.cdist(boxes[number], wanted, p=1)
            cost = cost - WEIGHTS["giou"] * giou(cxcywh_to_xyxy(boxes[number]), cxcywh_to_xyxy(wanted))
            query, truth = assign(cost)
            rows.append(torch.stack([torch.full_like(query, number), query, truth + before]))
            before += len(labels)
        image, query, truth = torch.cat(rows, 1)
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
    "detr_resnet101": replace(RESNET50, backbone="resnet101"),
}
