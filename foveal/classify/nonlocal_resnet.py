"""Self-attention added to a residual network: Wang, Girshick, Gupta and He 2017, "Non-local neural networks",
arXiv:1711.07971.

A convolution sees a few pixels about a place. A non-local block, set between two residual blocks, lets each place take
from all others what suits it:

    y_i = sum_j softmax_j(theta(x_i) . phi(x_j)) g(x_j)         equation 1 of the paper with 4, "embedded Gaussian"
    z_i = x_i + norm(W_z y_i)                                   equation 6

theta, phi, g and W_z are 1x1 convolutions, the first three to half the channels. The norm begins with a gain of zero,
so z = x: the block can be put into a network that is already trained without changing what it says. So a file of the
ResNet without such blocks is enough to start from, `create("resnet50_nonlocal", weights="resnet50.pth")`; the blocks
then begin anew, which `started_from` says.

Places are those of the paper: spread evenly over a stage, the last one at its end. The rest is resnet.py.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from foveal.classify import resnet
from foveal.classify.resnet import Block, PreactivationBlock, ResNet, ResNetSpec, convolution
from foveal.errors import InputError
from foveal.nn.attention import attend


@dataclass(frozen=True)
class NonLocalResNetSpec(ResNetSpec):
    """
    attention: number of non-local blocks in each stage, at most one after each residual block.
    subsample: keys and values are the largest of each 2x2 places, which makes the attention matrices four times
               smaller (section 3.3 of the paper).
    """

    attention: tuple[int, ...] = (0, 2, 3, 0)
    subsample: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = list(zip(self.attention, self.depths, strict=False))
        if len(self.attention) != len(self.depths) or any(not 0 <= count <= depth for count, depth in pairs):
            raise InputError(
                f"attention must give for each stage a number of non-local blocks from 0 to its depth, {self.depths}, "
                f"not {self.attention}"
            )

    def follows(self, stage: int) -> list[int]:
        """The residual blocks of a stage, both counted from 0, that a non-local block follows."""
        count, depth = self.attention[stage], self.depths[stage]
        return [(n + 1) * depth // count - 1 for n in range(count)]


class NonLocalBlock(nn.Module):
    """z = x + norm(W_z attend(theta(x), phi(x), g(x))), at the start z = x. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, subsample: bool = False) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta = convolution(channels, inner, 1)
        self.phi = convolution(channels, inner, 1)
        self.g = convolution(channels, inner, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if subsample else nn.Identity()
        self.out = convolution(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)  # sums of many channels follow, and no root of d tames them
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        q = self.theta(x)
        k, v = self.pool(self.phi(x)), self.pool(self.g(x))
        q, k, v = (maps.flatten(2).transpose(1, 2) for maps in (q, k, v))  # (B, H W or fewer, C / 2)
        y = attend(q, k, v, heads=1, scale=1.0)
        return x + self.norm(self.out(y.transpose(1, 2).unflatten(2, x.shape[2:])))


class NonLocalResNet(ResNet):
    """Images are (B, 3, H, W) of any size. In `stageN`, `attentionI` follows the residual block I (from 0)."""

    spec: NonLocalResNetSpec

    def __init__(self, spec: NonLocalResNetSpec) -> None:
        super().__init__(spec)
        for number in range(len(spec.depths)):
            stage = self.get_submodule(f"stage{number + 1}")
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            for name, block in stage.named_children():  # which keep their names, those of the network without attention
                modules[name] = block
                if int(name) in spec.follows(number):
                    assert isinstance(block, Block | PreactivationBlock)
                    modules[f"attention{name}"] = NonLocalBlock(block.out, spec.subsample)
            self.add_module(f"stage{number + 1}", nn.Sequential(modules))

    def optional(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        # Some without others would be a damaged file.
        own = tuple(name for name in self.state_dict() if ".attention" in name)
        return () if any(".attention" in name for name in weights) else own


def nonlocal_resnet(spec: ResNetSpec, attention: tuple[int, ...]) -> NonLocalResNetSpec:
    """A ResNet with these numbers of non-local blocks in its stages."""
    return NonLocalResNetSpec(**{**vars(spec), "attention": attention})


VARIANTS = {
    "resnet50_nonlocal": nonlocal_resnet(resnet.RESNET50, (0, 2, 3, 0)),
    "resnet101_nonlocal": nonlocal_resnet(resnet.RESNET101, (0, 2, 3, 0)),
    "resnet_nonlocal_nano": nonlocal_resnet(resnet.VARIANTS["resnet_nano"], (0, 1, 1)),
}
