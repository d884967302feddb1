"""Against a system whose images tell the point they were made of."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.generate.generator import Generator, GeneratorSpec
from foveal.generate.latent import editing, interpolation, slerp, traversal
from foveal.system import Preprocess

LABELS = ("a", "b")


class Plain(Generator):
    """The pixels of an image of 1 x 4 are its point (B, 4), the class is added; the last coordinate shows little."""

    def __init__(self, conditional: bool = False) -> None:
        preprocess = Preprocess((1, 4), "squash", 1.0, (0.0,), (1.0,), grey=True)
        super().__init__(GeneratorSpec(LABELS, preprocess, conditional=conditional))

    def render(self, z: Tensor, labels: str | Sequence[str] | None = None) -> Tensor:
        shift = self.asked(len(z), labels)
        seen = z * z.new_tensor([1.0, 2.0, 1.5, 0.1]) + (0 if shift is None else 100 * shift[:, None])
        return seen.view(-1, 1, 1, 4).expand(-1, 3, -1, -1)

    def encode(self, images: Tensor) -> Tensor:
        return images[:, 0, 0] / images.new_tensor([1.0, 2.0, 1.5, 0.1])


def points(images: Tensor) -> Tensor:
    """(rows, columns, 3, 1, 4) -> the points (rows, columns, 4)."""
    return images[:, :, 0, 0] / images.new_tensor([1.0, 2.0, 1.5, 0.1])


def test_traversal_changes_one_coordinate_at_a_time() -> None:
    start = torch.tensor([0.3, -0.2, 0.1, 2.0])
    found = traversal(Plain(), start, coordinates=(2, 0), columns=5)
    assert found.rows == ("coordinate 2", "coordinate 0")
    shares = torch.distributions.Normal(0.0, 1.0).cdf(points(found.images)[0, :, 2])
    torch.testing.assert_close(shares, torch.tensor([0.05, 0.275, 0.5, 0.725, 0.95]), rtol=1e-4, atol=0)
    assert found.columns == ("-1.64", "-0.60", "+0.00", "+0.60", "+1.64")
    for row, index in enumerate((2, 0)):
        others = [n for n in range(4) if n != index]
        torch.testing.assert_close(points(found.images)[row][:, others], start[others].expand(5, 3))


def test_traversal_takes_the_coordinates_that_change_most() -> None:
    found = traversal(Plain(), torch.zeros(4), rows=3)
    assert found.rows == ("coordinate 1", "coordinate 2", "coordinate 0")
    assert found.images.shape == (3, 9, 3, 1, 4)
    chosen = traversal(Plain(), torch.zeros(4), coordinates=(1, 2, 0))
    assert torch.equal(found.images, chosen.images)


def test_the_class_is_passed_on() -> None:
    for conditional, label, lowest in ((True, "b", 90), (True, "a", -10), (False, None, -10)):
        images = traversal(Plain(conditional), torch.zeros(4), label=label).images
        assert lowest < images.min() < images.max() < lowest + 20
    with pytest.raises(foveal.InputError, match="cannot be asked for a class"):
        traversal(Plain(), torch.zeros(4), label="b")


def test_interpolation_goes_from_one_to_the_other_at_even_angles() -> None:
    draw = torch.Generator().manual_seed(0)
    start, end = (torch.nn.functional.normalize(torch.randn(3, 4, generator=draw), dim=1) for _ in range(2))
    found = interpolation(Plain(), start, end, columns=5)
    way = points(found.images)
    torch.testing.assert_close(way[:, 0], start, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(way[:, -1], end, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(way.norm(dim=2), torch.ones(3, 5))
    angles = (way[:, 1:] * way[:, :-1]).sum(2).acos()
    torch.testing.assert_close(angles, angles[:, :1].expand(-1, 4), rtol=1e-4, atol=0)
    assert (found.rows, found.columns) == (("way 1", "way 2", "way 3"), ("0%", "25%", "50%", "75%", "100%"))


def test_where_there_is_no_angle_the_way_is_straight() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[2.0, 4.0], [-1.0, -2.0], [1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    way = slerp(x, y, 0.25)
    torch.testing.assert_close(way[:3], (0.75 * x + 0.25 * y)[:3])
    torch.testing.assert_close(way[3].norm(), torch.tensor(3.0).double())


def test_editing_adds_what_sets_two_groups_apart() -> None:
    system, draw = Plain(), torch.Generator().manual_seed(0)
    images, lacking = (system.render(torch.randn(n, 4, generator=draw)) for n in (2, 5))
    having = lacking + system.render(torch.tensor([[0.0, 3.0, 0.0, 0.0]]))
    found = editing(system, images, having, lacking, strengths=(-1, 0, 0.5))
    expected = system.encode(images)[:, None] + torch.tensor([-1, 0, 0.5])[:, None] * torch.tensor([0.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(points(found.images), expected)
    assert (found.rows, found.columns) == (("image 1", "image 2"), ("-1", "+0", "+0.5"))


def test_with_a_real_system() -> None:
    torch.manual_seed(0)
    system: Any = foveal.create("vae_nano", labels=LABELS, latent=6, width=4, conditional=True)
    images = torch.rand(4, 3, 8, 8)
    assert traversal(system, system.encode(images)[0], label="b").images.shape == (6, 9, 3, 8, 8)
    assert editing(system, images[:1], images[1:3], images[3:], label="a").images.shape == (1, 5, 3, 8, 8)


def test_what_is_not_there() -> None:
    with pytest.raises(foveal.InputError, match="there is no coordinate 4: they are 0 to 3"):
        traversal(Plain(), torch.zeros(4), coordinates=(1, 4))
    with pytest.raises(foveal.InputError, match=r"one point \(D,\), not \(1, 4\)"):
        traversal(Plain(), torch.zeros(1, 4))
