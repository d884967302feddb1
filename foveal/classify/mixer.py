"""MLP-Mixer: Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP architecture for vision", arXiv:2105.01601.

The image is cut into square patches, each becomes a token by one linear map. Then two kinds of mlp take turns: one over
the places, the same for each channel, and one over the channels, the same for each place. The first stands where a
transformer has its attention, with weights that are learned and not found anew for each image:

    x' = x + W_2 gelu(W_1 norm(x))          along the T tokens        equation 1 of the paper
    y  = x' + W_4 gelu(W_3 norm(x'))        along the C channels

The class scores are a linear map of norm(y), averaged over the tokens. There are no positions to add: the matrices of
the first mlp know each token by its place, which is why the image's size is fixed when the system is made. One thing is
of no use, and kept since published weights have it: the bias beside W_2 adds one number to all channels of a token,
which every norm that follows takes away again.

Departs from the paper: the classifier's weights do not start at zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from foveal.classify.classifier import Classifier, ClassifierSpec
from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.errors import InputError, check_drop
from foveal.nn.attention import mlp
from foveal.nn.patches import other_side, patch_grid
from foveal.nn.stochastic_depth import StochasticDepth, linear_rule
from foveal.system import Preprocess


@dataclass(frozen=True)
class MixerSpec(ClassifierSpec):
    """
    patch:            side of a patch in pixels, of which the image's height and width are multiples.
    width:            channels of a token, C.
    depth:            number of blocks.
    token_hidden:     width in the middle of each mlp along the tokens, D_S in the paper.
    channel_hidden:   the same along the channels, D_C in the paper.
    dropout:          probability, after each matrix of both mlps.
    stochastic_depth: drop probability of the last block's branches, growing linearly from the first.
    """

    patch: int = 16
    width: int = 768
    depth: int = 12
    token_hidden: int = 384
    channel_hidden: int = 3072
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.token_hidden, self.channel_hidden) < 1:
            raise InputError("patch, width, depth, token_hidden and channel_hidden must be at least 1")
        check_drop("dropout", self.dropout)
        patch_grid(self.preprocess.size, self.patch)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.preprocess.size, self.patch)


class MixerBlock(nn.Module):
    """x' = x + mlp_tokens(norm1(x)^T)^T, y = x' + mlp_channels(norm2(x')). (B, tokens, C) -> (B, tokens, C).

    drop: probability that each of the two branches is left out in training.
    """

    def __init__(self, spec: MixerSpec, tokens: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, 1e-6)
        self.mlp_tokens = mlp(tokens, spec.token_hidden, spec.dropout)
        self.norm2 = nn.LayerNorm(spec.width, 1e-6)
        self.mlp_channels = mlp(spec.width, spec.channel_hidden, spec.dropout)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mlp_tokens(self.norm1(x).transpose(1, 2))  # (B, C, tokens)
        x = x + self.drop(mixed.transpose(1, 2))
        return x + self.drop(self.mlp_channels(self.norm2(x)))


class Mixer(Classifier):
    """Images are (B, 3, H, W) of the one size in `preprocess`, for whose places the matrices are."""

    spec: MixerSpec
    one_size = True

    def __init__(self, spec: MixerSpec) -> None:
        super().__init__(spec)
        self.patch_embedding = nn.Conv2d(spec.preprocess.channels, spec.width, spec.patch, spec.patch)
        tokens = spec.grid[0] * spec.grid[1]
        drops = linear_rule(spec.stochastic_depth, spec.depth)
        self.blocks = nn.Sequential(*(MixerBlock(spec, tokens, p) for p in drops))
        self.norm = nn.LayerNorm(spec.width, 1e-6)
        self.classifier = nn.Linear(spec.width, len(spec.labels))
        # Embedded patches keep the variance of normalised pixels.
        nn.init.trunc_normal_(self.patch_embedding.weight, std=self.patch_embedding.weight[0].numel() ** -0.5)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        for layer in (self.patch_embedding, self.classifier):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        self.check_exact(images.shape[2:])
        return self.classifier(self.norm(self._mixed(self.normalize(images))).mean(1))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        self.check_exact(x.shape[2:])
        yield self.as_map(self._mixed(x))  # (B, C, h, w): there is one, of the last block

    def _mixed(self, x: Tensor) -> Tensor:
        x = self.patch_embedding(x)  # (B, C, h, w), h = H / patch, w = W / patch
        return self.blocks(x.flatten(2).transpose(1, 2))  # (B, h w, C), row by row

    @property
    def explained_layer(self) -> str:
        return "norm"  # what the classifier averages

    def as_map(self, activation: Tensor) -> Tensor:
        """Tokens (B, h w, C) -> (B, C, h, w)."""
        height, width = self.spec.grid
        if activation.shape[1:] != (height * width, self.spec.width):
            return super().as_map(activation)
        return activation.transpose(1, 2).unflatten(2, (height, width))

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        matrix, kernel = weights.get("blocks.0.mlp_tokens.fc1.weight"), weights.get("patch_embedding.weight")
        if matrix is None or matrix.ndim != 2 or kernel is None:
            return None
        (height, width), side = self.spec.grid, other_side(matrix.shape[1], self.spec.grid)
        if kernel.shape != self.patch_embedding.weight.shape or side is None:
            return None
        return (
            f"it mixes the tokens of {side} x {side} patches, the system those of {height} x {width}; "
            f"create it with image_size={side * self.spec.patch}"
        )


HALVES = (0.5, 0.5, 0.5)
# Section 3 of the paper for ImageNet, with a rate for our smaller batches as in vit.py.
RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.1, "clip": 1.0, "warmup": 0.5}
RECIPE |= {"crop_scale": (0.08, 1.0), "flip": True, "label_smoothing": 0.1}

# Table 1 of the paper.
B16 = MixerSpec(IMAGENET_1K, Preprocess(mean=HALVES, std=HALVES, interpolation="bicubic"), RECIPE)
S16 = replace(B16, width=512, depth=8, token_hidden=256, channel_hidden=2048)
L16 = replace(B16, width=1024, depth=24, token_hidden=512, channel_hidden=4096)

VARIANTS = {
    "mixer_s16_224": S16,
    "mixer_s32_224": replace(S16, patch=32),
    "mixer_b16_224": B16,
    "mixer_b32_224": replace(B16, patch=32),
    "mixer_l16_224": L16,
    "mixer_l32_224": replace(L16, patch=32),
    "mixer_nano": MixerSpec(
        DIGITS,
        Preprocess((16, 16), "squash", 1.0, HALVES, HALVES),
        {"epochs": 30, "lr": 0.002, "weight_decay": 0.05, "warmup": 0.5, "shift": 0.125, "label_smoothing": 0.1},
        patch=4,
        width=64,
        depth=3,
        token_hidden=32,
        channel_hidden=128,
    ),
}
