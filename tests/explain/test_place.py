"""Where units lie, against the pixels that they have a gradient from; and the way back to the image."""

from typing import Any

import pytest
import torch

from foveal.explain.place import fields, on_image, on_prepared, parts
from foveal.nn.record import record
from foveal.system import Preprocess
from tests.explain.conftest import build


@pytest.mark.parametrize(
    ("name", "layer", "settings"),
    [
        ("resnet_nano", "stage2", {"image_size": 64}),
        ("resnet_nano", "activate", {"image_size": 96, "preactivation": True}),
        ("resnet_nano", "stem", {"image_size": (64, 96), "stem": "7x7"}),
        ("lenet", "stage2", {}),
    ],
)
def test_units_lie_in_the_middle_of_what_they_see(name: str, layer: str, settings: dict[str, Any]) -> None:
    system = build(name, **settings)
    size = system.preprocess.size
    images = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    with record(system, layer) as outputs:
        system(images)
    units = outputs[layer].shape[-2:]
    place = fields(system, layer, units, size)
    row, column = units[0] // 2, units[1] // 2  # not near a border, which would cut what is seen
    (gradient,) = torch.autograd.grad(outputs[layer][0, :, row, column].sum(), images)
    seen = gradient[0].abs().amax(0).nonzero()
    (top, left), (bottom, right) = seen.amin(0).tolist(), seen.amax(0).tolist()
    assert min(top, left) > 0
    assert bottom < size[0] - 1
    assert right < size[1] - 1
    # The middle of the unit's square, in pixels.
    x, y = (place @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)).tolist()
    assert (y, x) == ((top + bottom + 1) / 2, (left + right + 1) / 2)


def test_tokens_are_equal_parts() -> None:
    system = build("vit_nano", image_size=(16, 24))
    assert torch.equal(fields(system, "blocks.1.norm1", (4, 6), (16, 24)), parts((4, 6), (16, 24)))
    expected = torch.tensor([[4, 0, 0], [0, 4, 0]], dtype=torch.float64)
    assert torch.equal(parts((4, 6), (16, 24)), expected)
    assert torch.equal(fields(system, "patch_embedding", (4, 6), (16, 24)), expected)


def test_values_between_units_are_interpolated() -> None:
    # Units at pixels 0.5, 4.5 and 8.5 of rows, at 1, 3, 5 and 7 of columns.
    units = torch.tensor([[2, 0, 0], [0, 4, -1.5]], dtype=torch.float64)
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    seen = on_prepared(values, units, (12, 8))
    for row in range(12):
        for column in range(8):
            v, u = min(max(row / 4, 0), 2), min(max((column + 0.5 - 1) / 2, 0), 3)
            top, left = min(int(v), 1), min(int(u), 2)
            expected = sum(
                float(values[top + i, left + j]) * (1 - abs(v - top - i)) * (1 - abs(u - left - j))
                for i in (0, 1)
                for j in (0, 1)
            )
            assert float(seen[row, column]) == pytest.approx(expected, abs=1e-9)


def test_a_map_of_the_image_stays_what_it_is() -> None:
    values = torch.randn(5, 7, dtype=torch.float64)
    assert torch.equal(on_prepared(values, parts((5, 7), (5, 7)), (5, 7)), values)


SIZES = [(60, 100), (100, 60), (40, 40), (20, 31), (500, 333)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["squash", "crop", "fit"])
def test_heat_lies_where_its_pixel_came_from(size: tuple[int, int], rule: Any) -> None:
    preprocess = Preprocess((40, 40), rule, 0.8)
    affine = preprocess.affine(*size)
    spot = (15, 20)  # row and column in the prepared image
    seen = torch.zeros(40, 40, dtype=torch.float64)
    seen[spot] = 1
    heat = on_image(seen, affine, size)
    assert heat.shape == size
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    found = torch.stack([(heat * x).sum(), (heat * y).sum()]) / heat.sum()
    expected = torch.linalg.solve(affine[:, :2], torch.tensor([spot[1] + 0.5, spot[0] + 0.5]).double() - affine[:, 2])
    # To half a pixel of the coarser of the two images.
    tolerance = 0.5 * max(1.0, float(1 / affine.diagonal().min()))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["squash", "crop", "fit"])
def test_heat_is_zero_exactly_where_the_preparation_cut(size: tuple[int, int], rule: Any) -> None:
    affine = Preprocess((40, 40), rule, 0.8).affine(*size)
    heat = on_image(torch.ones(40, 40, dtype=torch.float64), affine, size)
    for row in range(0, size[0], 7):
        for column in range(0, size[1], 5):
            x, y = (affine @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)).tolist()
            assert float(heat[row, column]) == pytest.approx(float(0 <= x < 40 and 0 <= y < 40))
    assert bool((heat == 0).any()) == (rule == "crop")


@pytest.mark.parametrize("rule", ["squash", "crop", "fit"])
def test_heat_follows_the_preparation(rule: Any) -> None:
    # Brightness as heat: what is prepared and mapped back is the image again, where it is smooth and not cut.
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 140), indexing="ij")
    image = (0.3 * x + 0.5 * y * x + 0.1).expand(3, -1, -1)
    preprocess = Preprocess((40, 40), rule, 0.8)
    heat = on_image(preprocess.apply(image)[0].double(), preprocess.affine(90, 140), (90, 140))
    inner = (slice(20, -20), slice(50, -50))
    torch.testing.assert_close(heat[inner].float(), image[0][inner], atol=0.01, rtol=0)
