"""Masked convolutions by their definition, tap by tap, and asked pixel by pixel."""

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, pad

from foveal.nn.masked import AboveConv2d, CausalConv2d, Memory, channel_of

IN, OUT = channel_of(5, 3), channel_of(7, 3)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def test_features_are_shared_out_evenly() -> None:
    assert channel_of(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert channel_of(128, 3).bincount().tolist() == [43, 43, 42]
    assert channel_of(4, 1).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_masks_are_the_paper_s(own: bool, kernel: int) -> None:
    """As a convolution of n x n taps, of which each is kept or not by the order of reading."""
    torch.manual_seed(0)
    conv = CausalConv2d(IN, OUT, kernel, own=own).double()
    middle = kernel // 2
    whole = torch.zeros(len(OUT), len(IN), kernel, kernel, dtype=torch.float64)
    for o, b in enumerate(OUT.tolist()):
        for i, a in enumerate(IN.tolist()):
            for row in range(kernel):
                for column in range(kernel):
                    place = row * kernel + column
                    before = place < middle * kernel + middle
                    here = place == middle * kernel + middle and (a <= b if own else a < b)
                    if before or here:
                        whole[o, i, row, column] = conv.weight[o, i, row, column]
    x = draw(2, len(IN), 6, 5)
    torch.testing.assert_close(conv(x), conv2d(x, whole, conv.bias, padding=middle))


@pytest.mark.parametrize("own", [False, True])
def test_a_row_alone_and_the_rows_above(own: bool) -> None:
    """Each place from the pixels it names: taps at the left, and rows above to both sides."""
    torch.manual_seed(0)
    left = CausalConv2d(IN, OUT, 5, own=own, above=False).double()
    above = AboveConv2d(5, 7, 5, own=own).double()
    assert left.weight.shape == (7, 5, 1, 3)
    assert above.weight.shape == (7, 5, 2 + own, 5)
    x = draw(2, 5, 6, 4)
    around = pad(x, (2, 2, 2, 0))
    for row in range(6):
        for column in range(4):
            taps = around[:, :, row + 2 : row + 3, column : column + 3]
            seen = torch.einsum("bihw,oihw->bo", taps, left.weight * left.mask) + left.bias
            torch.testing.assert_close(left(x)[..., row, column], seen)
            taps = around[:, :, row : row + 2 + own, column : column + 5]
            seen = torch.einsum("bihw,oihw->bo", taps, above.weight) + above.bias
            torch.testing.assert_close(above(x)[..., row, column], seen)


@pytest.mark.parametrize("fields", [{}, {"kernel": 5}, {"kernel": 5, "above": False}], ids=["1", "5", "row"])
def test_pixel_by_pixel(fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = CausalConv2d(IN, OUT, **fields).double()
    x, memory = draw(2, 5, 6, 4), Memory(4)
    with torch.no_grad():
        whole = conv(x)
        for row in range(6):
            for column in range(4):
                memory.row, memory.column = row, column
                place = ..., row, column
                conv(0 * x[place], memory)  # asked before it is known
                torch.testing.assert_close(conv(x[place], memory), whole[place])


@pytest.mark.parametrize("own", [False, True])
def test_row_by_row(own: bool) -> None:
    torch.manual_seed(0)
    conv = AboveConv2d(5, 7, 5, own=own).double()
    x, memory = draw(2, 5, 6, 4), Memory(4)
    with torch.no_grad():
        whole = conv(x)
        for row in range(6):
            seen = row if own else row - 1
            newest = x[:, :, seen : seen + 1] if seen >= 0 else torch.zeros_like(x[:, :, :1])
            torch.testing.assert_close(conv(newest, memory), whole[:, :, row : row + 1])
