"""Deletion and insertion against the loop over their steps, on systems that are known to look at one place."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from foveal.classify.classifier import Classifier
from foveal.explain.faithfulness import Curves, blur, measure, random_like
from foveal.structures import Batch
from foveal.system import Preprocess, Spec

PLACE = (slice(3, 7), slice(8, 12))


class Corner(Classifier):
    """Says "lit" by the brightness of one square, and knows nothing of the rest."""

    def __init__(self) -> None:
        super().__init__(Spec(("dark", "lit"), Preprocess((16, 16), "squash", 1.0, (0.2,) * 3, (1.0,) * 3)))

    def forward(self, images: Tensor) -> Tensor:
        score = 12 * (images[:, :, PLACE[0], PLACE[1]].mean((1, 2, 3)) - 0.6)
        return torch.stack([-score, score], 1)


def prepared(system: Any) -> Batch:
    """Noise, bright in the square that counts."""
    image = 0.4 * torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    image[:, PLACE[0], PLACE[1]] += 0.6
    return system.preprocess.batch([image])


def truth() -> Tensor:
    """The square with a little noise, so that no two pixels are alike."""
    map = 0.01 * torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    map[PLACE] += 1
    return map


def test_curves_are_those_of_the_loop() -> None:
    system = Corner()
    batch, map = prepared(system), truth()
    found = measure(system, batch, "lit", map, steps=10, randoms=1)
    order = sorted(((y, x) for y in range(16) for x in range(16)), key=lambda place: -float(map[place]))
    image, blurred = batch.images[0], blur(batch.images[0])
    assert found.share.tolist() == pytest.approx([step / 10 for step in range(11)])
    for step in range(11):
        deleted, inserted = image.clone(), blurred.clone()
        for y, x in order[: step * 256 // 10]:
            deleted[:, y, x] = 0.2
            inserted[:, y, x] = image[:, y, x]
        probabilities = system(torch.stack([deleted, inserted])).softmax(1)[:, 1].tolist()
        assert float(found.deletion[step]) == pytest.approx(probabilities[0], rel=1e-5)
        assert float(found.insertion[step]) == pytest.approx(probabilities[1], rel=1e-5)
    assert 0.9 < float(found.deletion[0]) == float(found.insertion[-1])


def test_the_true_map_is_better_than_random_and_its_negative_is_worse() -> None:
    system = Corner()
    batch, map = prepared(system), truth()
    right, wrong = (measure(system, batch, "lit", m).figures()["better_than_random"] for m in (map, -map))
    assert right > 0.2
    assert wrong < -0.2


def test_a_random_map_is_as_good_as_random_maps() -> None:
    system = Corner()
    batch = prepared(system)
    gains = [
        measure(system, batch, "lit", map, randoms=10, seed=1).figures()["better_than_random"]
        for map in random_like(truth(), 30, seed=0)
    ]
    mean = sum(gains) / len(gains)
    spread = (sum((gain - mean) ** 2 for gain in gains) / 29) ** 0.5
    assert spread > 0
    assert abs(mean) < 4 * spread / 30**0.5


def test_figures_are_areas() -> None:
    share = torch.tensor([0, 0.25, 0.5, 0.75, 1])
    deletion, insertion = torch.tensor([1, 0.5, 0, 0, 0.0]), torch.tensor([0, 1, 1, 1, 1.0])
    found = Curves(share, deletion, insertion, torch.stack([deletion, 1 - deletion]), insertion.expand(3, 5))
    figures = found.figures()
    assert figures == pytest.approx(
        {
            "deletion": 0.25,
            "insertion": 0.875,
            "random_deletion": 0.5,
            "random_insertion": 0.875,
            "better_than_random": (0.875 - 0.25) - (0.875 - 0.5),
        }
    )


def test_random_maps_have_the_grain_of_the_map() -> None:
    coarse = interpolate(torch.randn(1, 1, 4, 4, dtype=torch.float64), (15, 20), mode="bilinear")[0, 0]
    maps = random_like(coarse, 3, seed=0)
    assert maps.shape == (3, 15, 20)
    assert torch.equal(maps, random_like(coarse, 3, seed=0))
    assert not torch.allclose(maps, random_like(coarse, 3, seed=1))
    for map in maps:
        assert abs(float(torch.corrcoef(torch.stack([map.flatten(), coarse.flatten()]))[0, 1])) < 0.95
        torch.testing.assert_close(torch.fft.rfft2(map).abs(), torch.fft.rfft2(coarse).abs())
    flat = random_like(torch.full((8, 8), 3.0, dtype=torch.float64), 1, seed=0)
    assert float(flat.std()) < 1e-9


@pytest.mark.parametrize("size", [(10, 10), (5, 15), (1, 5)])
def test_blur_is_a_gaussian(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, dtype=torch.float64)
    sigma = min(size) / 4
    reach = max(1, round(3 * sigma))
    expected = torch.zeros_like(image)
    for y in range(size[0]):
        for x in range(size[1]):
            total = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    weight = 2.718281828459045 ** (-(dy * dy + dx * dx) / (2 * sigma * sigma))
                    row, column = min(max(y + dy, 0), size[0] - 1), min(max(x + dx, 0), size[1] - 1)
                    expected[:, y, x] += weight * image[:, row, column]
                    total += weight
            expected[:, y, x] /= total
    torch.testing.assert_close(blur(image), expected)
