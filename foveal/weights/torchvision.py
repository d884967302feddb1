"""Names in torchvision's checkpoints, by family."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from foveal.weights.rules import Rule, Rules, rename

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


def vgg_features(state: Mapping[str, Tensor]) -> tuple[Rule, ...]:
    """The convolutions of VGG, and their norms. Layers are counted through, with those that have no weights, so that
    the longer step from one convolution to the next shows where a stage ends with pooling."""
    names = [re.match(r"features\.(\d+)\.weight$", name) for name, tensor in state.items() if tensor.dim() == 4]
    convolutions = sorted(int(name[1]) for name in names if name)
    step = 3 if "features.1.weight" in state else 2  # convolution, [norm], relu
    rules: list[Rule] = []
    stage, place, before = 1, 0, 0
    for n in convolutions:
        stage, place = (stage + 1, 1) if n - before > step else (stage, place + 1)
        rules.append(Rule(rf"features\.{n}\.", f"stage{stage}.conv{place}."))
        rules.append(Rule(rf"features\.{n + 1}\.", f"stage{stage}.norm{place}."))
        before = n
    return tuple(rules)


def vgg(state: Mapping[str, Tensor]) -> tuple[Rule, ...]:
    return (
        *vgg_features(state),
        Rule(r"classifier\.0\.", "classifier.fc1."),
        Rule(r"classifier\.3\.", "classifier.fc2."),
        Rule(r"classifier\.6\.", "classifier.output."),
    )


FAMILIES: dict[str, Rules] = {
    "AlexNet": ALEXNET,
    "GoogLeNet": GOOGLENET,
    "ResNet": RESNET,
    "VGG": vgg,
    "ViT": VIT,
}


def convert(family: type, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's weights of a family under our names; None where the names are not torchvision's."""
    return rename(FAMILIES, family, state)
