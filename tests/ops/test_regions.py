"""Proposed regions: known images, and the segmentation and the hierarchy beside slow loops written from the papers."""

import numpy as np
import pytest
import torch

from foveal.errors import InputError
from foveal.ops import propose_regions
from foveal.ops.regions import graph, hierarchy, segment


def plain(height: int, width: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Grey with a box of another colour at each of the places."""
    image = torch.full((3, height, width), 90, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = torch.tensor([230, 40, 60], dtype=torch.uint8)[:, None, None]
    return image


def noisy(height: int, width: int, seed: int) -> torch.Tensor:
    """Random blocks of eight pixels with noise upon them."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.rand(3, -(-height // 8), -(-width // 8), generator=draw)
    image = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    return (image + 0.1 * torch.rand(image.shape, generator=draw)).clamp(0, 1)


@pytest.mark.parametrize("box", [(10, 20, 40, 50), (0, 0, 16, 30), (30, 5, 64, 48)])
def test_two_colours_are_two_boxes(box: tuple[int, int, int, int]) -> None:
    boxes = propose_regions(plain(48 + 8, 64, box), smoothing=0)
    assert sorted(boxes.tolist()) == sorted([[0.0, 0.0, 64.0, 56.0], list(map(float, box))])


def test_smoothing_keeps_the_box() -> None:
    boxes = propose_regions(plain(60, 64, (10, 20, 40, 50)))
    assert [10, 20, 40, 50] in boxes.tolist()
    assert [0, 0, 64, 60] in boxes.tolist()


def test_two_objects_and_both() -> None:
    places = (8, 8, 24, 24), (24, 24, 50, 40)  # they touch at a corner: one segment
    assert [8, 8, 50, 40] in propose_regions(plain(64, 64, *places), smoothing=0).tolist()
    places = (8, 8, 24, 24), (30, 24, 50, 40)
    found = propose_regions(plain(64, 64, *places), smoothing=0).tolist()
    assert [8, 8, 24, 24] in found
    assert [30, 24, 50, 40] in found


def test_large_images_are_halved() -> None:
    # To 128 x 256 and 151 x 256, where the edges of the boxes fall between blocks of four pixels.
    box = (200, 100, 500, 300)
    for height, width in ((512, 1024), (601, 1021)):
        found = propose_regions(plain(height, width, box), smoothing=0)
        assert sorted(found.tolist()) == sorted([[0.0, 0.0, float(width), float(height)], list(map(float, box))])


@pytest.mark.parametrize("size", [(40, 70), (1, 300), (513, 30), (300, 259), (7, 7)])
def test_boxes_lie_inside_and_are_different(size: tuple[int, int]) -> None:
    image = noisy(*size, seed=sum(size))
    boxes = propose_regions(image)
    assert boxes.dtype == torch.float32
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert [0, 0, size[1], size[0]] in boxes.tolist()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    assert (sides > 0).all()
    # Those with a short side are dropped; blocks at the border may be cut.
    assert ((sides >= 8) | (boxes[:, 2:] - boxes[:, :2] == torch.tensor([size[1], size[0]])).all(1)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (64, 50), (600, 300)])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_images_are_one_region(size: tuple[int, int], value: float) -> None:
    assert propose_regions(torch.full((3, *size), value)).tolist() == [[0, 0, size[1], size[0]]]


def test_the_same_again_and_the_best_of_them() -> None:
    image = (noisy(64, 80, seed=1) * 255).to(torch.uint8)
    boxes = propose_regions(image)
    assert len(boxes) > 30
    assert torch.equal(propose_regions(image), boxes)
    assert torch.equal(propose_regions(image.float() / 255), boxes)
    assert torch.equal(propose_regions(image, most=7), boxes[:7])
    assert not torch.equal(propose_regions(image, scales=[50.0]), boxes)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(1, 8, 8), "3, H, W"),
        (torch.zeros(2, 3, 8, 8), "3, H, W"),
        (torch.zeros(3, 0, 8), "3, H, W"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((3, 8, 8), 200.0), "outside"),
        (torch.full((3, 8, 8), torch.nan), "no numbers"),
    ],
)
def test_what_is_no_image(image: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        propose_regions(image)


@pytest.mark.parametrize("setting", [{"most": 0}, {"scales": []}, {"scales": [50.0, -1.0]}, {"smoothing": -1.0}])
def test_settings_that_cannot_be(setting: dict) -> None:
    with pytest.raises(InputError, match="at least 1"):
        propose_regions(torch.zeros(3, 8, 8), **setting)


def slow_segments(image: np.ndarray, scale: float, least: int) -> list[set[tuple[int, int]]]:
    """Components as sets of pixels, and Int(C) kept beside each."""
    _, height, width = image.shape
    edges = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if y + dy < height and 0 <= x + dx < width:
                    distance = np.linalg.norm(image[:, y, x] - image[:, y + dy, x + dx])
                    edges.append((distance, (y, x), (y + dy, x + dx)))
    edges.sort(key=lambda edge: edge[0])
    parts = [({(y, x)}, 0.0) for y in range(height) for x in range(width)]
    for by_size in (False, True):
        for distance, a, b in edges:
            one, other = (next(part for part in parts if pixel in part[0]) for pixel in (a, b))
            if one is other:
                continue
            if by_size:
                join = min(len(one[0]), len(other[0])) < least
            else:
                join = distance <= min(inner + scale / len(pixels) for pixels, inner in (one, other))
            if join:
                parts = [part for part in parts if part is not one and part is not other]
                parts.append((one[0] | other[0], distance))
    return [pixels for pixels, _ in parts]


@pytest.mark.parametrize(("scale", "least"), [(0.0, 1), (60.0, 1), (60.0, 6), (300.0, 3), (1e5, 1)])
def test_segments_beside_a_slow_loop(scale: float, least: int) -> None:
    draw = np.random.default_rng(int(scale) + least)
    counts = []
    for size in ((9, 11), (1, 12), (12, 1), (10, 7)):
        image = np.repeat(draw.uniform(0, 200, (3, size[0], -(-size[1] // 3))), 3, 2)[:, :, : size[1]]
        image += draw.uniform(0, 55, image.shape)  # no ties
        labels = segment(graph(image), size, scale, least)
        slow = slow_segments(image, scale, least)
        found = [{tuple(pixel) for pixel in np.argwhere(labels == k).tolist()} for k in range(labels.max() + 1)]
        assert sorted(map(sorted, found)) == sorted(map(sorted, slow))
        counts.append(len(found))
    if 0 < scale < 1000:
        assert max(counts) > 2


def slow_hierarchy(image: np.ndarray, labels: np.ndarray) -> list[tuple[list[int], float]]:
    """Box and duration of each region, all of a region counted anew from its mask."""

    def histogram(mask: np.ndarray) -> np.ndarray:
        rows = [np.histogram(channel[mask], bins=25, range=(0, 256))[0] for channel in image]
        return np.concatenate(rows) / np.concatenate(rows).sum()

    def box(mask: np.ndarray) -> list[int]:
        y, x = np.nonzero(mask)
        return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]

    def touch(a: np.ndarray, b: np.ndarray) -> bool:
        return bool((np.abs(np.argwhere(a)[:, None] - np.argwhere(b)).max(-1) == 1).any())

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        x1, y1, x2, y2 = box(a | b)
        size, filled = (a.sum() + b.sum()) / a.size, ((x2 - x1) * (y2 - y1) - a.sum() - b.sum()) / a.size
        return round(float(np.minimum(histogram(a), histogram(b)).sum() + 1 - size + 1 - filled), 9)

    live = [(labels == k, int(labels.max()) + 1) for k in range(labels.max() + 1)]
    done = []
    while len(live) > 1:
        pairs = [(i, j) for i in range(len(live)) for j in range(i) if touch(live[i][0], live[j][0])]
        i, j = max(pairs, key=lambda pair: (similarity(live[pair[0]][0], live[pair[1]][0]), -pair[1], -pair[0]))
        one, other, left = live[i], live[j], len(live) - 1
        done += [(box(mask), np.log((made + 1) / (left + 1))) for mask, made in (one, other)]
        live = [part for k, part in enumerate(live) if k not in (i, j)] + [(one[0] | other[0], left)]
    mask, made = live[0]
    return [*done, (box(mask), np.log(made + 1))]


@pytest.mark.parametrize("seed", range(4))
def test_hierarchy_beside_a_slow_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    image = np.repeat(draw.uniform(0, 200, (3, 14, 6)), 3, 2)[:, :, : 18 - seed] + draw.uniform(
        0, 55, (3, 14, 18 - seed)
    )
    edges = graph(image)
    labels = segment(edges, image.shape[1:], 60.0, 5)
    assert labels.max() > 5
    boxes, lasted = hierarchy(image, labels, edges)
    found = sorted((box, duration) for box, duration in zip(boxes.tolist(), lasted.tolist(), strict=True))
    slow = sorted(slow_hierarchy(image, labels))
    assert [box for box, _ in found] == [box for box, _ in slow]
    np.testing.assert_allclose([duration for _, duration in found], [duration for _, duration in slow], rtol=1e-12)


def test_most_objects_of_the_scenes_are_found() -> None:
    import foveal

    data = foveal.load_dataset("scenes", split="val")
    best = []
    for index in range(20):
        image, truth = data.image(index), data.target(index).boxes
        boxes = propose_regions(image)
        inner = torch.minimum(truth[:, None, 2:], boxes[:, 2:]) - torch.maximum(truth[:, None, :2], boxes[:, :2])
        both = inner.clamp(min=0).prod(-1)
        areas = [(side[:, 2:] - side[:, :2]).prod(-1) for side in (truth, boxes)]
        best += (both / (areas[0][:, None] + areas[1] - both)).amax(1).tolist()
    assert np.mean(best) > 0.75
    assert np.mean(np.array(best) > 0.5) > 0.9
