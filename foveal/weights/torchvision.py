"""Names in torchvision's checkpoints, by family."""

from collections.abc import Mapping

from torch import Tensor

from foveal.weights.rules import Rule, rename

RESNET = (
    Rule(r"conv1\.", "stem.conv."),
    Rule(r"bn1\.", "stem.norm."),
    Rule(r"layer(\d+)\.(\d+)\.conv(\d)\.", r"stage\1.\2.branch.conv\3."),
    Rule(r"layer(\d+)\.(\d+)\.bn(\d)\.", r"stage\1.\2.branch.norm\3."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.0\.", r"stage\1.\2.shortcut.conv."),
    Rule(r"layer(\d+)\.(\d+)\.downsample\.1\.", r"stage\1.\2.shortcut.norm."),
    Rule(r"fc\.", "classifier."),
)

FAMILIES = {
    "ResNet": RESNET,
}


def convert(family: type, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's weights of a family under our names; None where the names are not torchvision's."""
    return rename(FAMILIES, family, state)
