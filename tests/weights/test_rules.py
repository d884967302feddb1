import torch

from foveal.weights.rules import Rule, rename


class Net:
    """Stands for a family."""


class ChildNet(Net):
    """Stands for a user's extension of it."""


TABLES = {
    "Net": (
        Rule(r"layer(\d)\.conv\.", r"stage\1.", None),
        Rule(r"blocks\.(\d)\.", lambda match: f"stage{int(match[1]) + 1}."),
        Rule(r"head\.weight$", "classifier.weight", torch.t),
        Rule(r"head\.", "classifier."),
        Rule(r"mask", None),
    )
}
ONE, TWO = torch.arange(6.0).view(2, 3), torch.ones(2)


def test_templates_functions_changes_and_dropped_names():
    state = {"layer1.conv.weight": ONE, "blocks.2.norm.bias": TWO, "head.weight": ONE, "head.bias": TWO, "mask": TWO}
    renamed = rename(TABLES, Net(), state)
    assert list(renamed) == ["stage1.weight", "stage3.norm.bias", "classifier.weight", "classifier.bias"]
    assert renamed["stage1.weight"] is ONE
    assert torch.equal(renamed["classifier.weight"], ONE.T)
    assert renamed["classifier.bias"] is TWO


def test_names_without_a_rule_stay_and_are_the_sign_of_another_layout_where_most_are_such():
    state = {"layer1.conv.weight": ONE, "stem.layer1.conv.weight": ONE}
    assert list(rename(TABLES, Net(), state)) == ["stage1.weight", "stem.layer1.conv.weight"]
    assert rename(TABLES, Net(), state | {"other": ONE}) is None


def test_two_tensors_for_one_place_do_not_hide_each_other():
    renamed = rename(TABLES, Net(), {"layer3.conv.weight": ONE, "blocks.2.weight": TWO})
    assert renamed["stage3.weight"] is ONE
    assert renamed["blocks.2.weight"] is TWO


def test_an_extended_family_has_the_rules_of_its_base_and_an_unknown_one_has_none():
    assert list(rename(TABLES, ChildNet(), {"head.bias": TWO})) == ["classifier.bias"]
    assert rename(TABLES, object(), {"head.bias": TWO}) is None
