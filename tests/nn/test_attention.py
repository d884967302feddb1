"""Attention and the encoder block against the equations in loops and against torch's own layers."""

import math

import pytest
import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.nn.attention import Attention, EncoderBlock, PostNormDecoder, PostNormEncoder, SelfAttention, attend, mlp
from foveal.nn.stochastic_depth import StochasticDepth

from ..parity.compare import randomise, relative_error

B, T, S, WIDTH, HEADS = 2, 5, 7, 12, 3


def by_loops(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The equation, one query at a time; bias: (B, HEADS, T, S)."""
    d = WIDTH // HEADS
    out = torch.zeros_like(q)
    for b in range(len(q)):
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            for t in range(q.shape[1]):
                scores = [(q[b, t, part] * k[b, s, part]).sum() / math.sqrt(d) + bias[b, head, t, s] for s in range(S)]
                exponentials = torch.stack(scores).exp()
                for s in range(S):
                    out[b, t, part] += exponentials[s] / exponentials.sum() * v[b, s, part]
    return out


@pytest.mark.parametrize("shape", [None, (HEADS, T, S), (B, 1, T, S), (B, HEADS, T, S)])
def test_attend_is_the_equation(shape):
    q = torch.randn(B, T, WIDTH, dtype=torch.float64)
    k, v = torch.randn(2, B, S, WIDTH, dtype=torch.float64)
    bias = None if shape is None else torch.randn(shape, dtype=torch.float64)
    everywhere = torch.zeros(B, HEADS, T, S, dtype=torch.float64) + (0 if bias is None else bias)
    assert relative_error(attend(q, k, v, HEADS, bias), by_loops(q, k, v, everywhere)) < 1e-12


def test_a_query_does_not_look_where_the_bias_is_minus_infinity():
    q, k, v = torch.randn(3, B, T, WIDTH, dtype=torch.float64).requires_grad_()
    after = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
    out = attend(q, k, v, HEADS, after)
    torch.testing.assert_close(out[:, 0], v[:, 0])
    (gradient,) = torch.autograd.grad(out[:, 2].sum(), v)
    assert (gradient[:, :3] != 0).all()
    assert (gradient[:, 3:] == 0).all()


def gradients(module: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x = x.clone().requires_grad_()
    out = module(x)
    (out * direction).sum().backward()
    return out, {name: p.grad for name, p in module.named_parameters()} | {"x": x.grad}


def test_self_attention_is_torchs():
    theirs = randomise(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)).double()
    ours = SelfAttention(WIDTH, HEADS).double()
    names = {
        "in_proj_weight": "qkv.weight",
        "in_proj_bias": "qkv.bias",
        "out_proj.weight": "out.weight",
        "out_proj.bias": "out.bias",
    }
    ours.load_state_dict({names[name]: tensor for name, tensor in theirs.state_dict().items()})
    x, direction, bias = (torch.randn(shape, dtype=torch.float64) for shape in [(B, T, WIDTH)] * 2 + [(T, T)])
    for mask in (None, bias):
        for module in (ours, theirs):
            module.zero_grad()
        expected, wanted = gradients(
            _Call(theirs, lambda m, x, mask=mask: m(x, x, x, attn_mask=mask, need_weights=False)[0]), x, direction
        )
        out, found = gradients(_Call(ours, lambda m, x, mask=mask: m(x, mask)), x, direction)
        assert relative_error(out, expected) < 1e-12
        for theirs_name, name in names.items():
            assert relative_error(found[f"module.{name}"], wanted[f"module.{theirs_name}"]) < 1e-12
        assert relative_error(found["x"], wanted["x"]) < 1e-12


class _Call(nn.Module):
    def __init__(self, module, function):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x):
        return self.function(self.module, x)


def test_encoder_block_is_torchs():
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 20, 0.0, "gelu", layer_norm_eps=1e-3, batch_first=True, norm_first=True
    )
    randomise(theirs).double()
    ours = EncoderBlock(WIDTH, HEADS, 20, eps=1e-3).double().eval()
    changes = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
    }

    def renamed(tensors):
        found = {}
        for name, tensor in tensors.items():
            for old, new in changes.items():
                name = name.replace(old, new)
            found[name] = tensor
        return found

    ours.load_state_dict(renamed(theirs.state_dict()))
    x, direction = torch.randn(2, B, T, WIDTH, dtype=torch.float64)
    expected, wanted = gradients(theirs, x, direction)
    out, found = gradients(ours, x, direction)
    assert relative_error(out, expected) < 1e-12
    wanted = renamed(wanted)
    assert found.keys() == wanted.keys()
    assert max(relative_error(found[name], wanted[name]) for name in wanted) < 1e-12


def test_the_order_of_the_tokens_does_not_matter():
    block = randomise(EncoderBlock(WIDTH, HEADS, 20)).double()
    x, order = torch.randn(B, T, WIDTH, dtype=torch.float64), torch.randperm(T)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_a_dropped_branch_leaves_the_input():
    torch.manual_seed(0)
    block = randomise(EncoderBlock(WIDTH, HEADS, 20, stochastic_depth=0.5)).train()
    assert [m.probability for m in block.modules() if isinstance(m, StochasticDepth)] == [0.5]
    x = torch.randn(400, T, WIDTH)
    untouched = (block(x) == x).flatten(1).all(1).double().mean().item()
    # Both branches of an image are dropped with probability 1/4; the standard deviation of the share is 0.022.
    assert untouched == pytest.approx(0.25, abs=0.08)


def test_dropout_is_after_each_matrix_but_those_of_the_attention():
    block = EncoderBlock(WIDTH, HEADS, 20, dropout=0.3)
    assert [name for name, m in block.named_modules() if isinstance(m, nn.Dropout)] == [
        "dropout", "mlp.drop1", "mlp.drop2",
    ]  # fmt: skip
    assert {m.p for m in block.modules() if isinstance(m, nn.Dropout)} == {0.3}
    torch.manual_seed(0)
    middle = mlp(WIDTH, 1000, 0.3).train()[:3](torch.randn(B, T, WIDTH))
    assert (middle == 0).double().mean().item() == pytest.approx(0.3, abs=0.03)


def test_each_matrix_keeps_the_variance():
    torch.manual_seed(0)
    block = EncoderBlock(256, 4, 1024)
    for matrix in [*block.attention.qkv.weight.chunk(3), block.attention.out.weight]:
        assert matrix.std().item() == pytest.approx(256**-0.5, rel=0.02)
    for linear in (block.mlp.fc1, block.mlp.fc2):
        assert linear.weight.std().item() == pytest.approx((2 / (256 + 1024)) ** 0.5, rel=0.02)
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name


@pytest.mark.parametrize("heads", [0, 5, 24])
def test_the_heads_share_the_width(heads):
    with pytest.raises(InputError, match=f"not 12 for {heads}"):
        SelfAttention(WIDTH, heads)


# torch's names of what a block is made of -> ours, but for the packed matrices of q, k and v.
NAMES = {"self_attn.": "attention.", "multihead_attn.": "cross_attention.", "out_proj": "out", "linear": "mlp.fc"}


def from_torch(block: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, tensor in block.state_dict().items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if "in_proj_" in name:
            state |= {name.replace("in_proj_", f"{x}."): part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            state[name] = tensor
    return state


def test_post_norm_blocks_are_torchs_where_nothing_has_a_position():
    shape = {"dim_feedforward": 20, "dropout": 0.0, "batch_first": True}
    x, z = torch.randn(B, T, WIDTH, dtype=torch.float64), torch.randn(B, S, WIDTH, dtype=torch.float64)
    hidden = torch.zeros(B, S, dtype=torch.bool)
    hidden[0, 4:] = True
    bias = torch.zeros(B, 1, 1, S, dtype=torch.float64).masked_fill(hidden[:, None, None], -math.inf)
    theirs = randomise(nn.TransformerEncoderLayer(WIDTH, HEADS, **shape)).double().train()  # no fast path
    ours = PostNormEncoder(WIDTH, HEADS, 20).double()
    ours.load_state_dict(from_torch(theirs))
    expected = theirs(z, src_key_padding_mask=hidden)
    assert relative_error(ours(z, torch.zeros_like(z), bias), expected) < 1e-12
    theirs = randomise(nn.TransformerDecoderLayer(WIDTH, HEADS, **shape)).double().train()
    ours = PostNormDecoder(WIDTH, HEADS, 20).double()
    ours.load_state_dict(from_torch(theirs))
    expected = theirs(x, z, memory_key_padding_mask=hidden)
    assert relative_error(ours(x, torch.zeros_like(x), z, torch.zeros_like(z), bias), expected) < 1e-12


def test_positions_are_asked_with_and_not_found():
    """Where all values are alike, no position changes what is found."""
    attention = randomise(Attention(WIDTH, HEADS)).double()
    q, k = torch.randn(2, B, T, WIDTH, dtype=torch.float64)
    same = torch.ones(B, T, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(attention(q, k, same), attention(k, q, same))
    assert not torch.allclose(attention(q, k, q), attention(q, k, k))


def test_attention_drops_while_training_alone():
    attention = randomise(Attention(WIDTH, HEADS, dropout=0.5))
    x = torch.randn(B, T, WIDTH)
    assert torch.equal(attention.eval()(x, x, x), attention(x, x, x))
    assert not torch.equal(attention.train()(x, x, x), attention(x, x, x))
    with pytest.raises(InputError, match="heads"):
        Attention(WIDTH, 5)
