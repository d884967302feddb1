"""Names in the checkpoints of the packages efficientnet-pytorch and efficientnet-lite-pytorch, by family."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, rename


def mobilenet(system: Any) -> list[Rule]:
    """Blocks are numbered through; norms have numbers of their part."""
    rules = [Rule(r"_conv_stem\.", "stem.conv."), Rule(r"_bn0\.", "stem.norm.")]
    for number, name in enumerate(system.blocks):
        for place, part in enumerate(("expand", "depthwise", "project")):
            rules.append(Rule(rf"_blocks\.{number}\._{part}_conv\.", f"{name}.{part}.conv."))
            rules.append(Rule(rf"_blocks\.{number}\._bn{place}\.", f"{name}.{part}.norm."))
    rules += [Rule(r"_conv_head\.", "head.conv."), Rule(r"_bn1\.", "head.norm.")]
    return [*rules, Rule(r"_fc\.", "classifier.")]


FAMILIES: dict[str, Table] = {"MobileNet": mobilenet}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The packages' weights for a system under our names; None where the names are not theirs."""
    return rename(FAMILIES, system, state)
