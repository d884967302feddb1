"""What the parity tests of Swin cannot see: windows, masks and padding by loops, maps, refused settings and weights."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.classify.swin import Merge, Swin, WindowAttention, cut, join
from foveal.errors import InputError
from foveal.explain.gradcam import gradcam
from foveal.nn.record import record
from foveal.nn.stochastic_depth import StochasticDepth

from ..parity.compare import randomise, relative_error
from .learning import accuracy_on_digits

SMALL = {"labels": ("a", "b", "c"), "width": 24, "depths": (2, 2), "heads": (2, 3), "window": 3}


@pytest.fixture
def system() -> Swin:
    return randomise(create("swin_nano", image_size=(20, 28), **SMALL))  # maps of 10 x 14 and 5 x 7 tokens


def by_loops(layer: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """One query at a time, without rolling: whom it meets is told by where windows end on the shifted grid."""
    n, (_, height, width, channels) = layer.window, x.shape
    rows, columns = (math.ceil(side / n) * n for side in (height, width))
    shifts = [layer.shift if side > n else 0 for side in (rows, columns)]
    padded = x.new_zeros(len(x), rows, columns, channels)
    padded[:, :height, :width] = x
    q, k, v = layer.inside.qkv(padded).chunk(3, -1)
    heads, d = layer.inside.heads, channels // layer.inside.heads
    out = torch.zeros_like(padded)

    def window(i: int, j: int) -> tuple[int, int]:
        return (i - shifts[0]) // n, (j - shifts[1]) // n

    for i in range(rows):
        for j in range(columns):
            seen = [(y, z) for y in range(rows) for z in range(columns) if window(y, z) == window(i, j)]
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                scores = []
                for y, z in seen:
                    offset = (i - y + n - 1) * (2 * n - 1) + j - z + n - 1
                    product = (q[:, i, j, part] * k[:, y, z, part]).sum(1) / math.sqrt(d)
                    scores.append(product + layer.table[offset, head])
                shares = torch.stack(scores, 1).softmax(1)
                for place, (y, z) in enumerate(seen):
                    out[:, i, j, part] += shares[:, place, None] * v[:, y, z, part]
    return layer.inside.out(out)[:, :height, :width]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (3, 8), (2, 3), (1, 1)])
def test_attention_is_that_of_shifted_windows(size, shift):
    layer = randomise(WindowAttention(8, 2, window=3, shift=shift)).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    assert relative_error(layer(x), by_loops(layer, x)) < 1e-12


def test_windows_are_cut_row_by_row_and_joined_again():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = cut(x, 2)
    assert windows.shape == (2, 2, 3, 4, 1)
    assert windows[0, 1, 2, :, 0].tolist() == [16, 17, 22, 23]
    assert torch.equal(join(windows, 2), x)


def test_merging_pads_odd_sides():
    merge = randomise(Merge(4))
    x = torch.randn(2, 3, 5, 4)
    padded = torch.zeros(2, 4, 6, 4)
    padded[:, :3, :5] = x
    assert torch.equal(merge(x), merge(padded))
    assert merge(x).shape == (2, 2, 3, 8)
    four = torch.cat([x[:, 0, 0], x[:, 1, 0], x[:, 0, 1], x[:, 1, 1]], 1)
    torch.testing.assert_close(merge(x)[:, 0, 0], merge.reduction(merge.norm(four)))


def test_windows_bound_what_a_token_sees_and_shifts_cross_the_bounds(system):
    images = torch.rand(1, 3, 20, 28, requires_grad=True)
    # The shifted block has tokens 1 to 3 together, of windows 0 to 2 and 3 to 5.
    for name, seen in (("stage1.0", (6, 11)), ("stage1.1", (0, 11))):
        with record(system, name) as outputs:
            system(images)
        token = outputs[name][0, 3, 4].square().sum()  # the second window of rows: pixels 6 to 11
        (gradient,) = torch.autograd.grad(token, images)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        assert (int(rows[0]), int(rows[-1])) == seen


def test_maps_have_their_channels_last(system):
    with record(system, "stem", "stage1", "merge1", "stage2.1.norm1", "norm", "stage1.0.attention.inside") as outputs:
        system(torch.rand(2, 3, 20, 28))
    shapes = {"stem": (24, 10, 14), "stage1": (24, 10, 14), "merge1": (48, 5, 7), "stage2.1.norm1": (48, 5, 7)}
    for name, shape in {**shapes, "norm": (48, 5, 7)}.items():
        assert system.as_map(outputs[name]).shape == (2, *shape)
        assert torch.equal(system.as_map(outputs[name])[0, :, 1, 2], outputs[name][0, 1, 2])
    with pytest.raises(InputError, match="swin_nano cannot lay an activation of shape"):
        system.as_map(outputs["stage1.0.attention.inside"])


def test_gradcam_of_the_last_norm_sums_to_the_score(system):
    """Behind it there is a mean and a linear layer, so that the map shows where the score comes from."""
    images = torch.rand(2, 3, 20, 28)
    maps = gradcam(system, images, "b")
    assert maps.shape == (2, 5, 7)
    torch.testing.assert_close(maps.sum((1, 2)), system(images)[:, 1] - system.classifier.bias[1])


@pytest.mark.parametrize("size", [(20, 28), (8, 6), (21, 29), (2, 2)])
def test_any_size_of_a_patch_or_more(system, size):
    assert system(torch.rand(1, 3, *size)).isfinite().all()


def test_images_of_less_than_a_patch_are_refused(system):
    with pytest.raises(InputError, match=r"swin_nano takes images of 2 x 2 pixels or more, not 1 x 8; image_size"):
        system(torch.rand(1, 3, 1, 8))
    with pytest.raises(InputError, match=r"4 x 4 pixels or more, not 3 x 3"):
        create("swin_t", image_size=3)


def test_drop_probability_grows_linearly_through_all_stages():
    system = create("swin_nano", depths=(1, 3), stochastic_depth=0.4)
    drops = [m.probability for m in system.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_each_gelu_runs_once(system):
    gelus = [m for m in system.modules() if isinstance(m, nn.GELU)]
    runs = []
    for gelu in gelus:
        gelu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 20, 28))
    assert list(map(id, runs)) == list(map(id, gelus))
    assert len(gelus) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depths": (2,)}, "a number for each stage, not 1 and 2"),
        ({"depths": (), "heads": ()}, "a number for each stage"),
        ({"heads": (2, 5)}, "not 64 for 5"),
        ({"window": 0}, "at least 1"),
        ({"depths": (0, 2)}, "at least 1"),
        ({"mlp_ratio": 0.0}, "at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"stochastic_depth": 1.0}, "drop probability"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("swin_nano", **{"width": 32} | fields)


def test_weights_of_other_windows_are_refused(tmp_path):
    save_file(create("swin_nano", **SMALL).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"another shape: stage1.0.attention.table \(25, 2\) for \(49, 2\)"):
        create("swin_nano", weights=tmp_path / "weights.safetensors", **SMALL | {"window": 4})


def test_the_nano_variant_learns_the_digits():
    assert accuracy_on_digits("swin_nano", 6) > 0.8
