"""Many images of one size as one, or as a film."""

import math
from collections.abc import Sequence
from os import PathLike

import torch
from PIL import Image
from torch import Tensor

from foveal.data.image import write_image
from foveal.filesystem import replacing

SIDE = 64  # pixels that small images are enlarged to, or more
GAP = 4  # pixels between images
MILLISECONDS = 80  # of a frame
LAST = 2000  # of the last frame, which is what the film leads to


def tiles(images: Tensor, columns: int | None = None) -> Tensor:
    """(n, 3, H, W) uint8 or float in [0, 1] -> (3, h, w) uint8: all in rows, with white between them, small images
    enlarged by whole pixels. columns: images in a row; default about as many as rows."""
    n, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    if images.is_floating_point():
        images = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    times = max(1, math.ceil(SIDE / max(height, width)))
    images = images.cpu().repeat_interleave(times, 2).repeat_interleave(times, 3)
    height, width, rows = times * height + GAP, times * width + GAP, math.ceil(n / columns)
    whole = torch.full((3, rows * height + GAP, columns * width + GAP), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height + GAP, place % columns * width + GAP
        whole[:, top : top + height - GAP, left : left + width - GAP] = image
    return whole


def write_tiles(path: str | PathLike[str], images: Tensor, columns: int | None = None) -> None:
    """`tiles` as an image file. Raises InputError where it cannot be written."""
    write_image(path, tiles(images, columns))


def write_film(path: str | PathLike[str], frames: Sequence[Tensor]) -> None:
    """Writes images (3, H, W) uint8 of one size as an animated GIF; all of the file or nothing.

    Raises InputError where it cannot be written.
    """
    first, *rest = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames]
    duration = [MILLISECONDS] * len(rest) + [LAST]
    with replacing(path) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
