"""Names in the files of Hugging Face's diffusers; those of attention also as they were before its version 0.15."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, rename

LEVEL = r"(down|up)_blocks\.(\d+)\."
RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "time",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
}
ATTENTION = {"group_norm": "norm"}
ATTENTION |= {"to_q": "attention.q", "to_k": "attention.k", "to_v": "attention.v", r"to_out\.0": "attention.out"}
ATTENTION |= {"query": "attention.q", "key": "attention.k", "value": "attention.v", "proj_attn": "attention.out"}


def unet(system: Any) -> list[Rule]:
    """Of UNet2DModel. Its levels count from 0, on the way up from the bottom."""
    count = len(system.spec.multiples)

    def level(name: re.Match[str]) -> int:
        number = int(name[2])
        return number + 1 if name[1] == "down" else count - number

    def within(part: str) -> Callable[[re.Match[str]], str]:
        return lambda name: f"network.{name[1]}{level(name)}.{name[3]}.{part}."

    rules = [
        Rule(r"time_embedding\.linear_([12])\.", r"network.time\1."),
        Rule(r"class_embedding\.", "network.classes."),
        Rule(r"conv_norm_out\.", "network.norm_out."),
        Rule(r"conv_(in|out)\.", r"network.conv_\1."),
        Rule(LEVEL + r"downsamplers\.0\.", lambda name: f"network.halve{level(name)}."),
        Rule(LEVEL + r"upsamplers\.0\.", lambda name: f"network.double{level(name)}."),
    ]
    for kind, ours, parts in (("resnets", "residual", RESIDUAL), ("attentions", "attention", ATTENTION)):
        for theirs, part in parts.items():
            rules.append(Rule(LEVEL + rf"{kind}\.(\d+)\.{theirs}\.", within(f"{ours}.{part}")))
            rules.append(Rule(rf"mid_block\.{kind}\.(\d+)\.{theirs}\.", rf"network.middle.\1.{ours}.{part}."))
    return rules


FAMILIES: dict[str, Table] = {"DDPM": unet}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """diffusers' weights for a system under our names; None where the names are not theirs."""
    return rename(FAMILIES, system, state)
