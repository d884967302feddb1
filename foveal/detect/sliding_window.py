"""A window slid over the image: Vaillant, Monrocq and Le Cun 1994, "Original approach for the localisation of objects
in images"; Dalal and Triggs 2005, "Histograms of oriented gradients for human detection".

Boxes of a few sizes and shapes stand at regular steps all over the image; each is cut out, warped to the size that a
classifier takes, and shown to it as an image of its own. It says which class the crop shows, or background. What it
calls an object is told with the window as its box, once non-maximum suppression has taken the lesser of neighbours.

It learns from windows that overlap a truth by half or more, from the truths themselves, and from other windows, as
R-CNN does; no window moves, so that a box is as exact as the steps are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from foveal.detect.labels import COCO, SCENES
from foveal.detect.rcnn import NANO, RCNN, RCNNSpec
from foveal.errors import InputError
from foveal.system import Preprocess


@dataclass(frozen=True)
class SlidingWindowSpec(RCNNSpec):
    """
    windows: sizes, the root of the area in pixels.
    ratios:  height over width.
    step:    from one window to the next, as a share of its side.
    """

    windows: tuple[float, ...] = (64, 128, 256)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    step: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_loss != SlidingWindowSpec.box_loss:
            raise InputError("box_loss has no effect: windows do not move, so no box is learned")
        if not self.windows or not self.ratios or min(*self.windows, *self.ratios) <= 0 or not 0 < self.step <= 1:
            raise InputError("windows and ratios are one or more above 0, step is above 0 and at most 1")


def windows(
    extent: tuple[int, int], sizes: Sequence[float], ratios: Sequence[float], step: float, device: torch.device
) -> Tensor:
    """(N, 4): all windows in an image of extent (height, width), side by side or overlapping; what does not fit is cut
    to the image's side."""
    found = []
    for size in sizes:
        for ratio in ratios:
            sides = min(size * ratio**0.5, extent[0]), min(size / ratio**0.5, extent[1])
            places = []
            for side, whole in zip(sides, extent, strict=True):
                count = ceil((whole - side) / (side * step)) + 1
                places.append(torch.linspace(0, whole - side, count, device=device))
            y, x = torch.meshgrid(*places, indexing="ij")
            corner = torch.stack([x, y], -1).view(-1, 2)
            found.append(torch.cat([corner, corner + corner.new_tensor([sides[1], sides[0]])], 1))
    return torch.cat(found)


class SlidingWindow(RCNN):
    """R-CNN with windows for regions, which stay where they are."""

    spec: SlidingWindowSpec

    def __init__(self, spec: SlidingWindowSpec) -> None:
        super().__init__(spec)
        del self.predictor
        self.score_of = nn.Linear(self.backbone.channels[0], len(spec.labels) + 1)

    def regions(self, images: Tensor) -> list[Tensor]:
        spec, extent = self.spec, (images.shape[2], images.shape[3])
        boxes = windows(extent, spec.windows, spec.ratios, spec.step, images.device).to(images)
        return [boxes] * len(images)

    def look(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, None]:
        return self.score_of(self.features(images, boxes)), None


VARIANTS = {
    "sliding_window": SlidingWindowSpec(
        COCO,
        Preprocess((512, 512), "fit", 1.0),
        {"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 2, "flip": True},
        backbone="resnet18",
        side=112,
        context=8,
    ),
    "sliding_window_nano": SlidingWindowSpec(
        SCENES,
        NANO.preprocess,
        NANO.recipe,
        backbone="resnet10_nano",
        strides=(16,),
        sampled=24,
        side=32,
        context=3,
        step=0.3,
        windows=(18, 25, 34, 46),
        ratios=(0.8, 1.25),
    ),
}
