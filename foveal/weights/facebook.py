"""Names in the checkpoints of DETR's authors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights import torchvision
from foveal.weights.rules import COCO_ROWS, Rule, Table, rename

BODY = "backbone.0.body."  # a backbone under torchvision's names
PACKED = r"transformer\.(.*attn)\.in_proj_(weight|bias)$"  # the matrices of q, k and v as one


def known_classes(system: System, rows: Tensor) -> Tensor:
    """Rows of scores, "no object" last; of those that count COCO's numbers through, the ones that have a class."""
    counted = len(rows) == 92 and len(system.labels) != 91
    return rows[[*COCO_ROWS, 91]] if counted else rows


ATTENTION = r"transformer\.(encoder|decoder)\.layers\.(\d+)\.self_attn\."
CROSS = r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\."


def detr(system: Any) -> list[Rule]:
    return [
        Rule(r"input_proj\.", "projection."),
        Rule(ATTENTION + r"out_proj\.", r"\1.\2.attention.out."),
        Rule(ATTENTION, r"\1.\2.attention."),
        Rule(CROSS + r"out_proj\.", r"decoder.\1.cross_attention.out."),
        Rule(CROSS, r"decoder.\1.cross_attention."),
        Rule(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.linear(\d)\.", r"\1.\2.mlp.fc\3."),
        Rule(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.norm(\d)\.", r"\1.\2.norm\3."),
        Rule(r"transformer\.decoder\.norm\.", "norm."),
        Rule(r"query_embed\.", "queries."),
        Rule(r"class_embed\.", "classifier.", lambda rows: known_classes(system, rows)),
        Rule(r"bbox_embed\.layers\.(\d+)\.", lambda name: f"box.{2 * int(name[1])}."),
    ]


FAMILIES: dict[str, Table] = {"DETR": detr}


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the matrices of q, k and v, and their biases, one by one."""
    parts: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := re.match(PACKED, name):
            parts |= {f"transformer.{match[1]}.{x}.{match[2]}": t for x, t in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            parts[name] = tensor
    return parts


def of_backbone(
    system: System, state: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the backbone under our names, where they have torchvision's after a prefix, and the others."""
    body = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    renamed = torchvision.convert(system.base, body) if system.base is not None and body else None
    if renamed is None:
        return {prefix + name: tensor for name, tensor in body.items()}, others
    return {f"backbone.network.{name}": tensor for name, tensor in renamed.items()}, others


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The authors' weights for a system under our names; None where the names are not theirs."""
    body, others = of_backbone(system, state, BODY)
    head = rename(FAMILIES, system, unpacked(others))
    return None if head is None else body | head
