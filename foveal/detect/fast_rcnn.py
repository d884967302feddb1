"""Fast R-CNN: Girshick 2015, arXiv:1504.08083. The network sees the image once; each region that selective search
proposes is then read from its map by RoI pooling, and named and moved by a small head:

    image -> map
    map, region -> RoI pooling -> fully connected layers -> softmax over C classes and background, C boxes

Regions come from colours alone (ops/regions.py) and do not learn. Those that overlap no truth by a tenth are left out
of a step, as in the paper.

Departs from the paper: the fully connected layers begin anew rather than with those of the backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from foveal.detect.labels import COCO, SCENES
from foveal.detect.regions import RegionDetector, RegionPredictor, RegionSpec, Source, box_head
from foveal.errors import InputError, check_drop
from foveal.losses.boxes import BoxLoss
from foveal.ops.regions import propose_regions
from foveal.ops.roi import roi_pool
from foveal.system import Preprocess


@dataclass(frozen=True)
class FastRCNNSpec(RegionSpec):
    """
    unpooled: a pooling of the backbone, by its name there, that is left out, so that the map is twice as fine.
    side:     of what a region is pooled to.
    hidden:   units in each of two fully connected layers.
    dropout:  probability, of what leaves them.
    """

    strides: tuple[int, ...] = (16,)
    unpooled: str = ""
    side: int = 7
    hidden: int = 1024
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.strides) != 1 or min(self.side, self.hidden) < 1:
            raise InputError(f"there is one stride, not {self.strides}, and side and hidden are at least 1")
        check_drop("dropout", self.dropout)


class FastRCNN(RegionDetector):
    spec: FastRCNNSpec
    beta: ClassVar[float] = 1.0

    def __init__(
        self, spec: FastRCNNSpec, *, source: Source = propose_regions, box_loss: BoxLoss | None = None
    ) -> None:
        super().__init__(spec, source=source, box_loss=box_loss)
        self.backbone = spec.build()
        self.stride = spec.strides[0]
        if spec.unpooled:
            self.backbone.network.set_submodule(spec.unpooled, nn.Identity())
            self.stride //= 2
        self.map = nn.Identity()
        self.head = box_head(self.backbone.channels[0], spec.side, spec.hidden, 2)
        self.dropout = nn.Dropout(spec.dropout)
        self.predictor = RegionPredictor(spec.hidden, len(spec.labels))

    def look(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = self.map(self.backbone(self.normalize(images))[0])  # (B, C, H / stride, W / stride)
        pooled = roi_pool(x, boxes, self.spec.side, 1 / self.stride)  # (R, C, side, side)
        return self.predictor(self.dropout(self.head(pooled)))

    @property
    def explained_layer(self) -> str:
        return "map"


VARIANTS = {
    "fast_rcnn_vgg16": FastRCNNSpec(
        COCO,
        Preprocess((600, 1000), "bound", 1.0),
        {"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 2, "flip": True},
        backbone="vgg16",
        strides=(32,),
        unpooled="stage5.pool",
        hidden=4096,
        dropout=0.5,
        lowest=0.1,
    ),
    "fast_rcnn_nano": FastRCNNSpec(
        SCENES,
        Preprocess((96, 96), "fit", 1.0),
        {"epochs": 10, "lr": 0.002, "batch_size": 16, "clip": 10.0, "warmup": 0.5},
        backbone="resnet10_nano",
        strides=(4,),
        hidden=128,
        regions=300,
    ),
}
