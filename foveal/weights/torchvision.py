"""Names in torchvision's checkpoints, by family."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, matrix, rename

# AlexNet's layers are counted with those that have no weights.
ALEXNET = (
    *(Rule(rf"features\.{n}\.", f"stage{stage}.conv.") for stage, n in enumerate((0, 3, 6, 8, 10), 1)),
    Rule(r"classifier\.1\.", "classifier.fc1."),
    Rule(r"classifier\.4\.", "classifier.fc2."),
    Rule(r"classifier\.6\.", "classifier.output."),
)

UNIT = r"(conv|bn)\."


def unit(begin: str) -> Callable[[re.Match[str]], str]:
    """For names that end with UNIT: the template `begin`, with our word for it."""
    return lambda name: name.expand(begin) + {"conv": "conv.", "bn": "norm."}[name[name.re.groups]]


MODULE = r"inception(\d)([a-e])\."

GOOGLENET = (
    Rule(r"conv(\d)\." + UNIT, unit(r"stem.unit\1.")),
    Rule(MODULE + r"branch1\." + UNIT, unit(r"stage\1.\2.branch1.")),
    Rule(MODULE + r"branch([23])\.0\." + UNIT, unit(r"stage\1.\2.branch\3.reduce.")),
    Rule(MODULE + r"branch([23])\.1\." + UNIT, unit(r"stage\1.\2.branch\3.spatial.")),
    Rule(MODULE + r"branch4\.1\." + UNIT, unit(r"stage\1.\2.branch4.project.")),
    Rule(r"aux(\d)\.conv\." + UNIT, unit(r"auxiliary\1.reduce.")),
    Rule(r"aux(\d)\.fc1\.", r"auxiliary\1.fc."),
    Rule(r"aux(\d)\.fc2\.", r"auxiliary\1.output."),
    Rule(r"fc\.", "classifier."),
)

RESNET = (
    Rule(r"conv1\.", "stem.conv."),
    Rule(r"bn1\.", "stem.norm."),
    Rule(r"layer(\d+)\.(\d+)\.conv(\d)\.", r"stage\1.\2.branch.conv\3."),
    Rule(r"layer(\d+)\.(\d+)\.bn(\d)\.", r"stage\1.\2.branch.norm\3."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.0\.", r"stage\1.\2.shortcut.conv."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.1\.", r"stage\1.\2.shortcut.norm."),
    Rule(r"fc\.", "classifier."),
)

# Published files have a dot before the numbers of a layer, "norm.1"; its loader takes it out.
DENSENET = (
    Rule(r"features\.(conv|norm)0\.", r"stem.\1."),
    Rule(
        r"features\.denseblock(\d+)\.denselayer(\d+)\.(norm|conv)\.?(\d)\.",
        lambda name: f"stage{name[1]}.{int(name[2]) - 1}.branch.{name[3]}{name[4]}.",
    ),
    Rule(r"features\.transition(\d+)\.(norm|conv)\.", r"transition\1.\2."),
    Rule(r"features\.norm5\.", "activate.norm."),
    Rule(r"classifier\.", "classifier."),
)

LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."

VIT = (
    Rule(r"class_token$", "class_token"),
    Rule(r"conv_proj\.", "patch_embedding."),
    Rule(r"encoder\.pos_embedding$", "position_embedding"),
    Rule(LAYER + r"ln_(\d)\.", r"blocks.\1.norm\2."),
    Rule(LAYER + r"self_attention\.in_proj_", r"blocks.\1.attention.qkv."),
    Rule(LAYER + r"self_attention\.out_proj\.", r"blocks.\1.attention.out."),
    Rule(LAYER + r"mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),  # files from before 2022 have the word
    Rule(LAYER + r"mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    Rule(r"encoder\.ln\.", "norm."),
    Rule(r"heads\.head\.", "classifier."),
)


PART = r"features\.(\d+)\."


def swin_block(ours: str) -> Callable[[re.Match[str]], str]:
    """For names of blocks. Its parts are counted through: the stem, stage1, merge1, stage2, merge2 ..."""
    return lambda name: f"stage{(int(name[1]) + 1) // 2}.{name[2]}.{ours}"


SWIN = (
    Rule(r"features\.0\.0\.weight$", "stem.linear.weight", matrix),
    Rule(r"features\.0\.0\.", "stem.linear."),
    Rule(r"features\.0\.2\.", "stem.norm."),
    Rule(PART + r"(?=norm|reduction)", lambda name: f"merge{int(name[1]) // 2}."),
    Rule(PART + r"(\d+)\.attn\.relative_position_index$", None),
    Rule(PART + r"(\d+)\.attn\.relative_position_bias_table$", swin_block("attention.table")),
    Rule(PART + r"(\d+)\.attn\.qkv\.", swin_block("attention.inside.qkv.")),
    Rule(PART + r"(\d+)\.attn\.proj\.", swin_block("attention.inside.out.")),
    Rule(PART + r"(\d+)\.mlp\.0\.", swin_block("mlp.fc1.")),
    Rule(PART + r"(\d+)\.mlp\.3\.", swin_block("mlp.fc2.")),
    Rule(PART + r"(\d+)\.(?=norm)", swin_block("")),
    Rule(r"norm\.", "norm."),
    Rule(r"head\.", "classifier."),
)


def mobilenet(system: Any) -> list[Rule]:
    """Blocks are numbered through, and so are the parts of each. In v2 the last part of a block is not one but two."""
    rules = [Rule(r"features\.0\.0\.", "stem.conv."), Rule(r"features\.0\.1\.", "stem.norm.")]
    for number, (name, block) in enumerate(system.blocks.items(), 1):
        theirs, last = rf"features\.{number}\.(?:conv|block)\.", len(block.parts) - 1
        for place, part in enumerate(block.parts):
            if part == "excite":
                rules.append(Rule(theirs + rf"{place}\.", f"{name}.excite."))
            else:
                rules.append(Rule(theirs + rf"{place}\.0\.", f"{name}.{part}.conv."))
                rules.append(Rule(theirs + rf"{place}\.1\.", f"{name}.{part}.norm."))
        rules.append(Rule(theirs + rf"{last}\.", f"{name}.project.conv."))
        rules.append(Rule(theirs + rf"{last + 1}\.", f"{name}.project.norm."))
    head = rf"features\.{len(system.blocks) + 1}\."
    rules += [Rule(head + r"0\.", "head.conv."), Rule(head + r"1\.", "head.norm.")]
    return [*rules, Rule(r"classifier\.0\.", "hidden.linear."), Rule(r"classifier\.\d\.", "classifier.")]


def vgg_features(system: Any) -> list[Rule]:
    """The convolutions of VGG, and their norms. Layers are counted through, with those that have no weights."""
    rules, n = list[Rule](), 0
    for stage, depth in enumerate(system.spec.depths, 1):
        for place in range(1, depth + 1):
            rules.append(Rule(rf"features\.{n}\.", f"stage{stage}.conv{place}."))
            rules.append(Rule(rf"features\.{n + 1}\.", f"stage{stage}.norm{place}."))
            n += 3 if system.spec.batch_norm else 2  # convolution, [norm], relu
        n += 1  # pooling
    return rules


def vgg(system: Any) -> list[Rule]:
    return [
        *vgg_features(system),
        Rule(r"classifier\.0\.", "classifier.fc1."),
        Rule(r"classifier\.3\.", "classifier.fc2."),
        Rule(r"classifier\.6\.", "classifier.output."),
    ]


# Of the 91 rows of what was trained on COCO those of its 80 classes; 0 is background.
COCO_ROWS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def background_last(shapes: int) -> Callable[[Tensor], Tensor]:
    """For the rows (A (1 + C), ...) of a head that scores A boxes at a place, background first: background last, and
    without the rows that COCO has no class for."""

    def change(rows: Tensor) -> Tensor:
        each = rows.unflatten(0, (shapes, -1))
        known = COCO_ROWS if each.shape[1] == 91 else list(range(1, each.shape[1]))
        return each[:, [*known, 0]].flatten(0, 1)

    return change


def ssd(system: Any) -> list[Rule]:
    """Those of SSD on VGG. The backbone ends before the pooling of its last stage but one; the rest is the first of
    what comes after it."""
    if type(system.base).__name__ != "VGG":
        return []
    depths, ours = system.base.spec.depths, "backbone.network."
    split = sum(depths[:-1])
    features = [rule for rule in vgg_features(system.base) if "conv" in str(rule.ours)]
    rules = [Rule(rf"backbone\.{rule.pattern}", f"{ours}{rule.ours}") for rule in features[:split]]
    for place in range(1, depths[-1] + 1):
        rules.append(Rule(rf"backbone\.extra\.0\.{2 * place - 1}\.", f"{ours}stage{len(depths)}.conv{place}."))
    hidden = rf"backbone\.extra\.0\.{2 * depths[-1] + 1}\."
    rules += [Rule(hidden + r"1\.", "hidden.conv1."), Rule(hidden + r"3\.", "hidden.conv2.")]
    for n in range(len(system.spec.extra)):
        theirs = rf"backbone\.extra\.{n + 1}\."
        rules += [Rule(theirs + r"0\.", f"extra.{n}.conv1."), Rule(theirs + r"2\.", f"extra.{n}.conv2.")]
    for n, shapes in enumerate(system.spec.shapes):
        theirs, changed = rf"head\.classification_head\.module_list\.{n}\.", background_last(shapes)
        rules.append(Rule(theirs, f"score_heads.{n}.", changed))
    rules.append(Rule(r"head\.regression_head\.module_list\.", "box_heads."))
    return [*rules, Rule(r"backbone\.scale_weight$", "backbone.scale")]


FAMILIES: dict[str, Table] = {
    "AlexNet": ALEXNET,
    "GoogLeNet": GOOGLENET,
    "VGG": vgg,
    "DenseNet": DENSENET,
    "ResNet": RESNET,
    "MobileNet": mobilenet,
    "Swin": SWIN,
    "ViT": VIT,
    "SSD": ssd,
}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's weights for a system under our names; None where the names are not torchvision's."""
    return rename(FAMILIES, system, state)
