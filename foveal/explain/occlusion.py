"""Occlusion: Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901.

A window of one colour slides over the image. Where it hides what the score rests on, the score drops:

    map[i, j] = mean of (score - score with the window) over all windows that cover (i, j)

Windows stand `stride` pixels apart from the upper left corner on; the border cuts those at the right and the bottom.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.explain.method import Method
from foveal.explain.patched import Patched
from foveal.progress import SILENT, Silent
from foveal.system import System, evaluating

PIXELS = 9 * 10**6  # of the images that go through the network together, where the target is a class
# The same for a detected object: a detector's maps stay large to the end, and those of more images leave the cache.
OBJECT_PIXELS = 2**19


def occlusion(
    system: System,
    images: Tensor,
    target: Any,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    baseline: Sequence[float] | None = None,
    *,
    bar: Silent = SILENT,
) -> Tensor:
    """Prepared images (B, 3, h, w) in [0, 1] -> maps (B, h, w), in units of the score.

    window:   height and width in pixels; default a seventh of the image's, about 170 windows with the default stride.
    stride:   pixels from one window to the next, down and across; default half a window.
    baseline: red, green and blue of the window, in [0, 1]; default the mean colour, which normalisation makes zero.
    bar:      gets the progress.

    Raises InputError for a window larger than the image or a stride larger than the window.
    """
    size = (images.shape[-2], images.shape[-1])
    window = _pair("window", window, tuple(math.ceil(side / 7) for side in size), size, "the image's")
    stride = _pair("stride", stride, tuple(max(1, side // 2) for side in window), window, "the window's")
    colour = mean_colour(system) if baseline is None else _colour(baseline)
    top, left = (torch.arange(0, s - w + d, d) for s, w, d in zip(size, window, stride, strict=True))
    corners = torch.cartesian_prod(top, left)  # (windows, 2), row and column
    nothing = corners.new_tensor([size])  # a window beyond the image, which hides nothing of it
    together = PIXELS if isinstance(target, str) else OBJECT_PIXELS
    with torch.inference_mode(False), evaluating(system):
        covered, maps = images.new_zeros(size), torch.zeros_like(images[:, 0])
        for image, map in zip(images, maps, strict=True):
            parts = torch.cat([nothing, corners]).split(max(1, together // (size[0] * size[1])))
            scores = torch.cat(
                [
                    system.score(_hidden(image, some.to(image.device), window, colour.to(image)), target)
                    for some in bar.track_parts(parts, "windows")
                ]
            )
            for drop, (y, x) in zip(scores[0] - scores[1:], corners.tolist(), strict=True):
                map[y : y + window[0], x : x + window[1]] += drop
        for y, x in corners.tolist():
            covered[y : y + window[0], x : x + window[1]] += 1
    return maps / covered


def _hidden(image: Tensor, corners: Tensor, window: tuple[int, int], colour: Tensor) -> Patched:
    """The image (3, h, w) once for each of the windows (N, 2), of this colour (3,)."""
    # All rectangles have one size: those that the border cuts begin earlier, with pixels of the image.
    within = corners.minimum(corners.new_tensor(image.shape[-2:]) - corners.new_tensor(window))
    rows, columns = (within[:, n, None] + torch.arange(window[n], device=corners.device) for n in (0, 1))
    seen = image[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)  # (N, 3, height, width)
    covered = (rows >= corners[:, :1])[:, :, None] & (columns >= corners[:, 1:])[:, None, :]
    return Patched(image[None], torch.where(covered[:, None], colour.view(3, 1, 1), seen), within)


def mean_colour(system: System) -> Tensor:
    """(3,): the colour that normalisation makes zero, on the processor."""
    return torch.tensor(system.preprocess.mean, dtype=torch.float64).expand(3)


def _colour(baseline: Sequence[float]) -> Tensor:
    colour = torch.as_tensor(baseline, dtype=torch.float64)
    if colour.shape != (3,) or not ((colour >= 0) & (colour <= 1)).all():
        raise InputError(f"baseline is a colour, three numbers in [0, 1], not {tuple(baseline)}")
    return colour


def _pair(
    name: str, value: int | Sequence[int] | None, default: Sequence[int], limit: Sequence[int], whose: str
) -> tuple[int, int]:
    """A setting as height and width, each from 1 to the limit's."""
    chosen = [value, value] if isinstance(value, int) else [*(default if value is None else value)]
    if len(chosen) != 2 or not all(1 <= side <= most for side, most in zip(chosen, limit, strict=True)):
        given = " x ".join(map(str, chosen))
        raise InputError(f"{name} is from 1 pixel to {whose} {limit[0]} x {limit[1]}, not {given}")
    return chosen[0], chosen[1]


OCCLUSION = Method(occlusion, many_passes=True, no_change="no window changes")
