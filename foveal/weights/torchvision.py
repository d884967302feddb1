"""Names in torchvision's checkpoints, by family."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import COCO_ROWS, Rule, Table, matrix, rename

# AlexNet's layers are counted with those that have no weights.
ALEXNET = (
    *(Rule(rf"features\.{n}\.", f"stage{stage}.conv.") for stage, n in enumerate((0, 3, 6, 8, 10), 1)),
    Rule(r"classifier\.1\.", "classifier.fc1."),
    Rule(r"classifier\.4\.", "classifier.fc2."),
    Rule(r"classifier\.6\.", "classifier.output."),
)

UNIT = r"(conv|bn)\."
OURS = {"conv": "conv", "bn": "norm"}


def unit(begin: str) -> Callable[[re.Match[str]], str]:
    """For names that end with UNIT: the template `begin`, with our word for it."""
    return lambda name: f"{name.expand(begin)}{OURS[name[name.re.groups]]}."


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

# Which branch of ours a layer is of. Modules "a", which halve the maps, have no 1x1 that comes first.
MIXED = {"1x1": 0, "5x5": 1, "7x7": 1, "3x3": 1, "3x3dbl": 2, "7x7dbl": 2, "_pool": 3}
HALVING = {"3x3": 0, "3x3dbl": 1, "7x7x3": 1}


def mixed(name: re.Match[str]) -> str:
    """Layers of a branch are counted from 1, unless it has but one; those with a and b lie side by side."""
    branch = (HALVING if name[2] == "a" else MIXED)[name[3]]
    layer = {"a": "fork.wide", "b": "fork.high"}.get(name[5], f"unit{name[4] or 1}")
    return f"stage{int(name[1]) - 4}.{name[2]}.branches.{branch}.{layer}.{OURS[name[6]]}."


INCEPTION_STEM = {"1a_3x3": 1, "2a_3x3": 2, "2b_3x3": 3, "3b_1x1": 4, "4a_3x3": 5}

INCEPTION = (
    Rule(
        r"Conv2d_(1a_3x3|2a_3x3|2b_3x3|3b_1x1|4a_3x3)\." + UNIT,
        lambda name: f"stem.unit{INCEPTION_STEM[name[1]]}.{OURS[name[2]]}.",
    ),
    Rule(r"Mixed_([67])(a)\.branch(3x3|3x3dbl|7x7x3)(?:_(\d)([ab])?)?\." + UNIT, mixed),
    Rule(r"Mixed_([5-7])([b-e])\.branch(1x1|5x5|7x7|3x3|3x3dbl|7x7dbl|_pool)(?:_(\d)([ab])?)?\." + UNIT, mixed),
    Rule(r"AuxLogits\.conv0\." + UNIT, unit("auxiliary.reduce.")),
    Rule(r"AuxLogits\.conv1\." + UNIT, unit("auxiliary.hidden.")),
    Rule(r"AuxLogits\.fc\.", "auxiliary.output."),
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


def conv_and_norm(theirs: str, ours: str, number: int | str = "") -> list[Rule]:
    """A convolution and its norm, which are 0 and 1 in theirs; in ours they may have a number."""
    return [Rule(theirs + r"0\.", f"{ours}.conv{number}."), Rule(theirs + r"1\.", f"{ours}.norm{number}.")]


def mobilenet_features(system: Any, layer: Callable[[int], str], part: Callable[[int, int], str]) -> list[Rule]:
    """layer: their pattern for stem, blocks and head, which are numbered through; part: for a block's number and the
    place of a part in it."""
    rules = conv_and_norm(layer(0), "stem")
    for number, (name, block) in enumerate(system.blocks.items(), 1):
        for place, ours in enumerate(block.parts):
            theirs = part(number, place)
            rules += [Rule(theirs, f"{name}.excite.")] if ours == "excite" else conv_and_norm(theirs, f"{name}.{ours}")
    return [*rules, *conv_and_norm(layer(len(system.blocks) + 1), "head")]


def mobilenet(system: Any) -> list[Rule]:
    """In v2 the last part of a block is not one but two."""

    def layer(number: int) -> str:
        return rf"features\.{number}\."

    def part(number: int, place: int) -> str:
        return layer(number) + rf"(?:conv|block)\.{place}\."

    rules = mobilenet_features(system, layer, part)
    for number, (name, block) in enumerate(system.blocks.items(), 1):
        last = len(block.parts) - 1
        rules.append(Rule(part(number, last), f"{name}.project.conv."))
        rules.append(Rule(part(number, last + 1), f"{name}.project.norm."))
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


def background_last(shapes: int) -> Callable[[Tensor], Tensor]:
    """For the rows (A (1 + C), ...) of a head that scores A boxes at a place, background first: background last, and
    without the rows that COCO has no class for."""

    def change(rows: Tensor) -> Tensor:
        each = rows.unflatten(0, (shapes, -1))
        known = COCO_ROWS if each.shape[1] == 91 else list(range(1, each.shape[1]))
        return each[:, [*known, 0]].flatten(0, 1)

    return change


def without_background(rows: Tensor) -> Tensor:
    """The same for a box of each class, rows ((1 + C) 4, ...): background needs none."""
    each = rows.unflatten(0, (-1, 4))
    known = COCO_ROWS if len(each) == 91 else list(range(1, len(each)))
    return each[known].flatten(0, 1)


BODIES: dict[str, Callable[[Any], Sequence[Rule]]] = {"ResNet": lambda system: RESNET, "MobileNet": mobilenet}


def on_pyramid(system: Any) -> list[Rule]:
    """A ResNet or MobileNet with a feature pyramid on it. Files from before 2022 number no layers within a part of the
    pyramid."""
    if (network := type(system.base).__name__) not in BODIES:
        return []
    rules = []
    for rule in BODIES[network](system.base):
        theirs = rule.pattern.removeprefix(r"features\.")  # the body of a MobileNet is just these
        rules.append(Rule(rf"backbone\.body\.{theirs}", f"backbone.network.{rule.ours}"))
    normed = "pyramid.lateral.0.norm.weight" in system.state_dict()
    for theirs, ours in (("inner", "lateral"), ("layer", "smooth")):
        begin = rf"backbone\.fpn\.{theirs}_blocks\.(\d)\."
        if normed:
            rules.append(Rule(begin + r"0\.", rf"pyramid.{ours}.\1.conv."))
            rules.append(Rule(begin + r"1\.", rf"pyramid.{ours}.\1.norm."))
        else:
            rules.append(Rule(begin + r"(?:0\.)?(?=weight|bias)", rf"pyramid.{ours}.\1."))
    return [*rules, *(Rule(rf"backbone\.fpn\.extra_blocks\.p{6 + n}\.", f"pyramid.coarser.{n}.") for n in (0, 1))]


PROPOSALS = (
    Rule(r"rpn\.head\.conv\.(?:0\.0\.)?(?=weight|bias)", "proposals.hidden.0."),
    Rule(r"rpn\.head\.conv\.(\d)\.0\.", lambda name: f"proposals.hidden.{2 * int(name[1])}."),
    Rule(r"rpn\.head\.cls_logits\.", "proposals.object."),
    Rule(r"rpn\.head\.bbox_pred\.", "proposals.delta."),
)


def rpn(system: Any) -> list[Rule]:
    return [*on_pyramid(system), *PROPOSALS, Rule(r"roi_heads\.", None)]


def faster_rcnn(system: Any) -> list[Rule]:
    head, last = r"roi_heads\.box_head\.", system.spec.convolutions + 1  # convolutions, then what makes one row of all
    return [
        *on_pyramid(system),
        *PROPOSALS,
        Rule(head + r"fc([67])\.", lambda name: f"head.fc{int(name[1]) - 5}."),
        Rule(head + r"(\d)\.0\.", lambda name: f"head.conv{int(name[1]) + 1}."),
        Rule(head + r"(\d)\.1\.", lambda name: f"head.norm{int(name[1]) + 1}."),
        Rule(head + rf"{last}\.", "head.fc1."),
        Rule(r"roi_heads\.box_predictor\.cls_score\.", "predictor.score.", background_last(1)),
        Rule(r"roi_heads\.box_predictor\.bbox_pred\.", "predictor.delta.", without_background),
    ]


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


def ssdlite(system: Any) -> list[Rule]:
    """Those of SSDLite on MobileNet v3, whose first half ends within a block."""
    block, _, expand = system.spec.maps[0].rpartition(".") if system.spec.maps else ("", "", "")
    if type(system.base).__name__ != "MobileNet" or expand != "expand":
        return []
    split = 1 + list(system.base.blocks).index(block)

    def layer(number: int) -> str:
        half, first = (1, split) if number > split else (0, 0)
        return rf"backbone\.features\.{half}\.{number - first}\."

    def part(number: int, place: int) -> str:
        if number == split:
            return rf"backbone\.features\.1\.0\.{place}\." if place else layer(number)
        return layer(number) + rf"block\.{place}\."

    features = mobilenet_features(system.base, layer, part)
    rules = [rule._replace(ours=f"backbone.network.{rule.ours}") for rule in features]
    for n in range(len(system.spec.extra)):
        for place in range(3):
            rules += conv_and_norm(rf"backbone\.extra\.{n}\.{place}\.", f"extra.{n}", place + 1)
    for theirs, ours in (("classification", "score_heads"), ("regression", "box_heads")):
        for n, shapes in enumerate(system.spec.shapes):
            begin, change = rf"head\.{theirs}_head\.module_list\.{n}\.", background_last(shapes)
            rules += conv_and_norm(begin + r"0\.", f"{ours}.{n}.depthwise", 1)
            rules.append(Rule(begin + r"1\.", f"{ours}.{n}.across.", change if ours == "score_heads" else None))
    return rules


def of_classes(system: Any) -> Callable[[Tensor], Tensor]:
    """For the rows (A C, ...) of a head that scores each class alone at each of A boxes: without those that COCO has no
    class for, where there are as many as of COCO, and without that of background where there is one too many."""
    shapes, own = system.classes.shapes, len(system.labels)

    def change(rows: Tensor) -> Tensor:
        each = rows.unflatten(0, (shapes, -1))
        if each.shape[1] == 91 and own not in (90, 91):
            each = each[:, COCO_ROWS]
        elif each.shape[1] == own + 1:
            each = each[:, 1:]
        return each.flatten(0, 1)

    return change


DENSE_HEAD = r"head\.(classification|regression)_head\.conv\.(\d+)\."
HEADS = {"classification": "classes", "regression": "boxes"}


def retinanet(system: Any) -> list[Rule]:
    """In files of before 2022 the layers of a head are counted with their relus; in later ones a norm is inside one."""
    return [
        *on_pyramid(system),
        Rule(r"head\.classification_head\.cls_logits\.", "classes.tell.scores.", of_classes(system)),
        Rule(r"head\.regression_head\.bbox_reg\.", "boxes.tell.deltas."),
        Rule(DENSE_HEAD + r"0\.", lambda name: f"{HEADS[name[1]]}.tower.conv{int(name[2]) + 1}."),
        Rule(DENSE_HEAD + r"1\.", lambda name: f"{HEADS[name[1]]}.tower.norm{int(name[2]) + 1}."),
        Rule(DENSE_HEAD, lambda name: f"{HEADS[name[1]]}.tower.conv{int(name[2]) // 2 + 1}."),
    ]


def fcos(system: Any) -> list[Rule]:
    """The layers of a head are counted through: convolution, norm, relu."""
    layer = ("conv", "norm")
    return [
        *on_pyramid(system),
        Rule(r"head\.classification_head\.cls_logits\.", "classes.tell.scores.", of_classes(system)),
        Rule(r"head\.regression_head\.bbox_reg\.", "boxes.tell.sides."),
        Rule(r"head\.regression_head\.bbox_ctrness\.", "boxes.tell.centre."),
        Rule(
            DENSE_HEAD,
            lambda name: f"{HEADS[name[1]]}.tower.{layer[int(name[2]) % 3]}{int(name[2]) // 3 + 1}.",
        ),
    ]


FAMILIES: dict[str, Table] = {
    "AlexNet": ALEXNET,
    "GoogLeNet": GOOGLENET,
    "InceptionV3": INCEPTION,
    "VGG": vgg,
    "DenseNet": DENSENET,
    "ResNet": RESNET,
    "MobileNet": mobilenet,
    "Swin": SWIN,
    "ViT": VIT,
    "RPN": rpn,
    "FasterRCNN": faster_rcnn,
    "SSD": ssd,
    "SSDLite": ssdlite,
    "RetinaNet": retinanet,
    "FCOS": fcos,
}
# Whose files on ResNets from before 2022, trained with frozen norms, are of a time when these had no eps. Those on
# MobileNets are younger.
WITHOUT_EPS = ("RPN", "FasterRCNN", "RetinaNet")


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's weights for a system under our names; None where the names are not torchvision's."""
    weights = rename(FAMILIES, system, state)
    old = "backbone.fpn.inner_blocks.0.weight" in state and not any(n.endswith("num_batches_tracked") for n in state)
    if weights is not None and old and type(system).__name__ in WITHOUT_EPS and type(system.base).__name__ == "ResNet":
        with_eps(system, weights)
    return weights


def with_eps(system: System, weights: dict[str, Tensor]) -> None:
    """Weights of batch norms that divide by var ** 0.5 become those of ours, which divide by (var + eps) ** 0.5."""
    known = system.state_dict()
    for name in [name for name in weights if name.endswith("running_var")]:
        norm, gain = name.removesuffix("running_var"), name.removesuffix("running_var") + "weight"
        if gain not in known or gain not in weights:
            continue  # a misfit, which is to be told
        module: Any = system.get_submodule(norm[:-1])
        variance = weights[name].double()
        scaled = weights[gain] * ((variance + module.eps) / variance).sqrt()
        weights[gain] = scaled.where(variance > 0, weights[gain].double()).to(weights[gain])
