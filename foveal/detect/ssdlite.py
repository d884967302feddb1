"""SSDLite: Sandler, Howard, Zhu, Zhmoginov and Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks",
arXiv:1801.04381, section 6.2.

SSD whose convolutions behind the backbone are cheap, one of each map by itself (depthwise), then one across maps (1x1):

    next map = relu6(across(relu6(depthwise(relu6(narrow(map))))))
    told     = across(relu6(depthwise(map)))

Each layer but the one that tells has a norm; `narrow` is a 1x1 convolution to half as many maps as it goes on with.
Default boxes, loss and choice are those of SSD (ssd.py).

The maps of the backbone are those of section 6.3 of Howard et al. 2019, arXiv:1905.02244: what the last block with a
stride expands to, before the stride, and what leaves the last convolution before the pooling.

As torchvision's weights have it, v3 has half the channels from that block on, and every map six default boxes at a
place, with places that fill the image evenly.
"""

from collections import OrderedDict
from typing import Any

from torch import nn

from foveal.detect.labels import COCO
from foveal.detect.ssd import SSD, Conv, Extra, SSDSpec, layers
from foveal.losses.boxes import BoxLoss
from foveal.system import Preprocess


def further(spec: SSDSpec, channels: int, extra: Extra) -> nn.Module:
    """From a map of so many channels to the next."""
    middle, width, side, stride, padding = extra
    plan = (Conv(middle), Conv(middle, side, stride, padding, groups=middle), Conv(width))
    return layers(spec, channels, plan, nn.ReLU6)


def head(spec: SSDSpec, channels: int, rows: int) -> nn.Module:
    """From a map of so many channels to what is told of each place."""
    depthwise = layers(spec, channels, (Conv(channels, 3, padding=1, groups=channels),), nn.ReLU6)
    return nn.Sequential(OrderedDict(depthwise=depthwise, across=nn.Conv2d(channels, rows, 1)))


class SSDLite(SSD):
    """Images are (B, 3, H, W), of 320 x 320 pixels in the paper, and of `spec.smallest` pixels or more.

    box_loss: see losses/boxes.py; default as the spec names it.
    """

    def __init__(self, spec: SSDSpec, *, box_loss: BoxLoss | None = None) -> None:
        super().__init__(spec, box_loss=box_loss, further=further, head=head)


# torchvision's for COCO, which has batches of 192 and a rate as many times as large.
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01875, "momentum": 0.9, "weight_decay": 4e-5, "batch_size": 24}
RECIPE |= {"epochs": 660, "schedule": "cosine", "flip": True}

VARIANTS = {
    # Maps of 20, 10, 5, 3, 2 and 1 places: 3234 default boxes.
    "ssdlite320_mobilenet_v3_large": SSDSpec(
        COCO,
        Preprocess((320, 320), "squash", 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        RECIPE,
        backbone="mobilenet_v3_large_reduced",
        strides=(16, 32),
        maps=("stage6.0.expand", "head"),
        score_threshold=0.001,
        nms_threshold=0.55,
        shortlist=300,
        detections=300,
        hidden=0,
        extra=((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 2, 1), (64, 128, 3, 2, 1)),
        norm=True,
        eps=1e-3,
        norm_momentum=0.03,
        shapes=(6, 6, 6, 6, 6, 6),
        scales=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
        evenly=True,
    ),
}
