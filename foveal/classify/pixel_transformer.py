"""A standard transformer on pixels, where each pixel is a token: what came to mind before the Vision Transformer.

    z_0 = pixels E + positions,  z_l = block_l(z_{l-1}),  scores = norm(mean of z_depth) W

Nothing in it knows that an image has two dimensions; which pixels are neighbours has to be learned. It is vit.py with
patches of one pixel, which is all there is to say about what it computes. Chen et al. 2020, "Generative pretraining
from pixels" (iGPT), classify with the mean over the tokens of such a network; Nguyen et al. 2024, "An image is worth
more than 16x16 patches", arXiv:2406.09415, train it for classes from the start.

The price is memory. R x R pixels are T = R^2 tokens, and each head of each block weighs all pairs of them:

    T x T = R^4 entries an attention matrix: 4 thousand for R = 8, a million for 32, 2.5 billion for 224

`foveal cost` counts them. Patches of P x P pixels make them P^4 times fewer, 65,536 times for P = 16: the step from
here to the Vision Transformer.

Departs from iGPT: colours are three numbers and not one of 512 clusters, no token is hidden from another, and the
network is not trained to generate.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.classify.resnet import CIFAR
from foveal.classify.vit import ViT, ViTSpec
from foveal.errors import InputError
from foveal.system import Preprocess


@dataclass(frozen=True)
class PixelTransformerSpec(ViTSpec):
    """
    patch: always 1.
    pool:  default the mean of the pixels.
    """

    patch: int = 1
    width: int = 192
    heads: int = 3
    pool: Literal["token", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch != 1:
            raise InputError(f"each pixel is a token, so patch is 1, not {self.patch}; the systems vit_* have patches")


class PixelTransformer(ViT):
    """Images are (B, 3, H, W) of the one size in `preprocess`. A step needs memory for H W x H W numbers for each head
    of each block, unless torch has a fused attention for the device."""

    spec: PixelTransformerSpec


RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "clip": 1.0, "warmup": 2.0}
RECIPE |= {"batch_size": 64, "epochs": 100, "shift": 0.125, "flip": True, "label_smoothing": 0.1}

BASE = PixelTransformerSpec(CIFAR_10, CIFAR, RECIPE)

VARIANTS = {
    "pixel_transformer": BASE,
    "pixel_transformer_nano": replace(
        BASE,
        labels=DIGITS,
        preprocess=Preprocess((8, 8), "squash", 1.0, (0.5,) * 3, (0.5,) * 3),
        recipe={"epochs": 40, "lr": 0.003, "weight_decay": 0.05, "warmup": 0.5},
        width=48,
        depth=3,
        heads=4,
        mlp_ratio=2.0,
        position_std=0.5,
    ),
}
