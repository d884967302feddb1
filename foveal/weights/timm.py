"""Names in timm's checkpoints, by family, where they are not torchvision's, as those of its ResNet are."""

from collections.abc import Mapping

from torch import Tensor

from foveal.weights.rules import Rule, Rules, rename
from foveal.weights.torchvision import vgg_features


def matrix(weight: Tensor) -> Tensor:
    """The (C, D, h, w) of a convolution that is as large as its map as a linear layer's (C, D h w)."""
    return weight.flatten(1) if weight.dim() == 4 else weight


BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."

# timm's pre-activation networks, resnetv2_*. Its stages count from 0, and their classifier is a 1x1 convolution.
RESNET = (
    Rule(r"stem\.conv\.", "stem.conv."),
    Rule(BLOCK + r"norm1\.", lambda name: f"stage{int(name[1]) + 1}.{name[2]}.activate.norm."),
    Rule(BLOCK + r"(?=norm|conv)", lambda name: f"stage{int(name[1]) + 1}.{name[2]}.branch."),
    Rule(BLOCK + r"downsample\.conv\.", lambda name: f"stage{int(name[1]) + 1}.{name[2]}.shortcut.conv."),
    Rule(r"norm\.", "activate.norm."),
    Rule(r"head\.fc\.weight$", "classifier.weight", matrix),
    Rule(r"head\.fc\.", "classifier."),
)

VIT = (
    Rule(r"cls_token$", "class_token"),
    Rule(r"patch_embed\.proj\.", "patch_embedding."),
    Rule(r"pos_embed$", "position_embedding"),
    Rule(r"blocks\.(\d+)\.(?=norm|mlp)", r"blocks.\1."),
    Rule(r"blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.attention.qkv."),
    Rule(r"blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attention.out."),
    Rule(r"norm\.", "norm."),
    Rule(r"fc_norm\.", "mean_norm."),
    Rule(r"head\.", "classifier."),
)


def vgg(state: Mapping[str, Tensor]) -> tuple[Rule, ...]:
    """Its hidden layers are convolutions, the first one as large as the map."""
    return (
        *vgg_features(state),
        Rule(r"pre_logits\.fc([12])\.weight$", r"classifier.fc\1.weight", matrix),
        Rule(r"pre_logits\.fc([12])\.", r"classifier.fc\1."),
        Rule(r"head\.fc\.", "classifier.output."),
    )


FAMILIES: dict[str, Rules] = {
    "ResNet": RESNET,
    "VGG": vgg,
    "ViT": VIT,
}


def convert(family: type, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """timm's weights of a family under our names; None where the names are not timm's."""
    return rename(FAMILIES, family, state)
