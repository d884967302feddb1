"""Names in timm's checkpoints, by family, where they are not torchvision's, as those of its ResNet and DenseNet are."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, matrix, rename
from foveal.weights.torchvision import vgg_features

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

# Blocks of its residual networks of the first kind, whose names are torchvision's.
RESIDUAL = (
    Rule(r"layer(\d+)\.(\d+)\.conv(\d)\.", r"stage\1.\2.branch.conv\3."),
    Rule(r"layer(\d+)\.(\d+)\.bn(\d)\.", r"stage\1.\2.branch.norm\3."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.0\.", r"stage\1.\2.shortcut.conv."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.1\.", r"stage\1.\2.shortcut.norm."),
)


def senet(system: Any) -> list[Rule]:
    """legacy_* have the names of the files that the authors' networks were first brought to PyTorch in."""
    if system.spec.caffe:
        number = r"\1" if system.spec.deep else ""
        return [
            Rule(r"layer0\.conv(\d)\.", f"stem.conv{number}."),
            Rule(r"layer0\.bn(\d)\.", f"stem.norm{number}."),
            *RESIDUAL,
            Rule(r"layer(\d+)\.(\d+)\.se_module\.", r"stage\1.\2.excite."),
            Rule(r"last_linear\.", "classifier."),
        ]
    deep = [(0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2"), (6, "conv3")]
    stem = [Rule(rf"conv1\.{place}\.", f"stem.{ours}.") for place, ours in deep] if system.spec.deep else []
    return [
        *stem,
        Rule(r"conv1\.", "stem.conv."),
        Rule(r"bn1\.", "stem.norm3." if system.spec.deep else "stem.norm."),
        *RESIDUAL,
        Rule(r"layer(\d+)\.(\d+)\.se\.", r"stage\1.\2.excite."),
        Rule(r"fc\.", "classifier."),
    ]


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
    Rule(r"dist_token$", "distillation_token"),
    Rule(r"head_dist\.", "distillation_classifier."),
)


SWIN_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."


def swin_block(ours: str) -> Callable[[re.Match[str]], str]:
    """For names that begin with SWIN_BLOCK, whose stages count from 0."""
    return lambda name: f"stage{int(name[1]) + 1}.{name[2]}.{ours}"


SWIN_BLOCKS = (
    Rule(r"patch_embed\.proj\.weight$", "stem.linear.weight", matrix),
    Rule(r"patch_embed\.proj\.", "stem.linear."),
    Rule(r"patch_embed\.norm\.", "stem.norm."),
    # Constants that older files have beside the weights.
    Rule(SWIN_BLOCK + r"(attn\.relative_position_index|attn_mask)$", None),
    Rule(SWIN_BLOCK + r"attn\.relative_position_bias_table$", swin_block("attention.table")),
    Rule(SWIN_BLOCK + r"attn\.qkv\.", swin_block("attention.inside.qkv.")),
    Rule(SWIN_BLOCK + r"attn\.proj\.", swin_block("attention.inside.out.")),
    Rule(SWIN_BLOCK, swin_block("")),
    Rule(r"norm\.", "norm."),
)

# A merging is counted with the stage that follows it.
SWIN = (
    *SWIN_BLOCKS,
    Rule(r"layers\.(\d+)\.downsample\.", r"merge\1."),
    Rule(r"head\.fc\.", "classifier."),
)

MIXER = (
    Rule(r"stem\.proj\.", "patch_embedding."),
    Rule(r"blocks\.(\d+)\.(?=norm|mlp_)", r"blocks.\1."),
    Rule(r"norm\.", "norm."),
    Rule(r"head\.", "classifier."),
)


def mobilenet(system: Any) -> list[Rule]:
    """Norms are counted within a block, and a pointwise convolution is the first where it expands, else the last."""
    rules = [Rule(r"conv_stem\.", "stem.conv."), Rule(r"bn1\.", "stem.norm.")]
    for name, block in system.blocks.items():
        stage, number = name.removeprefix("stage").split(".")
        theirs = rf"blocks\.{int(stage) - 1}\.{number}\."
        expands = "expand" in block.parts
        convs = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl" if expands else "conv_pw"}
        parts = [part for part in block.parts if part != "excite"]
        for place, part in enumerate(parts, 1):
            rules.append(Rule(theirs + rf"{convs[part]}\.", f"{name}.{part}.conv."))
            rules.append(Rule(theirs + rf"bn{place}\.", f"{name}.{part}.norm."))
        rules.append(Rule(theirs + r"se\.conv_reduce\.", f"{name}.excite.fc1."))
        rules.append(Rule(theirs + r"se\.conv_expand\.", f"{name}.excite.fc2."))
    if system.spec.hidden:
        head = rf"blocks\.{len(system.spec.stages)}\.0\."
        rules += [Rule(head + r"conv\.", "head.conv."), Rule(head + r"bn1\.", "head.norm.")]
        rules += [Rule(r"conv_head\.weight$", "hidden.linear.weight", matrix), Rule(r"conv_head\.", "hidden.linear.")]
    else:
        rules += [Rule(r"conv_head\.", "head.conv."), Rule(r"bn2\.", "head.norm.")]
    return [*rules, Rule(r"classifier\.", "classifier.")]


def vgg(system: Any) -> list[Rule]:
    """Its hidden layers are convolutions, the first one as large as the map."""
    return [
        *vgg_features(system),
        Rule(r"pre_logits\.fc([12])\.weight$", r"classifier.fc\1.weight", matrix),
        Rule(r"pre_logits\.fc([12])\.", r"classifier.fc\1."),
        Rule(r"head\.fc\.", "classifier.output."),
    ]


FAMILIES: dict[str, Table] = {
    "VGG": vgg,
    "ResNet": RESNET,
    "MobileNet": mobilenet,
    "SENet": senet,
    "Swin": SWIN,
    "ViT": VIT,
    "Mixer": MIXER,
}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """timm's weights for a system under our names; None where the names are not timm's."""
    return rename(FAMILIES, system, state)
