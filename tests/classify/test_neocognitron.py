"""The neocognitron beside loops over its cells, written from the equations."""

import math
from pathlib import Path

import pytest
import torch

import foveal
from foveal.classify.neocognitron import CCells, SCells, falling, seeds
from foveal.data.builtin import digits
from foveal.train.config import TrainConfig
from tests.toys import small_digits


def value(u: torch.Tensor, k: int, row: int, column: int) -> float:
    """A cell of a map (K, H, W); nothing outside it."""
    inside = 0 <= row < u.shape[1] and 0 <= column < u.shape[2]
    return float(u[k, row, column]) if inside else 0.0


def phi(x: float) -> float:
    return max(x, 0.0)


def weights(side: int, base: float) -> dict[tuple[int, int], float]:
    half = side // 2
    offsets = [(y, x) for y in range(-half, half + 1) for x in range(-half, half + 1)]
    return {(y, x): base ** math.hypot(y, x) for y, x in offsets}


def test_s_cells_equal_a_loop_over_cells() -> None:
    torch.manual_seed(0)
    cells = SCells(inputs=3, planes=4, window=3, r=2.5, learning_r=5.0, q=1.0, column=3).double()
    cells.a.uniform_(0, 3)
    cells.b.uniform_(0, 2)
    u = torch.rand(1, 3, 5, 6).double()
    found, v_found = cells(u)[0], cells.inhibition(u)[0, 0]
    c = weights(3, 0.9)
    norm = 3 * sum(c.values())
    for n in range(5):
        for m in range(6):
            square = sum(c[y, x] / norm * value(u[0], k, n + y, m + x) ** 2 for k in range(3) for y, x in c)
            assert float(v_found[n, m]) == pytest.approx(math.sqrt(square), rel=1e-6)
            for plane in range(4):
                e = sum(
                    float(cells.a[plane, k, 1 + y, 1 + x]) * value(u[0], k, n + y, m + x)
                    for k in range(3)
                    for y, x in c
                )
                h = 2 * 2.5 / 3.5 * float(cells.b[plane]) * math.sqrt(square)
                expected = 2.5 * phi((1 + e) / (1 + h) - 1)
                assert float(found[plane, n, m]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7)])
def test_c_cells_equal_a_loop_over_cells(height: int, width: int) -> None:
    torch.manual_seed(0)
    cells, s = CCells(3, 2).double(), torch.rand(2, 4, height, width).double()
    found, d = cells(s), weights(3, 0.7)
    assert found.shape == (2, 4, math.ceil(height / 2), math.ceil(width / 2))
    for image in range(2):
        for n in range(found.shape[2]):
            for m in range(found.shape[3]):
                pooled = [sum(d[y, x] * value(s[image], k, 2 * n + y, 2 * m + x) for y, x in d) for k in range(4)]
                lateral = sum(pooled) / 4
                for k in range(4):
                    x = phi((1 + pooled[k]) / (1 + lateral) - 1)
                    assert float(found[image, k, n, m]) == pytest.approx(x / (0.5 + x), rel=1e-6, abs=1e-9)


def test_last_c_cells_take_the_strongest_of_their_plane() -> None:
    s = torch.rand(2, 4, 3, 5)
    x = (1 + s.amax((2, 3))) / (1 + s.amax((2, 3)).mean(1, keepdim=True)) - 1
    expected = x.relu() / (0.5 + x.relu())
    torch.testing.assert_close(CCells(None)(s)[:, :, 0, 0], expected)


@pytest.mark.parametrize("column", [1, 3, 4, 99])
def test_seeds_equal_a_loop_over_squares(column: int) -> None:
    s = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(column)) - 0.3
    high, wide = min(column, 6), min(column, 7)
    candidates = set()
    for top in range(6 - high + 1):
        for left in range(7 - wide + 1):
            cells = [(k, y, x) for k in range(5) for y in range(top, top + high) for x in range(left, left + wide)]
            candidates.add(max(cells, key=lambda cell: float(s[cell])))
    expected: dict[int, tuple[int, int]] = {}
    for k, y, x in sorted((cell for cell in candidates if s[cell] > 0), key=lambda cell: -float(s[cell])):
        expected.setdefault(k, (y, x))
    assert seeds(s, column) == expected


def test_a_cell_answers_its_own_pattern_with_one_and_no_other_below_its_angle() -> None:
    torch.manual_seed(0)
    cells = SCells(inputs=2, planes=3, window=3, r=4.0, learning_r=4.0, q=1000.0, column=99).double()
    cells.begin()
    pattern = torch.zeros(1, 2, 3, 3).double()
    pattern[0, 0, 1] = 1.0  # a bar
    cells.learn(pattern)
    (known,) = (cells.b > 0).nonzero()[:, 0].tolist()
    assert float(cells(pattern)[0, known].max()) == pytest.approx(1, abs=0.02)
    seen = (cells.c * pattern)[0]
    centre = cells(pattern)[0, known].argmax().item() == 4
    assert centre
    torch.testing.assert_close(cells.a[known], 1000 * seen, atol=2e-4, rtol=0)
    assert float(cells.b[known]) == pytest.approx(500 * float(cells.inhibition(pattern)[0, 0, 1, 1]))
    assert float(cells(pattern.flip(1))[0, known].max()) == 0  # a pattern that shares nothing
    # What a trained cell is silent to goes to a plane that has not learned yet.
    cells.learn(pattern.flip(1))
    assert int((cells.b > 0).sum()) == 2


def test_distances_are_from_the_centre() -> None:
    expected = torch.tensor([[v for (y, _), v in weights(5, 0.7).items() if y == row] for row in range(-2, 3)])
    torch.testing.assert_close(falling(5, 0.7), expected)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    system = foveal.create("neocognitron", image_size=24, planes=(16, 48, 300), images=300)
    config = TrainConfig(out=str(tmp_path_factory.mktemp("runs") / "run"), quiet=True)
    foveal.train(system, padded(digits(), 2), config)
    return system


def padded(dataset, margin: int, right: int = 0):
    from dataclasses import replace

    from foveal.data.dataset import ImageArray

    margins = (margin + right, margin - right, margin, margin)
    images = [torch.nn.functional.pad(dataset.image(i), margins) for i in range(len(dataset))]
    return replace(dataset, images=ImageArray(torch.stack(images), "digits"))


def test_it_learns_from_few_digits_and_tolerates_a_shift(learned) -> None:
    still, moved = (foveal.evaluate(learned, padded(digits(), 2, right))["accuracy"] for right in (0, 1))
    assert still > 0.85
    assert moved > 0.8 * still


def test_pictures_are_the_planes_that_have_learned(learned) -> None:
    ((title, (pictures, captions)),) = learned.pictures().items()
    assert title == "first planes"
    assert pictures.shape == (len(captions), 3, 5, 5)
    assert 5 <= len(captions) <= 16
    assert pictures.min() >= 0
    assert pictures.max() == 1


def test_it_can_be_explained(learned) -> None:
    image = padded(digits(), 2).image(0)
    for method in ("occlusion", "gradcam", "saliency"):
        found = foveal.explain(learned, image, method)
        assert torch.isfinite(found.map).all()
        assert found.map.abs().max() > 0


def test_the_same_seed_learns_the_same(tmp_path: Path) -> None:
    systems = [foveal.create("neocognitron", planes=(8, 16, 30), images=60) for _ in range(2)]
    for number, system in enumerate(systems):
        foveal.train(system, small_digits(), TrainConfig(out=str(tmp_path / str(number)), quiet=True, seed=3))
    for name, tensor in systems[0].state_dict().items():
        assert torch.equal(tensor, systems[1].state_dict()[name]), name


@pytest.mark.parametrize(
    "fields",
    [
        {"planes": (0, 1, 1)},
        {"windows": (4, 3, 3)},
        {"pools": (2, 3)},
        {"r": (0.0, 1.0, 1.0)},
        {"learning_r": (-1.0, 1.0, 1.0)},
    ],
)
def test_settings_that_cannot_be(fields: dict) -> None:
    with pytest.raises(foveal.InputError, match="are above 0, windows and pools odd"):
        foveal.create("neocognitron", **fields)


def test_images_that_are_too_small() -> None:
    with pytest.raises(foveal.InputError, match="8 x 8 pixels or more"):
        foveal.create("neocognitron", image_size=6)
