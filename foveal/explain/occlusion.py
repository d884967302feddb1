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
from foveal.system import System, evaluating

PIXELS = 2**19  # of the images that go through the network together


def occlusion(
    system: System,
    images: Tensor,
    target: Any,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    baseline: Sequence[float] | None = None,
) -> Tensor:
    """Prepared images (B, 3, h, w) in [0, 1] -> maps (B, h, w), in units of the score.

    window:   height and width in pixels; default a seventh of the image's, about 170 windows with the default stride.
    stride:   pixels from one window to the next, down and across; default half a window.
    baseline: red, green and blue of the window, in [0, 1]; default the mean colour, which normalisation makes zero.

    Raises InputError for a window larger than the image or a stride larger than the window.
    """
    size = (images.shape[-2], images.shape[-1])
    window = _pair("window", window, tuple(math.ceil(side / 7) for side in size), size, "the image's")
    stride = _pair("stride", stride, tuple(max(1, side // 2) for side in window), window, "the window's")
    colour = mean_colour(system) if baseline is None else _colour(baseline)
    top, left = (torch.arange(0, s - w + d, d) for s, w, d in zip(size, window, stride, strict=True))
    corners = torch.cartesian_prod(top, left).tolist()
    drops, covered = images.new_zeros(images.shape[0], *size), images.new_zeros(size)
    with evaluating(system):
        score = system.score(images, target)
        at_once = max(1, PIXELS // (len(images) * size[0] * size[1]))
        for start in range(0, len(corners), at_once):
            part = [(slice(y, y + window[0]), slice(x, x + window[1])) for y, x in corners[start : start + at_once]]
            occluded = images.repeat(len(part), 1, 1, 1).view(len(part), *images.shape)
            for n, (rows, columns) in enumerate(part):
                occluded[n, :, :, rows, columns] = colour.to(images).view(3, 1, 1)
            found = score - system.score(occluded.flatten(0, 1), target).view(len(part), -1)  # (windows, B)
            for drop, (rows, columns) in zip(found, part, strict=True):
                drops[:, rows, columns] += drop[:, None, None]
                covered[rows, columns] += 1
    return drops / covered


def mean_colour(system: System) -> Tensor:
    """(3,): the colour that normalisation makes zero, on the processor."""
    return torch.tensor(system.preprocess.mean, dtype=torch.float64).expand(3)


def _colour(baseline: Sequence[float]) -> Tensor:
    colour = torch.as_tensor(baseline, dtype=torch.float64)
    if colour.shape != (3,):
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
