"""Local attention against a loop over the pixels, its figures, memory, settings, learning."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from foveal.build import create
from foveal.classify.local_attention import LocalAttention
from foveal.cost import cost
from foveal.errors import InputError


@pytest.mark.parametrize(("extent", "stride"), [(1, 1), (3, 1), (5, 2)])
def test_equation_3_place_by_place(extent, stride):
    torch.manual_seed(0)
    layer, reach = LocalAttention(5, 8, extent, 2, stride).double(), extent // 2
    x = torch.randn(2, 5, 5, 4, dtype=torch.float64)
    w_q, w_k, w_v = (conv.weight[:, :, 0, 0] for conv in (layer.query, layer.key, layer.value))
    full = torch.zeros(2, 8, 5, 4, dtype=torch.float64)
    for b in range(2):
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            for i in range(5):
                for j in range(4):
                    q, logits, values = (w_q @ x[b, :, i, j])[own], [], []
                    for a in range(max(0, i - reach), min(5, i + reach + 1)):
                        for c in range(max(0, j - reach), min(4, j + reach + 1)):
                            r = torch.cat([layer.rows[head, a - i + reach], layer.columns[head, c - j + reach]])
                            logits.append(q @ (w_k @ x[b, :, a, c])[own] + q @ r)
                            values.append((w_v @ x[b, :, a, c])[own])
                    full[b, own, i, j] = torch.stack(logits).softmax(0) @ torch.stack(values)
    expected = nn.functional.avg_pool2d(full, stride, ceil_mode=True)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():  # without checkpoints
        torch.testing.assert_close(layer(x), expected)
    grads = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (layer(x), expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


# Table 1 of the paper, "conv-stem + attention", has parameters in millions; of the 38 layers the formula alone.
@pytest.mark.parametrize(
    ("name", "millions"), [("sasa_resnet26", 10.3), ("sasa_resnet38", 14.2), ("sasa_resnet50", 18.0)]
)
def test_parameters_are_those_of_the_paper_and_of_a_formula(name, millions):
    with torch.device("meta"):
        system = create(name)
        plain = create("resnet50", depths=system.spec.depths)
    count, before = (sum(p.numel() for p in s.parameters()) for s in (system, plain))
    assert round(count / 1e6, 1) == millions
    # Three matrices for nine, and k vectors for rows and for columns, of half the channels each.
    widths = [64 * 2**stage for stage, depth in enumerate(system.spec.depths) for _ in range(depth)]
    assert before - count == sum(6 * width * width - 7 * width for width in widths)


@pytest.mark.parametrize(("name", "billions"), [("sasa_resnet26", 4.5), ("sasa_resnet50", 7.0)])
def test_floating_point_operations_are_those_of_the_same_table(name, billions):
    with torch.device("meta"):
        assert round(cost(create(name)).flops / 1e9, 1) == billions


def test_a_place_sees_its_neighbours_and_no_more():
    found = cost(create("sasa_nano", depths=(1,)))
    sees = {layer.path: layer.receptive_field for layer in found.layers}
    assert sees["stage1.0.branch.attention1"] == (5, 5)
    assert sees["stage1.0.branch.attention2"] == (7, 7)
    assert found.attention_elements == 2 * 2 * 8 * 8 * 9


def test_training_keeps_no_neighbours():
    """But for weights, what is kept for the backward pass does not grow with the number of neighbours."""

    def kept(extent):
        sizes = []
        layer = LocalAttention(8, 8, extent, 2, 1)
        with saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            layer(torch.rand(1, 8, 12, 12, requires_grad=True)).sum()
        return sum(sizes)

    assert kept(7) < kept(1) + 1000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"extent": 4}, "extent must be odd"),
        ({"extent": -1}, "extent must be odd"),
        ({"heads": 3}, "multiple of twice the number of heads"),
        ({"heads": 0}, "multiple of twice the number of heads"),
        ({"preactivation": True}, "without preactivation"),
        ({"block": "bottleneck", "groups": 2}, "without preactivation, groups"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("sasa_nano", **fields)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("sasa_nano"), epochs=3, lr=0.004, side=8) > 0.8
