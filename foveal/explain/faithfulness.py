"""Faithfulness: Petsiuk, Das and Saenko 2018, "RISE", arXiv:1806.07421, section 3.3: deletion and insertion.

Pixels go away in the order of the map, the highest first; if the map is right, the target's probability soon falls.
They come into a blurred image in the same order; if the map is right, the probability soon rises. Of a detected object
it is what `Detector.score` gives: the probability of its class in the box that fits its own best, times their IoU.

    deletion, insertion = area under probability against the share of pixels, in [0, 1]
    faithfulness = insertion - deletion

How much of that any map would get, by its grain and by the place where photographers put things, say random maps: noise
with the amplitudes of the map's own Fourier spectrum, so with its grain, and other phases.

Departs from the paper: pixels become the mean colour rather than black, and the blur is a quarter of the image's side
wide, so that nothing can be recognised in small images either.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveal.explain.occlusion import mean_colour
from foveal.progress import SILENT, Silent
from foveal.structures import Batch
from foveal.system import System, evaluating

BLUR = 1 / 4  # standard deviation as a share of the shorter side
PIXELS = 2**19  # of the images that go through the network together


@dataclass(frozen=True, eq=False)
class Curves:
    """How sure the system is of the target after each step. R random maps, S steps.

    share:            (S + 1,) of the pixels that are deleted, or inserted.
    deletion, insertion:               (S + 1,) in the order of the map.
    random_deletion, random_insertion: (R, S + 1) in the order of random maps of the same grain.
    """

    share: Tensor
    deletion: Tensor
    insertion: Tensor
    random_deletion: Tensor
    random_insertion: Tensor

    def figures(self) -> dict[str, float]:
        """Areas under the curves, of random maps in the mean; and by how much the map is better than they are."""
        area = {
            name: float(torch.trapezoid(getattr(self, name), self.share).mean())
            for name in ("deletion", "insertion", "random_deletion", "random_insertion")
        }
        by_chance = area["random_insertion"] - area["random_deletion"]
        return {**area, "better_than_random": area["insertion"] - area["deletion"] - by_chance}


def measure(
    system: System,
    batch: Batch,
    target: Any,
    map: Tensor,
    *,
    steps: int = 32,
    randoms: int = 5,
    seed: int = 0,
    bar: Silent = SILENT,
) -> Curves:
    """Deletion and insertion for a map (h, w) on the one image (3, h, w) of a prepared batch.

    target: as `System.confidence` takes it.
    bar:    gets the progress.

    The network runs on 2 (S - 1) (R + 1) + 3 images: the first and the last image of a curve are the same for all maps.
    """
    image = batch.images[0]
    blank, blurred = mean_colour(system).to(image).view(3, 1, 1).expand_as(image), blur(image)
    orders = torch.stack([map, *random_like(map, randoms, seed)])
    ranks = orders.flatten(1).argsort(descending=True, stable=True).argsort().view(orders.shape)
    counts = torch.arange(steps + 1) * map.numel() // steps  # pixels that each step has changed

    def version(deletes: bool, number: int, step: int) -> Tensor:
        changed = (ranks[number] < counts[step]).to(image.device)
        return torch.where(changed, blank, image) if deletes else torch.where(changed, image, blurred)

    inner = [(d, n, s) for d in (True, False) for n in range(len(orders)) for s in range(1, steps)]
    ends = [(True, 0, 0), (True, 0, steps), (False, 0, 0)]  # the image itself, nothing of it, and the blurred one
    versions, together = [*ends, *inner], max(1, PIXELS // map.numel())
    parts = [versions[start : start + together] for start in range(0, len(versions), together)]
    with evaluating(system):
        found = [
            system.confidence(torch.stack([version(*each) for each in part]), target).cpu()
            for part in bar.track_parts(parts, "deletion and insertion")
        ]
    (whole, nothing, hazy), between = torch.cat(found).split([len(ends), len(inner)])
    deletion, insertion = between.view(2, len(orders), steps - 1)
    first, last = (x.expand(len(orders), 1) for x in (whole, nothing))
    deleted = torch.cat([first, deletion, last], 1)
    inserted = torch.cat([hazy.expand(len(orders), 1), insertion, first], 1)
    return Curves(torch.linspace(0, 1, steps + 1), deleted[0], inserted[0], deleted[1:], inserted[1:])


def random_like(map: Tensor, count: int, seed: int) -> Tensor:
    """(h, w) -> (count, h, w): noise with the amplitudes of the map's Fourier spectrum."""
    noise = torch.randn(count, *map.shape, dtype=map.dtype, generator=torch.Generator().manual_seed(seed))
    phases = torch.fft.rfft2(noise).angle()
    return torch.fft.irfft2(torch.polar(torch.fft.rfft2(map).abs().expand_as(phases), phases), map.shape)


def blur(image: Tensor, share: float = BLUR) -> Tensor:
    """(3, h, w) smoothed with a Gaussian as wide as a share of the shorter side; the border's pixels go on outside."""
    sigma = share * min(image.shape[-2:])
    down, across = (_smoothing(side, sigma).to(image) for side in image.shape[-2:])
    return down @ image @ across.T


def _smoothing(side: int, sigma: float) -> Tensor:
    """(side, side): the share of each pixel of a line in each pixel of the smoothed one, in float64."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    shares = (weights / weights.sum()).expand(side, -1)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, shares)
