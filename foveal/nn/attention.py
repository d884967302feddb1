"""Attention and the blocks of transformers: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762.

Tokens are (B, T, width): T vectors an image. All tokens take from all others what suits their query, then each is
changed by itself. In EncoderBlock normalisation stands before each branch ("pre-norm", Wang et al. 2019,
arXiv:1906.01787), where the 2017 paper has it after the sum: deep stacks then learn without special care. The paper's
order is that of PostNormEncoder and PostNormDecoder.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from foveal.errors import InputError
from foveal.nn.activation import ACTIVATIONS, Activation
from foveal.nn.stochastic_depth import StochasticDepth


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T + bias) v for each of `heads` slices of d = width / heads channels, side by side.

    q:       (..., T, width), what is asked for; there may be several axes before the tokens.
    k, v:    (..., S, width), where it is found, and what is found there.
    bias:    anything that broadcasts to (..., heads, T, S); -inf where a query must not look.
    scale:   default 1 / sqrt(d).
    dropout: probability that a query does not see what it would find at a place, drawn on every call.

    Returns (..., T, width).
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))  # (..., heads, T or S, d)
    return scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale).transpose(-3, -2).flatten(-2)


def check_heads(width: int, heads: int) -> None:
    """InputError where so many heads cannot share the width."""
    if heads < 1 or width % heads:
        raise InputError(f"the width must be a multiple of the number of heads, not {width} for {heads}")


class SelfAttention(nn.Module):
    """y = attend(x W_q, x W_k, x W_v) W_o, each matrix with a bias. (..., T, width) -> (..., T, width).

    qkv: the first three as one matrix, whose outputs are those of q, k and v in this order.

    Raises InputError where the heads cannot share the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        for matrix in (*self.qkv.weight.chunk(3), self.out.weight):
            nn.init.xavier_uniform_(matrix)
        for linear in (self.qkv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(attend(q, k, v, self.heads, bias))


class Attention(nn.Module):
    """y = attend(q W_q, k W_k, v W_v) W_o, each matrix with a bias: of tokens that look among others, or where
    positions have a part in what is asked for and not in what is found.

    dropout: as of `attend`, while training.

    Raises InputError where the heads cannot share the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.q, self.k, self.v, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, width), (B, S, width), (B, S, width) -> (B, T, width); bias as of `attend`."""
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(self.q(q), self.k(k), self.v(v), self.heads, bias, dropout=dropout))


def mlp(width: int, hidden: int, dropout: float = 0.0, activation: Activation = "gelu") -> nn.Sequential:
    """gelu(x W_1) W_2, each matrix with a bias and followed by dropout. (..., width) -> (..., width)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers |= {"fc1": nn.Linear(width, hidden), activation: ACTIVATIONS[activation](hidden)}
    layers["drop1"] = nn.Dropout(dropout)
    layers |= {"fc2": nn.Linear(hidden, width), "drop2": nn.Dropout(dropout)}
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


class EncoderBlock(nn.Module):
    """x' = x + attention(norm1(x)), y = x' + mlp(norm2(x')). (B, T, width) -> (B, T, width), or what `attention` takes.

    hidden:           width in the middle of the mlp.
    dropout:          probability, after each matrix but those of q, k and v.
    stochastic_depth: drop probability of each of the two branches.
    eps:              added to the variance in the norms.
    attention:        makes the attention from the width and the number of heads.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        eps: float = 1e-6,
        attention: Callable[[int, int], nn.Module] = SelfAttention,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = attention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = mlp(width, hidden, dropout)
        self.drop = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.dropout(self.attention(self.norm1(x))))
        return x + self.drop(self.mlp(self.norm2(x)))


class PostNormEncoder(nn.Module):
    """A block of the paper's encoder, with positions p added to what is asked for and to where it is found:

        x' = norm1(x + attention(x + p, x + p, x)),  y = norm2(x' + mlp(x'))

    hidden:  width in the middle of the mlp, whose non-linearity is relu.
    dropout: probability, of attention and after each matrix but those of q, k and v.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = mlp(width, hidden, dropout, "relu")
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens and their positions (B, T, width) -> (B, T, width); bias as of `attend`."""
        placed = x + position
        x = self.norm1(x + self.dropout(self.attention(placed, placed, x, bias)))
        return self.norm2(x + self.mlp(x))


class PostNormDecoder(nn.Module):
    """A block of the paper's decoder: tokens x with positions p look among themselves, then among others z, r.

        x'  = norm1(x + attention(x + p, x + p, x))
        x'' = norm2(x' + cross_attention(x' + p, z + r, z)),  y = norm3(x'' + mlp(x''))

    hidden, dropout: as of PostNormEncoder.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = mlp(width, hidden, dropout, "relu")
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, position: Tensor, others: Tensor, places: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Tokens and their positions (B, T, width), others and theirs (B, S, width) -> (B, T, width).

        bias: as of `attend`, for the tokens' look among the others.
        """
        placed = x + position
        x = self.norm1(x + self.dropout(self.attention(placed, placed, x)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + position, others + places, others, bias)))
        return self.norm3(x + self.mlp(x))
