"""R-CNN: Girshick, Donahue, Darrell and Malik 2013, "Rich feature hierarchies", arXiv:1311.2524.

Selective search proposes regions; each is cut out with some context, warped to the size that a classifier takes, and
shown to it as an image of its own:

    image -> regions -> crops -> classifier's features -> softmax over C classes and background, C boxes

Context: the crop shows p pixels more on each side, as measured after warping.

Departs from the paper: what names the crops is the softmax that its network is fine-tuned with, not support vector
machines trained after it (its appendix B compares them), and boxes learn with it, not by a ridge regression after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.detect.labels import COCO, SCENES
from foveal.detect.regions import PlaceMean, RegionDetector, RegionPredictor, RegionSpec, Source
from foveal.errors import InputError
from foveal.losses.boxes import BoxLoss
from foveal.ops.regions import propose_regions
from foveal.ops.roi import roi_align
from foveal.system import Preprocess

AT_ONCE = 256  # crops


@dataclass(frozen=True)
class RCNNSpec(RegionSpec):
    """
    side:    of a crop in pixels, as the classifier takes it.
    context: pixels of the crop on each side of the region.
    """

    strides: tuple[int, ...] = (32,)
    side: int = 224
    context: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.strides) != 1 or not 0 <= 2 * self.context < self.side:
            raise InputError(f"there is one stride, not {self.strides}, and context is less than half of side")


def warped(images: Tensor, boxes: Sequence[Tensor], side: int, context: int = 0) -> Tensor:
    """Regions (R_i, 4) of each of the images (B, C, H, W), with so many pixels of context -> crops (R, C, side, side).

    What lies outside the image is zero. A bilinear sample is taken for each pixel, or four where the crop shrinks."""
    grown = []
    for each in boxes:
        size = (each[:, 2:] - each[:, :2]).clamp(min=1)
        margin = size * (context / (side - 2 * context))
        grown.append(torch.cat([each[:, :2] - margin, each[:, :2] + size + margin], 1))
    return roi_align(images, grown, side, 1.0, 2, aligned=True)


class RCNN(RegionDetector):
    spec: RCNNSpec
    accelerated = None  # each image has another number of crops

    def __init__(self, spec: RCNNSpec, *, source: Source = propose_regions, box_loss: BoxLoss | None = None) -> None:
        super().__init__(spec, source=source, box_loss=box_loss)
        self.backbone = spec.build()
        self.mean = PlaceMean()
        self.predictor = RegionPredictor(self.backbone.channels[0], len(spec.labels))

    def look(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        return self.predictor(self.features(images, boxes))

    def features(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Of regions (R_i, 4) of each image, (R, D)."""
        image = torch.cat([torch.full_like(each[:, :1], number) for number, each in enumerate(boxes)])
        regions, normal = torch.cat([image, torch.cat(list(boxes))], 1), self.normalize(images)
        found = []
        for part in regions.split(AT_ONCE):  # all crops together would fill the memory
            grown = [part[part[:, 0] == number, 1:] for number in range(len(images))]
            crops = warped(normal, grown, self.spec.side, self.spec.context)  # (r, 3, side, side)
            found.append(self.mean(self.backbone(crops)[0]))
        return torch.cat(found) if found else normal.new_zeros(0, self.backbone.channels[0]) + normal.sum() * 0

    @property
    def explained_layer(self) -> str:
        raise self._cannot("be explained by a layer: it sees crops, no map of the image")


NANO = RCNNSpec(
    SCENES,
    Preprocess((96, 96), "fit", 1.0),
    {"epochs": 10, "lr": 0.002, "batch_size": 16, "clip": 10.0, "warmup": 0.5},
    backbone="resnet10_nano",
    strides=(16,),
    regions=200,
    sampled=24,
    side=32,
    context=3,
)

VARIANTS = {
    "rcnn_vgg16": RCNNSpec(
        COCO,
        Preprocess((600, 1000), "bound", 1.0),
        {"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 2, "flip": True},
        backbone="vgg16",
    ),
    "rcnn_nano": NANO,
}
