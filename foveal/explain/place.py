"""Where the units of a map lie: on the prepared image that the system sees, and on the image itself.

A map is often shown by stretching it over the image. That puts it in the wrong place: unit i of a padded convolution
with stride s sees the pixels around s * i, not around the middle of the i-th of equal parts, s * i + s / 2. In a deep
network the two are half a unit apart: 16 pixels of 224 in the last stage of a ResNet, 2 of 16 in that of `resnet_nano`.
Here a unit lies in the middle of its receptive field.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveal.nn.trace import trace, twin
from foveal.system import System, resize


def parts(units: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(2, 3) float64: from coordinates of a map to pixels, if the units are equal parts of the image."""
    (rows, columns), (height, width) = units, size
    return torch.tensor([[width / columns, 0, 0], [0, height / rows, 0]], dtype=torch.float64)


def fields(system: System, layer: str, units: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(2, 3) float64: from coordinates of a layer's map to pixels, if each unit is in the middle of what it sees.

    Where units have no such middle, as tokens that all see the whole image, they are equal parts of it.
    """
    copy = twin(system, lambda parameter: parameter, torch.clone).eval()
    with torch.no_grad():
        layers, _ = trace(copy, torch.zeros(1, 3, *size, dtype=system.pixel_mean.dtype, device=system.device))
    runs = [found for found in layers if f"{found.path}.".startswith(f"{layer}.")]
    last = runs[-1] if runs else None
    if last is None or last.start is None or last.stride is None or not last.shape or last.shape[-2:] != units:
        return parts(units, size)
    rows, columns = (
        # The first unit's middle is at start + seen / 2, and coordinate 1/2 of the map.
        (stride, start + seen / 2 - stride / 2)
        for start, seen, stride in zip(last.start, last.receptive_field, last.stride, strict=True)
    )
    return torch.tensor([[columns[0], 0, columns[1]], [0, rows[0], rows[1]]], dtype=torch.float64)


def on_prepared(map: Tensor, units: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (h', w') on the prepared image (h, w), in float64: interpolated between units, beyond the outer ones flat.

    units: (2, 3), from coordinates of the map to pixels of the prepared image.
    """
    down = _between(size[0], map.shape[0], float(units[1, 1]), float(units[1, 2]))
    across = _between(size[1], map.shape[1], float(units[0, 0]), float(units[0, 2]))
    return down @ map.double() @ across.T


def on_image(seen: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (h, w) on the prepared image on the image itself, (H, W); zero where the preparation cut it.

    affine: (2, 3), from pixels of the image to pixels of the prepared one.
    """
    (height, width), (prepared_height, prepared_width), affine = size, seen.shape, affine.double()
    # The way back: the whole image as it was resized, of which the preparation kept a part, then its own size.
    columns, rows = round(float(affine[0, 0]) * width), round(float(affine[1, 1]) * height)
    left, top = round(-float(affine[0, 2])), round(-float(affine[1, 2]))
    margins = (left, columns - left - prepared_width, top, rows - top - prepared_height)
    whole = resize(pad(seen[None, None], margins, mode="replicate")[0], size)[0]
    y = (torch.arange(height) + 0.5) * affine[1, 1] - top
    x = (torch.arange(width) + 0.5) * affine[0, 0] - left
    inside = ((y >= 0) & (y < prepared_height))[:, None] & ((x >= 0) & (x < prepared_width))
    return whole * inside


def _between(pixels: int, units: int, stride: float, offset: float) -> Tensor:
    """(pixels, units): how much of each unit each pixel has, by linear interpolation."""
    place = (((torch.arange(pixels, dtype=torch.float64) + 0.5 - offset) / stride) - 0.5).clamp(0, units - 1)
    return (1 - (place[:, None] - torch.arange(units)).abs()).clamp(min=0)
