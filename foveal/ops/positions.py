"""Where things are, as vectors of sines: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762; of images
Carion et al. 2020, arXiv:2005.12872.

code(t) = (sin w_0 t, cos w_0 t, sin w_1 t, cos w_1 t, ...),  w_i = 10000^(-2 i / width)
"""

import math

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.ops.checks import check

SLOWEST = 10000  # the last wave is nearly so many times longer than the first


def sine_code(t: Tensor, width: int) -> Tensor:
    """(...) -> (..., width), an even number: nearby places have like codes. InputError for other types and widths."""
    check("sine_code", t=(t, "... floats"))
    _check_even("sine_code", width)
    rates = SLOWEST ** (-torch.arange(0, width, 2, device=t.device, dtype=t.dtype) / width)
    angles = t[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def time_code(t: Tensor, width: int, shift: int = 1) -> Tensor:
    """(...) -> (..., width): the sines of all waves, then the cosines, w_i = 10000^(-i / (width / 2 - shift)).

    As in the code of Ho et al. 2020, arXiv:2006.11239; with shift 0 the rates are those of `sine_code`. InputError as
    there, and for a width without waves of several lengths.
    """
    check("time_code", t=(t, "... floats"))
    _check_even("time_code", width)
    half = width // 2
    if half <= shift:
        raise InputError(f"time_code needs a width above {2 * shift} for a shift of {shift}, not {width}")
    rates = torch.exp(-math.log(SLOWEST) * torch.arange(half, device=t.device, dtype=t.dtype) / (half - shift))
    angles = t[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def box_code(places: Tensor, width: int) -> Tensor:
    """Points (..., 2) or boxes (..., 4) with coordinates of x first, in parts of the image -> (..., D width), D the
    number of coordinates. What stands in x and y are a full turn of the fastest wave each, y first as in DETR.
    InputError for other shapes."""
    check("box_code", places=(places, "... D floats"))
    _check_even("box_code", width)
    if places.shape[-1] < 2:
        raise InputError(f"box_code takes points (..., 2) or boxes (..., 4), not {tuple(places.shape)}")
    order = [1, 0, *range(2, places.shape[-1])]
    return sine_code(2 * math.pi * places[..., order], width).flatten(-2)


def grid_places(seen: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, h, w) bool, which places of a map show something -> (B, h, w, 2): x and y of the lower right corner of each
    in parts of what is shown, so that images of any size begin near zero and end at one.

    InputError for other shapes.
    """
    check("grid_places", seen=(seen, "B h w"))
    count = seen.to(dtype)
    x, y = count.cumsum(2), count.cumsum(1)
    # What shows nothing has no size, and any place will do.
    return torch.stack([x / (x[:, :, -1:] + 1e-6), y / (y[:, -1:] + 1e-6)], -1)


def _check_even(function: str, width: int) -> None:
    if width < 2 or width % 2:
        raise InputError(f"{function} needs an even width of 2 or more, not {width}")
