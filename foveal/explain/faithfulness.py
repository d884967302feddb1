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
from torch.nn.functional import conv2d, pad

from foveal.explain.occlusion import mean_colour
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
    system: System, batch: Batch, target: Any, map: Tensor, *, steps: int = 32, randoms: int = 5, seed: int = 0
) -> Curves:
    """Deletion and insertion for a map (h, w) on the one image (3, h, w) of a prepared batch; target: as
    `System.confidence` takes it."""
    image = batch.images[0]
    blank, blurred = mean_colour(system).to(image).view(3, 1, 1), blur(image)
    deleted, inserted = [], []
    for order in (map, *random_like(map, randoms, seed)):
        rank = order.flatten().argsort(descending=True, stable=True).argsort().view(order.shape)
        counts = torch.arange(steps + 1) * rank.numel() // steps  # pixels that each step has changed
        changed = (rank < counts[:, None, None])[:, None].to(image.device)  # (S + 1, 1, h, w)
        deleted.append(_confidence(system, target, torch.where(changed, blank, image)))
        inserted.append(_confidence(system, target, torch.where(changed, image, blurred)))
    share = torch.linspace(0, 1, steps + 1)
    return Curves(share, deleted[0], inserted[0], torch.stack(deleted[1:]), torch.stack(inserted[1:]))


def _confidence(system: System, target: Any, images: Tensor) -> Tensor:
    """(N,): how sure the system is of the target in each version (N, 3, h, w) of one image."""
    parts = images.split(max(1, PIXELS // (images.shape[-2] * images.shape[-1])))
    with evaluating(system):
        return torch.cat([system.confidence(part, target) for part in parts]).cpu()


def random_like(map: Tensor, count: int, seed: int) -> Tensor:
    """(h, w) -> (count, h, w): noise with the amplitudes of the map's Fourier spectrum."""
    noise = torch.randn(count, *map.shape, dtype=map.dtype, generator=torch.Generator().manual_seed(seed))
    phases = torch.fft.rfft2(noise).angle()
    return torch.fft.irfft2(torch.polar(torch.fft.rfft2(map).abs().expand_as(phases), phases), map.shape)


def blur(image: Tensor, share: float = BLUR) -> Tensor:
    """(3, h, w) smoothed with a Gaussian as wide as a share of the shorter side; the border's pixels go on outside."""
    sigma = share * min(image.shape[-2:])
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).to(image)
    spread = pad(image[:, None], (reach, reach, reach, reach), mode="replicate")  # each channel an image
    return conv2d(conv2d(spread, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))[:, 0]
