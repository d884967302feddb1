"""What each kind of LSTM may see, to the pixel, and that its scans are the cells of the paper one by one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.build import create
from foveal.generate import autoregressive
from foveal.generate.pixelrnn import DiagonalBiLSTM, DiagonalLSTM, PixelLSTM, PixelRNNNetwork, RowLSTM, skew, unskew
from foveal.nn.masked import channel_of
from foveal.structures import Label
from foveal.train.config import TrainConfig
from tests.generate import test_pixelcnn as pixelcnn
from tests.toys import small_digits

NAMES = ("pixelrnn_row_nano", "pixelrnn_diagonal_nano")
SHARED = {
    "causal": pixelcnn.test_nothing_is_seen_before_it_is_there,
    "reuse": partial(pixelcnn.test_reuse_draws_what_the_whole_network_draws, conditional=False),
    "reuse_conditional": partial(pixelcnn.test_reuse_draws_what_the_whole_network_draws, conditional=True),
    "likelihood": pixelcnn.test_likelihood_is_the_product_of_what_is_said_one_by_one,
    "known": pixelcnn.test_what_is_known_is_kept,
}
OUTER, INNER = channel_of(12, 3), channel_of(6, 3)


def one_cell(layer: PixelLSTM, seen: list[Tensor], before: list[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
    """h and c of a pixel of one image, by the x (F,) that L sees and the h (h,) that K sees, zero outside the image."""
    taps = layer.seen.weight * layer.seen.mask
    gates = layer.seen.bias.clone()
    for tap, x in enumerate(seen):
        gates += taps[:, :, 0, tap] @ x
    for tap, h in enumerate(before):
        gates += layer.state.weight[:, :, tap] @ h
    o, f, i, g = gates.split(6)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def by_cells(layer: PixelLSTM, x: Tensor) -> Tensor:
    """(1, F, H, W) -> (1, h, H, W), one pixel after the other."""
    _, features, height, width = x.shape
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    none = x.new_zeros(6)
    for row in range(height):
        for column in range(width):
            here, left, above = (row, column), (row, column - 1), (row - 1, column)
            if isinstance(layer, RowLSTM):
                seen = [x[0, :, row, column - 1] if column else x.new_zeros(features), x[0, :, row, column]]
                before = [h.get((row - 1, at), none) for at in (column - 1, column, column + 1)]
                c_before = c.get(above, none)
            else:
                seen = [x[0, :, row, column]]
                before = [h.get(above, none), h.get(left, none)]
                c_before = c.get(left, none)
            h[here], c[here] = one_cell(layer, seen, before, c_before)
    return torch.stack(list(h.values()), 1).unflatten(1, (height, width))[None]


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-12 * expected.abs().max())


@pytest.mark.parametrize("size", [(5, 4), (2, 6), (1, 3), (3, 1)])
@pytest.mark.parametrize("kind", [RowLSTM, DiagonalLSTM])
def test_a_scan_is_its_cells_one_by_one(kind: type[RowLSTM] | type[DiagonalLSTM], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = kind(OUTER, INNER, 0).double()
    x = torch.randn(1, 12, *size, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x, None), by_cells(layer, x)
    assert close(found, expected)
    weight = torch.randn_like(found)
    given = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad((weight * y).sum(), given) for y in (found, expected))
    assert all(close(*pair) for pair in zip(ours, theirs, strict=True))


def test_the_right_stream_is_one_row_down() -> None:
    torch.manual_seed(0)
    layer = DiagonalBiLSTM(OUTER, INNER, 0).double()
    x = torch.randn(1, 12, 4, 5, dtype=torch.float64)
    expected = by_cells(layer.left, x)
    mirrored = by_cells(layer.right, x.flip(3)).flip(3)
    for row in range(1, 4):
        expected[:, :, row] += mirrored[:, :, row - 1]
    assert close(layer(x, None), expected)


def test_skewed_rows() -> None:
    x = torch.arange(1, 7).view(1, 1, 2, 3)
    assert skew(x)[0, 0].tolist() == [[1, 2, 3, 0], [0, 4, 5, 6]]
    assert torch.equal(unskew(skew(x)), x)


def places() -> Tensor:
    """(6 6 3, 2) row and column of each number of a 6 x 6 image in colour, in order of reading."""
    return torch.cartesian_prod(torch.arange(6), torch.arange(6)).repeat_interleave(3, 0)


def test_a_row_lstm_sees_a_triangle() -> None:
    """Up to one column to the right for each row above; to the left one more for each layer, and for the first."""
    layers = 2
    seen = pixelcnn.dependence("pixelrnn_row_nano", layers=layers, first=3)
    down, right = (places()[:, None] - places()).unbind(2)
    assert torch.equal(seen, ((-right <= down) & (right <= down + layers + 1)).tril(-1))


def test_a_diagonal_bilstm_sees_all_but_one_number() -> None:
    """The last one of the row above: what the first layer gives at its pixel does not know it, and what it gives in the
    row below does, but lies further to the right than that layer reaches."""
    for layers in (1, 3):
        seen = pixelcnn.dependence("pixelrnn_diagonal_nano", layers=layers, first=3)
        before = torch.ones_like(seen).tril(-1)
        row, column = places()[:, None].unbind(2)
        number = torch.arange(6 * 6 * 3)
        last = number == row * 6 * 3 - 1
        assert torch.equal(seen, before & ~(last & (column + 1 < 5)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("holds", SHARED)
def test_what_holds_for_all_that_go_pixel_by_pixel(holds: str, name: str) -> None:
    SHARED[holds](name)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str) -> None:
    """As test_contract.py has them of other systems, of larger weights, so that rounding does not hide small ones."""
    system = pixelcnn.small(name, layers=1, conditional=True)
    images = system.preprocess.batch(list(torch.rand(2, 3, 6, 6)))
    batch = replace(images, targets=(Label(torch.tensor(1)), Label(torch.tensor(7))))
    found = [foveal.check_gradients(system, batch, step=step) for step in (1e-5, 1e-6, 1e-7)]
    errors = {parameter: min(each[parameter] for each in found) for parameter in found[0]}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = TrainConfig(out=str(tmp_path / "run"), epochs=6, batch_size=16, lr=1e-2, warmup=0.0, ema=0.0, quiet=True)
    run = foveal.train(create(name, layers=1), small_digits(), settings)
    values = [record["val"]["nll"] for record in run.history]
    assert values[-1] < values[0]
    assert values[-1] < 4.5  # of 5.5 nats that knowing nothing costs


@pytest.mark.parametrize("fields", [{}, {"classes": 3}, {"embedding": 4}], ids=["", "classes", "names"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_pixel_by_pixel_is_the_whole(diagonal: bool, fields: dict[str, Any]) -> None:
    """Asked for each channel in turn, of those before which alone the pixel is known."""
    torch.manual_seed(0)
    network = PixelRNNNetwork(3, 7, diagonal=diagonal, width=6, layers=3, first=5, head=9, **fields).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    x, classes = torch.randint(0, 7, (2, 3, 5, 9)), torch.tensor([2, 0]) if "classes" in fields else None
    with torch.no_grad():
        whole, step = network(x, classes), network.begin(9, classes)
        assert classes is None or not torch.allclose(whole, network(x), atol=0.1)
        for row in range(5):
            for column in range(9):
                for channel in range(3):
                    part = x.clone()
                    part[:, channel:, row, column] = 0
                    part[:, :, row, column + 1 :] = 0
                    part[:, :, row + 1 :] = 0
                    said = step(part, row, column)[..., channel]
                    assert close(said, whole[..., channel, row, column])


@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_far_below_what_is_held_to_be_in_doubt(name: str) -> None:
    """With the weights of a start, of a nano at the size that the benchmark has."""
    torch.manual_seed(0)
    network = create(name, image_size=28).network
    x = torch.randint(0, 256, (2, 1, 28, 28))
    with torch.no_grad():
        whole, step = network(x), network.begin(28, None)
        for row in range(28):
            for column in range(28):
                said = step(x, row, column)
                off = (said - whole[..., row, column]).abs().max() / (1 + said.abs().max())
                assert float(off) < autoregressive.DOUBT / 10


def test_published_sizes() -> None:
    """Weights as the paper has the layers, less the rows of taps that masks leave nothing of."""
    h = 128
    ends = 3 * 2 * h * 4 * 7 + 2 * h + 2 * h * 1024 + 1024 + 1024 * 768 + 768
    up = 2 * h * h + 2 * h
    for name, block in (
        ("pixelrnn_row", 4 * h * (2 * 2 * h + 1 + 3 * h) + up),
        ("pixelrnn_diagonal", 2 * 4 * h * (2 * h + 1 + 2 * h) + up),
    ):
        with torch.device("meta"):
            system = create(name)
        assert sum(p.numel() for p in system.parameters()) == ends + 12 * block


def test_bad_fields() -> None:
    for fields, text in (({"first": 4}, "first must be odd"), ({"layers": 0}, "there must be a layer")):
        with pytest.raises(foveal.InputError, match=text):
            create("pixelrnn_row_nano", **fields)
