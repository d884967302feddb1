"""Boxes that may hold an object, from the colours of an image alone: selective search, for R-CNN and its kin.

Selective search: Uijlings, van de Sande, Gevers and Smeulders 2013 (International Journal of Computer Vision 104),
on the segmentation of Felzenszwalb and Huttenlocher 2004 (International Journal of Computer Vision 59).

    pixels -> segments, some hundreds -> the two most alike are one, until the image is one -> boxes of all there were

Departures: regions are alike by colour, size and fill; texture is left out. Pixels differ by their distance in RGB,
where Felzenszwalb and Huttenlocher segment each channel and intersect. Of the colour spaces of the paper only RGB is
looked at. Boxes are ordered by how long their regions last, where the paper draws their order at random.
"""

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from foveal.errors import InputError

SIDE = 256  # pixels: larger images are halved until they are not larger than this
BINS = 25  # of the histogram of a channel


def propose_regions(
    image: Tensor,
    most: int = 2000,
    scales: Sequence[float] = (50.0, 150.0),
    smoothing: float = 0.8,
    smallest: int = 8,
) -> Tensor:
    """Boxes of regions of an image (3, H, W), uint8 or float in [0, 1] -> (N, 4) float32 xyxy in pixels, best first.

    most:      boxes at most.
    scales:    of the segmentations that are pooled, in 255ths of a colour: k of the paper, larger for larger segments.
    smoothing: deviation in pixels of the Gaussian before the segmentation.
    smallest:  boxes with a shorter side are dropped, in pixels of the image that was halved until its longer side is at
               most 256. The box of the whole image stays, so there always is one.

    The same image has the same boxes. Raises InputError for what is no such image. Computed on the CPU.
    """
    from scipy.ndimage import gaussian_filter  # slow to import, and few need it

    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image to propose regions in is (3, H, W), not {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"an image to propose regions in is uint8, or float in [0, 1], not {image.dtype}")
    if most < 1 or not scales or min(*scales, smoothing) < 0:
        raise InputError("regions are proposed with most at least 1, one scale or more, no scale or smoothing below 0")
    pixels = image.detach().cpu().double()
    if image.dtype != torch.uint8:
        # Rounded so that x / 255 in float32 has the ties, and so the boxes, of x in uint8.
        pixels = (pixels * (255 * 256)).round() / 256
    if not bool(((pixels >= 0) & (pixels <= 255)).all()):
        raise InputError("an image to propose regions in has values outside [0, 1], or some that are no numbers")
    height, width = image.shape[1:]
    factor = 1
    while -(-max(height, width) // factor) > SIDE:
        factor *= 2
    # The last blocks may be cut by the border; they are means of what they have.
    reduced = avg_pool2d(pixels[None], factor, ceil_mode=True)[0].numpy()  # (3, h, w)
    edges = graph(gaussian_filter(reduced, (0, smoothing, smoothing)))
    found = [hierarchy(reduced, segment(edges, reduced.shape[1:], scale), edges) for scale in scales]
    boxes, lasted = (np.concatenate(parts) for parts in zip(*found, strict=True))
    whole = np.array([0, 0, reduced.shape[2], reduced.shape[1]])
    large = (boxes[:, 2:] - boxes[:, :2]).min(1) >= smallest
    keep = large | (boxes == whole).all(1)
    boxes, which = np.unique(boxes[keep], axis=0, return_inverse=True)
    # A box that several segmentations know is better than one that a single one does.
    score = np.bincount(which.ravel(), lasted[keep], len(boxes))
    order = np.argsort(-score, kind="stable")[:most]
    limits = [width, height, width, height]
    return torch.from_numpy(np.minimum(boxes[order] * factor, limits)).float().to(image.device)


Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


def graph(image: np.ndarray) -> Edges:
    """(3, H, W) -> pixels a (E,), b (E,) that touch, by a side or a corner, and how far their colours lie apart (E,).

    A pixel is y W + x. The edges are in order of this distance.
    """
    places = np.arange(image[0].size).reshape(image.shape[1:])
    ends = [(places[:, :-1], places[:, 1:]), (places[:-1], places[1:])]
    ends += [(places[:-1, :-1], places[1:, 1:]), (places[:-1, 1:], places[1:, :-1])]
    a, b = (np.concatenate([end[side].ravel() for end in ends]) for side in (0, 1))
    flat = image.reshape(3, -1)
    distance = np.sqrt(np.square(flat[:, a] - flat[:, b]).sum(0))
    order = np.argsort(distance, kind="stable")
    return a[order], b[order], distance[order]


def segment(edges: Edges, size: tuple[int, ...], scale: float, least: int = 8) -> np.ndarray:
    """Labels 0 .. n - 1 of the pixels, of size (H, W), by Felzenszwalb and Huttenlocher 2004.

    By growing distance, an edge makes two components one if it is within both of

        Int(C) + scale / |C|      Int(C): the largest distance that made C one, 0 for a pixel

    and then, in the same order, where either has fewer than `least` pixels.
    """
    count = size[0] * size[1]
    parent, pixels, limit = list(range(count)), [1] * count, [scale] * count
    a, b, distance = edges
    for i, j, w in zip(a.tolist(), b.tolist(), distance.tolist(), strict=True):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        while parent[j] != j:
            parent[j] = j = parent[parent[j]]
        if i != j and w <= limit[i] and w <= limit[j]:
            parent[j] = i
            pixels[i] += pixels[j]
            limit[i] = w + scale / pixels[i]
    root = _roots(parent)
    between = root[a] != root[b]
    for i, j in zip(root[a][between].tolist(), root[b][between].tolist(), strict=True):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        while parent[j] != j:
            parent[j] = j = parent[parent[j]]
        if i != j and min(pixels[i], pixels[j]) < least:
            parent[j] = i
            pixels[i] += pixels[j]
    return np.unique(_roots(parent), return_inverse=True)[1].reshape(size)


def _roots(parent: list[int]) -> np.ndarray:
    root = np.array(parent)
    while not np.array_equal(root, root[root]):
        root = root[root]
    return root


def hierarchy(image: np.ndarray, labels: np.ndarray, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Of (3, H, W) in [0, 255] and its n segments (H, W): boxes (2n - 1, 4) int64 of all regions, and how they last.

    The first n are the segments; each of the others is made of two that touch and are the most alike of all that do, of
    equals those that came first (Uijlings et al. 2013, section 3):

        s(a, b) = sum min(h_a, h_b)  +  1 - (|a| + |b|) / |image|  +  1 - (|box of both| - |a| - |b|) / |image|

    with |.| the count of pixels and h the histograms of the three channels, 75 numbers whose sum is 1. A region that
    was made when m were left, itself included, and went into another when that left m', lasts log((m + 1) / (m' + 1));
    m' is 0 for the whole image.
    """
    count, total, flat = int(labels.max()) + 1, labels.size, labels.ravel()
    regions = 2 * count - 1
    size = np.zeros(regions)
    size[:count] = np.bincount(flat)
    histogram = np.zeros((regions, 3 * BINS))
    bins = (image.reshape(3, -1) * (BINS / 256)).astype(np.int64) + np.arange(0, 3 * BINS, BINS)[:, None]
    counts = np.bincount((flat * (3 * BINS) + bins).ravel(), minlength=count * 3 * BINS).reshape(count, -1)
    histogram[:count] = counts / (3 * size[:count, None])
    # x1, y1, -x2, -y2: the box of both is the minimum.
    sides = np.full((regions, 4), max(labels.shape), dtype=np.int64)
    y, x = (places.ravel() for places in np.indices(labels.shape))
    for side, values in enumerate((x, y, -x - 1, -y - 1)):
        np.minimum.at(sides[:, side], flat, values)

    def alike(a: np.ndarray | int, b: np.ndarray) -> list[float]:
        colour = np.minimum(histogram[a], histogram[b]).sum(-1)
        both, box = size[a] + size[b], np.minimum(sides[a], sides[b])
        around = (box[:, 2] + box[:, 0]) * (box[:, 3] + box[:, 1])
        # Rounded so that those which are equal by the formula are equal here.
        return (colour + (1 - both / total) + (1 - (around - both) / total)).round(9).tolist()

    ends = np.stack([flat[edges[0]], flat[edges[1]]])
    pairs = np.unique(np.sort(ends[:, ends[0] != ends[1]], 0), axis=1)
    beside: list[set[int]] = [set() for _ in range(regions)]
    for i, j in pairs.T.tolist():
        beside[i].add(j)
        beside[j].add(i)
    queue = [(-s, i, j) for s, i, j in zip(alike(*pairs), *pairs.tolist(), strict=True)] if count > 1 else []
    heapq.heapify(queue)
    gone = [False] * regions
    first, last = np.full(regions, count), np.zeros(regions)  # m and m'
    for new in range(count, regions):
        s, i, j = heapq.heappop(queue)
        while gone[i] or gone[j]:
            s, i, j = heapq.heappop(queue)
        gone[i] = gone[j] = True
        last[i] = last[j] = first[new] = regions - new
        size[new] = size[i] + size[j]
        histogram[new] = (size[i] * histogram[i] + size[j] * histogram[j]) / size[new]
        sides[new] = np.minimum(sides[i], sides[j])
        around = sorted((beside[i] | beside[j]) - {i, j})
        beside[new].update(around)
        for k in around:
            beside[k] -= {i, j}
            beside[k].add(new)
        for s, k in zip(alike(new, np.array(around, dtype=np.int64)), around, strict=True):
            heapq.heappush(queue, (-s, k, new))
    sides[:, 2:] *= -1
    return sides, np.log((first + 1) / (last + 1))
