"""Patched tensors against ordinary ones, through every system and through layers of all kinds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.catalog import FAMILIES, family, variant
from foveal.explain import patched as module
from foveal.explain.patched import Patched
from tests.parity.compare import randomise, relative_error


def patched(size: tuple[int, int], part: tuple[int, int], count: int = 12, channels: int = 3) -> Patched:
    """Random rectangles at random places, the four corners of the image among them."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.rand(1, channels, *size, dtype=torch.float64, generator=draw)
    last = [side - own for side, own in zip(size, part, strict=True)]
    corners = torch.stack([torch.randint(0, end + 1, (count,), generator=draw) for end in last], 1)
    corners[:4] = torch.tensor([[0, 0], [0, last[1]], [last[0], 0], last])
    return Patched(whole, torch.rand(count, channels, *part, dtype=torch.float64, generator=draw), corners)


def ordinary(x: Patched) -> Tensor:
    full = x.whole.repeat(len(x), 1, 1, 1)
    height, width = x.part.shape[-2:]
    for image, part, (row, column) in zip(full, x.part, x.corners.tolist(), strict=True):
        image[:, row : row + height, column : column + width] = part
    return full


def test_full_is_the_image_with_its_rectangle() -> None:
    x = patched((9, 14), (4, 5))
    assert x.shape == (12, 3, 9, 14)
    assert torch.equal(x.full(), ordinary(x))
    outside = x.cut(x.corners - 2, (8, 9), fill=7.0)
    padded = nn.functional.pad(ordinary(x), (8, 8, 8, 8), value=7.0)
    for n, (row, column) in enumerate((x.corners + 6).tolist()):
        assert torch.equal(outside[n], padded[n, :, row : row + 8, column : column + 9])


LAYERS: dict[str, nn.Module] = {
    "3x3": nn.Conv2d(3, 4, 3, padding=1),
    "3x3, stride 2": nn.Conv2d(3, 4, 3, 2, 1),
    "7x7, stride 2, no padding": nn.Conv2d(3, 4, 7, 2),
    "1x1, stride 2": nn.Conv2d(3, 4, 1, 2),
    "1x1, stride 3, padding": nn.Conv2d(3, 4, 1, 3, 2),
    "dilated": nn.Conv2d(3, 4, 3, 1, 2, 2),
    "dilated, stride 2": nn.Conv2d(3, 4, (3, 2), (2, 1), (3, 1), (2, 3)),
    "depthwise": nn.Conv2d(3, 6, 5, padding=2, groups=3),
    "even": nn.Conv2d(3, 4, (2, 4), (1, 2), (0, 1)),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool 2": nn.MaxPool2d(2),
    "max pool, rounded up": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d(2),
    "average pool 3": nn.AvgPool2d(3, 2),
    "average pool, padded": nn.AvgPool2d(3, 2, 1),
    "average pool, rounded up": nn.AvgPool2d(3, 2, ceil_mode=True),
    "batch norm": nn.BatchNorm2d(3),
    "batch norm without affine terms": nn.BatchNorm2d(3, affine=False),
    "group norm": nn.GroupNorm(1, 3),
    "transposed": nn.ConvTranspose2d(3, 4, 2, 2),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "gelu": nn.GELU(),
}


@pytest.mark.parametrize("part", [(1, 1), (4, 5), (10, 3), (13, 17)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, part: tuple[int, int]) -> None:
    layer, x = randomise(LAYERS[name]).double(), patched((14, 18), part)
    with torch.no_grad():
        expected, found = layer(ordinary(x)), layer(x)
        assert relative_error(found.full() if isinstance(found, Patched) else found, expected) < 1e-12
    if part == (1, 1) and name.startswith(("3x3", "1x1", "dilated", "max pool 2", "average pool 3", "batch", "relu6")):
        assert isinstance(found, Patched)
        assert found.part.shape[-1] < found.shape[-1]


class Residual(nn.Module):
    """Branches of different reach, channels that are gated, concatenated and changed in place."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.near, self.far = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 5, padding=2)
        self.down, self.gain = nn.Conv2d(9, 4, 3, 2, 1), nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.near(x) + self.far(x)
        z = torch.cat([y, x, 2 * y - x], 1)
        if self.inplace:
            z += 1
            z.mul_(0.5)
        z = self.down(z) * self.gain / 3
        gated = z * z.mean((2, 3), keepdim=True).sigmoid()
        return (gated + z * torch.linspace(0, 1, z.shape[-1], dtype=z.dtype)).flatten(1)


@pytest.mark.parametrize("part", [(2, 3), (9, 9), (20, 24)])
@pytest.mark.parametrize("inplace", [False, True])
def test_branches(inplace: bool, part: tuple[int, int]) -> None:
    network, x = randomise(Residual(inplace)).double(), patched((20, 24), part)
    with torch.no_grad():
        assert relative_error(network(x), network(ordinary(x))) < 1e-12


# Of each family of networks the small variants, or the first, and of those that gain by it some more.
NETWORKS = [
    names.split()
    for kind, names in FAMILIES.items()
    if kind.startswith("classify") and not family(names.split()[0]).can("fit")
]
NAMES = [
    *(name for names in NETWORKS for name in [n for n in names if "nano" in n] or names[:1]),
    *("resnet18", "resnext50_32x4d", "resnetv2_18", "resnet20_cifar"),
]


@pytest.mark.parametrize("name", NAMES)
def test_systems(name: str) -> None:
    size = min(64, *variant(name).preprocess.size)
    system: Any = randomise(foveal.create(name, image_size=size, labels=("a", "b"))).double()
    x = patched((size, size), (size // 8, size // 8), count=6)
    with torch.no_grad():
        assert relative_error(system(x), system(ordinary(x))) < 1e-9


def test_the_rectangles_save_most_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution, shares = torch.ops.aten.convolution, []
    rule = module.RULES[convolution]

    def watched(func: Any, args: Any, kwargs: Any) -> Any:
        result = rule(func, args, kwargs)
        if result is not None:
            shares.append(result.part.shape[-2:].numel() / result.shape[-2:].numel())
        return result

    monkeypatch.setitem(module.RULES, convolution, watched)
    system = foveal.create("resnet18", labels=("a", "b"))
    x = Patched(torch.rand(1, 3, 224, 224), torch.rand(2, 3, 32, 32), torch.randint(0, 192, (2, 2)))
    with torch.no_grad():
        system(x)
    # Of 20 convolutions those up to the middle of the third stage, each of which costs about the same.
    assert len(shares) >= 12
    assert sum(shares[:5]) / 5 < 0.1
    assert sum(shares[:10]) / 10 < 0.2
