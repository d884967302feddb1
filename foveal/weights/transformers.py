"""Names in the files of Hugging Face's transformers, which those of its versions 4 and 5 share on disk."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.facebook import known_classes, of_backbone
from foveal.weights.rules import Rule, Table, rename

BODY = "model.backbone.conv_encoder.model."  # a backbone under timm's names, which are torchvision's, or under its own
RESNET_LAYER = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
PARTS = {"convolution": "conv", "normalization": "norm"}


def unit(begin: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
    """For names that end with UNIT: what `begin` says, with our word for it."""
    return lambda name: begin(name) + PARTS[name[name.re.groups]]


UNIT = r"(convolution|normalization)"
RESNET = (
    Rule(r"embedder\.embedder\." + UNIT, unit(lambda name: "stem.")),
    Rule(
        RESNET_LAYER + r"layer\.(\d+)\." + UNIT,
        lambda name: f"stage{int(name[1]) + 1}.{name[2]}.branch.{PARTS[name[4]]}{int(name[3]) + 1}",
    ),
    Rule(
        RESNET_LAYER + r"shortcut\." + UNIT,
        unit(lambda name: f"stage{int(name[1]) + 1}.{name[2]}.shortcut."),
    ),
)

LAYER = r"model\.(encoder|decoder)\.layers\.(\d+)\."


def detr(system: Any) -> list[Rule]:
    last = {"encoder": "norm2.", "decoder": "norm3."}
    return [
        Rule(r"model\.input_projection\.", "projection."),
        Rule(LAYER + r"self_attn\.out_proj\.", r"\1.\2.attention.out."),
        Rule(LAYER + r"self_attn\.(q|k|v)_proj\.", r"\1.\2.attention.\3."),
        Rule(LAYER + r"encoder_attn\.out_proj\.", r"\1.\2.cross_attention.out."),
        Rule(LAYER + r"encoder_attn\.(q|k|v)_proj\.", r"\1.\2.cross_attention.\3."),
        Rule(LAYER + r"self_attn_layer_norm\.", r"\1.\2.norm1."),
        Rule(LAYER + r"encoder_attn_layer_norm\.", r"\1.\2.norm2."),
        Rule(LAYER + r"final_layer_norm\.", lambda name: f"{name[1]}.{name[2]}.{last[name[1]]}"),
        Rule(LAYER + r"(fc\d)\.", r"\1.\2.mlp.\3."),
        Rule(r"model\.decoder\.layernorm\.", "norm."),
        Rule(r"model\.query_position_embeddings\.", "queries."),
        Rule(r"class_labels_classifier\.", "classifier.", lambda rows: known_classes(system, rows)),
        Rule(r"bbox_predictor\.layers\.(\d+)\.", lambda name: f"box.{2 * int(name[1])}."),
    ]


FAMILIES: dict[str, Table] = {"DETR": detr}
BACKBONES: dict[str, Table] = {"ResNet": RESNET}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """transformers' weights for a system under our names; None where the names are not theirs."""
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    own = rename(BACKBONES, system.base, body) if system.base is not None and body else None
    inside, others = of_backbone(system, state, BODY)
    if own is not None:
        inside = {f"backbone.network.{name}": tensor for name, tensor in own.items()}
    head = rename(FAMILIES, system, others)
    return None if head is None else inside | head
