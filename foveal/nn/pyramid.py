"""Feature pyramid networks (Lin, Dollar, Girshick, He, Hariharan and Belongie 2016, arXiv:1612.03144)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

Extra = Literal["none", "pool", "convolve_last", "convolve_input"]


def convolution(channels: int, width: int, size: int, norm: bool) -> nn.Module:
    """(B, channels, H, W) -> (B, width, H, W), with a batch norm in the place of the bias or without one."""
    if not norm:
        return nn.Conv2d(channels, width, size, padding=size // 2)
    layers = nn.Conv2d(channels, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width)
    return nn.Sequential(OrderedDict(zip(("conv", "norm"), layers, strict=True)))


class FeaturePyramid(nn.Module):
    """Maps C_i of falling size -> as many maps P_i of `width` channels and the same sizes, then coarser ones.

        P_i = smooth_i(M_i),  M_i = lateral_i(C_i) + upsample(M_i+1)

    channels: of each map that comes in, finest first.
    extra:    what makes coarser maps: nothing; "pool", every other place of the last one (Faster R-CNN), one map;
              "convolve_last", two by 3x3 convolutions of stride 2 from the last P on (FCOS, torchvision's RetinaNet);
              "convolve_input", the same from the last C on (the RetinaNet of its paper, arXiv:1708.02002).
    norm:     a batch norm follows each of these convolutions, which then has no bias.
    count:    how many maps come out.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, extra: Extra = "none", norm: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(convolution(each, width, 1, norm) for each in channels)
        self.smooth = nn.ModuleList(convolution(width, width, 3, norm) for _ in channels)
        self.extra = extra
        self.coarser = nn.ModuleList()
        if extra.startswith("convolve"):
            entering = (channels[-1] if extra == "convolve_input" else width, width)
            self.coarser.extend(nn.Conv2d(each, width, 3, 2, padding=1) for each in entering)
        self.relu = nn.ReLU()
        self.count = len(channels) + {"none": 0, "pool": 1}.get(extra, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + interpolate(merged[i + 1], merged[i].shape[2:], mode="nearest")
        pyramid = [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]
        if self.extra == "pool":
            pyramid.append(max_pool2d(pyramid[-1], 1, 2))
        x = maps[-1] if self.extra == "convolve_input" else pyramid[-1]
        for number, convolution in enumerate(self.coarser):
            x = convolution(self.relu(x) if number else x)
            pyramid.append(x)
        return pyramid
