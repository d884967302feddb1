"""What the latent space of a system shows: one coordinate changed after another, ways between points, attributes added.

For any system that has `render`, and `encode` for what begins with images. Each function returns pictures in rows and
columns; points are (N, D), normal where images are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.generate.generator import Generator

COLUMNS = 9  # images from one end of a way to the other
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of an attribute that is added
TAIL = 0.05  # of the normal distribution, left out at both ends of a traversal


@dataclass(frozen=True)
class Pictures:
    """images: (rows, columns, 3, H, W) in [0, 1]. rows, columns: what each row and each column is, in words."""

    images: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def traversal(
    system: Generator,
    point: Tensor,
    *,
    coordinates: Sequence[int] | None = None,
    rows: int = 8,
    columns: int = COLUMNS,
    label: str | None = None,
) -> Pictures:
    """From one point (D,) on, each coordinate by itself goes through quantiles of the normal distribution, equal shares
    of probability apart.

    coordinates: which ones, a row each; default the `rows` that change the image most, by the variance of pixels.
    label:       the class of all images, of a conditional system.

    Raises InputError for coordinates that are not there.
    """
    if point.ndim != 1:
        raise InputError(f"a traversal begins with one point (D,), not {tuple(point.shape)}")
    chosen = list(range(len(point))) if coordinates is None else list(coordinates)
    if missing := [index for index in chosen if not 0 <= index < len(point)]:
        raise InputError(f"there is no coordinate {missing[0]}: they are 0 to {len(point) - 1}")
    shares = torch.linspace(TAIL, 1 - TAIL, columns, dtype=torch.float64)
    quantiles = torch.special.ndtri(shares).to(point)
    points = point.repeat(len(chosen), columns, 1)
    for row, index in enumerate(chosen):
        points[row, :, index] = quantiles
    images = _rendered(system, points, label)
    if coordinates is None:
        change = images.var(1).mean((1, 2, 3))
        best = change.argsort(descending=True, stable=True)[:rows].tolist()
        images, chosen = images[best], [chosen[row] for row in best]
    captions = tuple(f"{value:+.2f}" for value in quantiles.tolist())
    return Pictures(images, tuple(f"coordinate {index}" for index in chosen), captions)


def interpolation(
    system: Generator, start: Tensor, end: Tensor, *, columns: int = COLUMNS, label: str | None = None
) -> Pictures:
    """From each point (N, D) to another one (N, D), a row each."""
    shares = torch.linspace(0, 1, columns)
    points = torch.stack([slerp(start, end, share) for share in shares.tolist()], 1)  # (N, columns, D)
    ways = tuple(f"way {row + 1}" for row in range(len(start)))
    return Pictures(_rendered(system, points, label), ways, tuple(f"{share:.0%}" for share in shares.tolist()))


def editing(
    system: Generator,
    images: Tensor,
    having: Tensor,
    lacking: Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    label: str | None = None,
) -> Pictures:
    """Images (N, 3, H, W), a row each, with more or less of what other images show (M, 3, H, W) and still others do not
    (K, 3, H, W): to the code is added, so many times, the difference of the mean codes of both.

    Larsen, Sonderby, Larochelle and Winther 2015, arXiv:1512.09300, section 4.2.
    """
    attribute = system.encode(having).mean(0) - system.encode(lacking).mean(0)
    scale = torch.tensor(strengths).to(attribute)[:, None]
    points = system.encode(images)[:, None] + scale * attribute  # (N, columns, D)
    rows = tuple(f"image {row + 1}" for row in range(len(images)))
    return Pictures(_rendered(system, points, label), rows, tuple(f"{strength:+g}" for strength in strengths))


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """(sin((1 - t) a) start + sin(t a) end) / sin a, where a is the angle between both: the way along the sphere, which
    keeps to where normal points lie. (..., D) -> (..., D).

    Shoemake 1985; White 2016, arXiv:1609.04468. Where there is no angle, or half a turn, the way is straight.
    """
    norms = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
    cosine = (start * end).sum(-1, keepdim=True) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = (sine < 1e-4) | (norms == 0)
    sine = sine.masked_fill(straight, 1)
    first = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(straight, share, (share * angle).sin() / sine)
    return first * start + second * end


def _rendered(system: Generator, points: Tensor, label: str | None) -> Tensor:
    """(rows, columns, D) -> (rows, columns, 3, H, W)."""
    flat = points.flatten(0, 1)
    images = system.render(flat) if label is None else system.render(flat, labels=label)  # type: ignore[call-arg]
    return images.unflatten(0, points.shape[:2])
