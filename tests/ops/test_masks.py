"""Run-length codes and polygons beside COCO's own tools."""

import numpy as np
import pytest
import torch

from foveal.errors import InputError
from foveal.ops.masks import polygon_mask, rle_counts, rle_decode, rle_encode, rle_text

coco = pytest.importorskip("pycocotools.mask")


def masks(count: int) -> list[torch.Tensor]:
    """Empty, full, one pixel, stripes and random ones of all densities."""
    draw = np.random.default_rng(0)
    found = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.eye(6, 9, dtype=bool), np.arange(300)[:, None] % 2 == 1]
    found += [draw.random(draw.integers(1, 40, 2)) < draw.random() for _ in range(count)]
    found += [np.pad(np.ones((300, 200), bool), ((draw.integers(400), 3), (draw.integers(400), 9))) for _ in range(20)]
    return [torch.from_numpy(np.ascontiguousarray(mask)) for mask in found]


def test_codes_equal_pycocotools() -> None:
    for mask in masks(300):
        counts = rle_encode(mask)
        theirs = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert rle_text(counts) == theirs["counts"].decode()
        assert rle_counts(theirs["counts"].decode()).tolist() == counts.tolist()
        assert torch.equal(rle_decode(counts, tuple(mask.shape)), mask)


def test_counts_written_out() -> None:
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)  # column by column: 0 0 1 0 1 1
    assert rle_encode(mask).tolist() == [2, 1, 1, 2]
    assert rle_encode(~mask).tolist() == [0, 2, 1, 1, 2]


@pytest.mark.parametrize("counts", [[3, 4], [7], [-1, 7], [2**62, 2**62], []])
def test_counts_of_another_size(counts: list[int]) -> None:
    with pytest.raises(InputError, match="3 x 2 pixels"):
        rle_decode(torch.tensor(counts, dtype=torch.int64), (2, 3))


@pytest.mark.parametrize("text", ["\x00", "é", "a", "o" * 20, "~", "@", "ooooooo0"])
def test_text_that_is_no_code(text: str) -> None:
    with pytest.raises(InputError, match="run-length"):
        rle_counts(text)


def brute_force(points: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
                if (ay <= y) != (by <= y) and ax + (y - ay) * (bx - ax) / (by - ay) <= x:
                    mask[row, column] ^= True
    return mask


def distance(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of each pixel's centre from the outline."""
    y, x = np.mgrid[:height, :width] + 0.5
    centres, nearest = np.stack([x, y], -1), np.full((height, width), np.inf)
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        along = np.clip(((centres - a) @ (b - a)) / max((b - a) @ (b - a), 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(centres - a - along[..., None] * (b - a), axis=-1))
    return nearest


def test_polygons() -> None:
    draw = np.random.default_rng(1)
    for number in range(60):
        height, width, corners = *draw.integers(1, 30, 2), draw.integers(3, 9)
        points = draw.uniform(-4, 34, (corners, 2))
        if number % 3 == 0:
            points = np.round(points * 2) / 2  # corners on centres and between pixels, horizontal edges
        mask = polygon_mask(torch.from_numpy(points), (int(height), int(width))).numpy()
        assert (mask == brute_force(points, height, width)).all()


def test_polygons_beside_pycocotools() -> None:
    # Its outline goes in steps of a fifth of a pixel, so they may differ where a centre lies on it, and nowhere else.
    draw, differ, total = np.random.default_rng(2), 0, 0
    for _ in range(60):
        angle = np.sort(draw.uniform(0, 2 * np.pi, 8))
        points = np.stack([np.cos(angle), np.sin(angle)], -1) * draw.uniform(8, 28, (8, 1)) + 32
        mask = polygon_mask(torch.from_numpy(points), (64, 64)).numpy()
        codes = coco.frPyObjects([points.reshape(-1).tolist()], 64, 64)
        theirs = coco.decode(codes)[..., 0].astype(bool)
        wrong = mask != theirs
        assert distance(points, 64, 64)[wrong].max(initial=0) < 0.6
        differ, total = differ + int(wrong.sum()), total + int(mask.sum())
    assert total > 30_000
    assert differ < 0.02 * total
