"""The Vision Transformer: Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929.

The image is cut into square patches, each becomes a token by one linear map, and a plain transformer encoder does the
rest. Nothing tells it what lies beside what, but for one learned vector for each place:

    z_0 = [class token; patches E] + positions        equation 1 of the paper
    z_l = block_l(z_{l-1}), l = 1 ... depth           equations 2 and 3: foveal/nn/attention.py
    y = norm(z_depth of the class token)              equation 4; then one linear map to class scores

The small sizes are those of DeiT (Touvron et al. 2020, arXiv:2012.12877). With `pool="mean"` there is no class token,
and y = norm(mean of z_depth), as in Zhai et al. 2021, arXiv:2106.04560, and Beyer et al. 2022, arXiv:2205.01580.

Departs from the paper: the classifier is linear from the start (in the paper's pre-training it has a hidden layer) and
its weights do not start at zero, GELU is exact, and stochastic depth can be added, as users of it do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.attention import EncoderBlock
from foveal.nn.patches import other_side, patch_grid
from foveal.nn.stochastic_depth import linear_rule
from foveal.system import Preprocess


@dataclass(frozen=True)
class ViTSpec(ClassifierSpec):
    """
    patch:            side of a patch in pixels, of which the image's height and width are multiples.
    width:            channels of a token.
    depth:            number of blocks.
    heads:            of the attention in each block, by which the width is divided.
    mlp_ratio:        width in the middle of each block's mlp, as a multiple of `width`.
    pool:             what the classifier reads: "token", the class token, or "mean", the average of the patches.
    dropout:          probability, of the embedded patches and after each matrix but those of q, k and v.
    stochastic_depth: drop probability of the last block's branches, growing linearly from the first.
    position_std:     standard deviation of the positions at the start, beside embedded patches near one. Where there is
                      little to learn from, faint ones take most of the training to be found.
    """

    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    pool: Literal["token", "mean"] = "token"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    position_std: float = 0.02

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads, self.mlp_ratio * self.width) < 1:
            raise InputError("patch, width, depth, heads and the width of the mlp must be at least 1")
        check_drop("dropout", self.dropout)
        patch_grid(self.preprocess.size, self.patch)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.preprocess.size, self.patch)


class ViT(Classifier):
    """Images are (B, 3, H, W) of the one size in `preprocess`, whose places the positions are."""

    spec: ViTSpec
    one_size = True
    token_names: ClassVar[tuple[str, ...]] = ("class_token",)

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__(spec)
        self.patch_embedding = nn.Conv2d(spec.preprocess.channels, spec.width, spec.patch, spec.patch)
        self.tokens = self.token_names if spec.pool == "token" else ()
        for name in self.tokens:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, spec.width)))
        count = len(self.tokens) + spec.grid[0] * spec.grid[1]
        self.position_embedding = nn.Parameter(torch.empty(1, count, spec.width))
        self.dropout = nn.Dropout(spec.dropout)
        hidden = int(spec.mlp_ratio * spec.width)
        drops = linear_rule(spec.stochastic_depth, spec.depth)
        self.blocks = nn.Sequential(
            *(EncoderBlock(spec.width, spec.heads, hidden, dropout=spec.dropout, stochastic_depth=p) for p in drops)
        )
        # Two names, since published networks that average normalised tokens would fit one name, and be wrong.
        if spec.pool == "token":
            self.norm = nn.LayerNorm(spec.width, 1e-6)
        else:
            self.mean_norm = nn.LayerNorm(spec.width, 1e-6)
        self.classifier = nn.Linear(spec.width, len(spec.labels))
        # Embedded patches keep the variance of normalised pixels.
        nn.init.trunc_normal_(self.patch_embedding.weight, std=self.patch_embedding.weight[0].numel() ** -0.5)
        nn.init.normal_(self.position_embedding, std=spec.position_std)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        for layer in (self.patch_embedding, self.classifier):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.encode(images)
        y = self.norm(x[:, 0]) if self.tokens else self.mean_norm(x.mean(1))  # (B, width)
        return self.classifier(y)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z_depth (B, T + h w, width), the T `tokens` before the patches."""
        self.check_exact(images.shape[2:])
        return self._encode(self.normalize(images))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        self.check_exact(x.shape[2:])
        yield self.as_map(self._encode(x))  # (B, width, h, w): there is one, of the last block

    def _encode(self, x: Tensor) -> Tensor:
        x = self.patch_embedding(x)  # (B, width, h, w), h = H / patch, w = W / patch
        x = x.flatten(2).transpose(1, 2)  # (B, h w, width), row by row
        tokens = [getattr(self, name).expand(len(x), -1, -1) for name in self.tokens]
        return self.blocks(self.dropout(torch.cat([*tokens, x], 1) + self.position_embedding))

    @property
    def explained_layer(self) -> str:
        # What the last attention reads: after it, the class token alone is read, and patches no longer matter.
        return f"blocks.{self.spec.depth - 1}.norm1"

    def as_map(self, activation: Tensor) -> Tensor:
        """Tokens (B, 1 + h w, C) or (B, h w, C) -> (B, C, h, w), those left out that are no patches."""
        height, width = self.spec.grid
        if activation.ndim != 3 or activation.shape[1] not in (height * width, self.position_embedding.shape[1]):
            return super().as_map(activation)
        return activation[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        positions, kernel = weights.get("position_embedding"), weights.get("patch_embedding.weight")
        if positions is None or positions.ndim != 3 or kernel is None:
            return None
        count = positions.shape[1] - sum(name in weights for name in self.token_names)
        (height, width), side = self.spec.grid, other_side(count, self.spec.grid)
        if kernel.shape != self.patch_embedding.weight.shape or side is None:
            return None
        return (
            f"its positions are those of {side} x {side} patches, the system's of {height} x {width}; "
            f"create it with image_size={side * self.spec.patch}"
        )


HALVES = Preprocess(crop=0.9, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
DEIT = Preprocess(crop=224 / 248, interpolation="bicubic")
# Table 3 of the paper for ImageNet, with the rate of its batches of 4096 brought down to ours by the square root.
RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.3, "clip": 1.0, "warmup": 0.5}
RECIPE |= {"crop_scale": (0.08, 1.0), "flip": True, "label_smoothing": 0.1}

SMALL = Preprocess((16, 16), "squash", 1.0, (0.5,) * 3, (0.5,) * 3)
NANO_RECIPE: dict[str, Any] = {"epochs": 50, "lr": 0.002, "weight_decay": 0.05, "warmup": 0.5}
NANO_RECIPE |= {"shift": 0.125, "label_smoothing": 0.1}
NANO: dict[str, Any] = {"patch": 4, "width": 64, "depth": 3, "heads": 4, "mlp_ratio": 2.0, "position_std": 0.5}

VIT_B_16 = ViTSpec(IMAGENET_1K, Preprocess(), RECIPE)
VIT_L_16 = replace(VIT_B_16, preprocess=Preprocess(crop=224 / 242), width=1024, depth=24, heads=16)
VIT_T_16 = replace(VIT_B_16, preprocess=HALVES, width=192, heads=3)
VIT_S_16 = replace(VIT_T_16, width=384, heads=6)

VARIANTS = {
    "vit_b_16": VIT_B_16,
    "vit_b_32": replace(VIT_B_16, patch=32),
    "vit_l_16": VIT_L_16,
    "vit_l_32": replace(VIT_L_16, preprocess=Preprocess(), patch=32),
    "vit_t_16": VIT_T_16,
    "vit_s_16": VIT_S_16,
    "vit_s_32": replace(VIT_S_16, patch=32),
    "deit_tiny_patch16_224": replace(VIT_T_16, preprocess=DEIT),
    "deit_small_patch16_224": replace(VIT_S_16, preprocess=DEIT),
    "deit_base_patch16_224": replace(VIT_B_16, preprocess=DEIT),
    "vit_nano": ViTSpec(DIGITS, SMALL, NANO_RECIPE, **NANO),
}
