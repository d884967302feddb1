"""DCGAN: Radford, Metz and Chintala 2015, "Unsupervised representation learning with deep convolutional generative
adversarial networks", arXiv:1511.06434.

A GAN (gan.py) of convolutions alone. The generator begins with a map of 4 x 4, which transposed convolutions double,
with half the channels each time; the discriminator is its mirror image and halves by steps of two. There is no pooling,
and there are batch norms everywhere but where images come out or go in:

    z (B, 100) -> 512 x 4 x 4 -> 256 x 8 x 8 -> 128 x 16 x 16 -> 64 x 32 x 32 -> 3 x 64 x 64

Widths and layout are those of the program that is known under this name (pytorch/examples), half of the paper's.
Departs from the paper: with a penalty, which is on the slope at each image alone, the discriminator has layer norms
instead of batch norms, which mix images (Gulrajani et al. 2017, section 4).
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.generate.gan import RECIPE, SLOPE, Adversarial, AdversarialSpec, Judge, Maker, grey
from foveal.nn.norm import NORMS
from foveal.system import Preprocess

SMALLEST = 4  # side of the smallest map


@dataclass(frozen=True)
class DCGANSpec(AdversarialSpec):
    """
    width: channels of the largest map; each half as large has twice as many.
    """

    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"width must be at least 1, not {self.width}")
        height, width = self.preprocess.size
        if height != width or height < 2 * SMALLEST or height & (height - 1):
            raise InputError(f"dcgan doubles {SMALLEST} pixels to 8, 16, 32, 64 ..., not to {height} x {width}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the maps, from the smallest to the largest."""
        doublings = (self.preprocess.size[0] // SMALLEST).bit_length() - 1
        return tuple(self.width * 2**i for i in reversed(range(doublings)))


class DCGAN(Adversarial):
    """Images are (B, 3, H, H) of the one size in `preprocess`, a power of two."""

    spec: DCGANSpec

    def __init__(self, spec: DCGANSpec) -> None:
        super().__init__(spec)
        for layer in self.modules():  # section 4 of the paper
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def build_generator(self, inputs: int) -> Maker:
        first, *others = self.spec.widths
        stages = OrderedDict[str, nn.Module](point=nn.Unflatten(1, (inputs, 1, 1)))
        stages["stage1"] = grown(nn.ConvTranspose2d(inputs, first, SMALLEST, bias=False))  # (B, first, 4, 4)
        for i, (a, b) in enumerate(pairwise((first, *others)), 2):
            stages[f"stage{i}"] = grown(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False))  # twice the side
        stages["output"] = nn.ConvTranspose2d(self.spec.widths[-1], self.shape[0], 4, 2, 1, bias=False)
        stages["tanh"] = nn.Tanh()
        return Maker(nn.Sequential(stages), self.spec.latent, len(self.labels))

    def build_discriminator(self) -> Judge:
        norm = NORMS["batch" if self.spec.penalty == "none" else "layer"]
        stages = OrderedDict[str, nn.Module]()
        widths = self.shape[0], *reversed(self.spec.widths)
        for i, (a, b) in enumerate(pairwise(widths), 1):
            layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(a, b, 4, 2, 1, bias=False))  # half the side
            if i > 1:
                layers["norm"] = norm(b)
            stages[f"stage{i}"] = nn.Sequential(OrderedDict(layers, act=nn.LeakyReLU(SLOPE)))
        score = nn.Conv2d(widths[-1], 1, SMALLEST, bias=False)
        features = widths[-1] * SMALLEST**2
        return Judge(nn.Sequential(stages), score, features, len(self.labels))


def grown(conv: nn.ConvTranspose2d) -> nn.Sequential:
    """A stage of the generator."""
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(conv.out_channels), relu=nn.ReLU()))


HALVES = (0.5, 0.5, 0.5)

VARIANTS = {
    "dcgan": DCGANSpec(
        (), Preprocess((64, 64), "crop", 1.0, HALVES, HALVES), {**RECIPE, "epochs": 25, "batch_size": 128}
    ),
    "dcgan_nano": DCGANSpec(
        DIGITS,
        grey(16),
        {**RECIPE, "epochs": 60, "lr": 5e-4, "batch_size": 32, "ema": 0.995, "shift": 0.0625},
        latent=32,
        width=32,
    ),
}
