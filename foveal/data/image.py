"""The one reader and writer of image files: an image is (3, H, W) uint8 RGB, as the eye sees it."""

import contextlib
import io
import os
import secrets
import warnings
from os import PathLike
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from foveal.errors import InputError

# Height times width. Below the number at which Pillow refuses too, so that this line is the one that holds.
MAX_PIXELS = 2**27

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
IMAGE_SUFFIXES = frozenset(FORMATS)
# Pillow's word for the pixels of a file, and ours.
MODES = {
    **dict.fromkeys(("RGB", "RGBA", "YCbCr"), "colour"),
    **dict.fromkeys(("1", "L", "LA"), "grey"),
    **dict.fromkeys(("P", "PA"), "palette"),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), "16 bits"),
}
ORIENTATION = 0x0112  # EXIF tag


class ImageError(InputError):
    """An image that cannot be read. The text names the file and the reason."""


def read_image(source: str | PathLike[str] | bytes) -> Tensor:
    """An image file, or its bytes, as (3, H, W) uint8 RGB: JPEG, PNG, WebP, BMP, TIFF or GIF, told by content.

    EXIF orientation is applied, transparency laid over white, the first frame taken of many, of 16 bits the upper 8.
    In memory the channels of a pixel lie together, from which torch resizes uint8 images about three times as fast.

    Raises ImageError for whatever does not decode, and for more than MAX_PIXELS before any pixel is decoded.
    """
    name = "an image in memory" if isinstance(source, bytes) else os.fspath(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with warnings.catch_warnings():
            # Of what Pillow warns about, the pixels either come out whole or an exception follows.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            pixels = _decode(data)
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise ImageError(f"cannot read {name}: {_reason(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: str | PathLike[str], *, upright: bool = True) -> tuple[int, int]:
    """Height and width of an image file from its header alone: as `read_image` gives it or, not upright, as it is
    stored. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
                width, height = image.size
                turned = upright and _orientation(image) >= 5
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise ImageError(f"cannot read {os.fspath(path)}: {_reason(error)}") from error
    return (width, height) if turned else (height, width)


def image_orientation(path: str | PathLike[str]) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it has none. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
                return _orientation(image)
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise ImageError(f"cannot read {os.fspath(path)}: {_reason(error)}") from error


def image_mode(path: str | PathLike[str]) -> str:
    """What the pixels of an image file are, from its header alone: colour, grey, palette, 16 bits, CMYK ..., and if it
    is transparent or of several frames. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
                # The frames of an MPO file are views of one photograph, as telephones leave them.
                animated = image.format != "MPO" and getattr(image, "is_animated", False)
                words = [MODES.get(image.mode, image.mode)]
                words += ["transparent"] * image.has_transparency_data + ["of several frames"] * animated
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise ImageError(f"cannot read {os.fspath(path)}: {_reason(error)}") from error
    return ", ".join(words)


def write_image(path: str | PathLike[str], image: Tensor) -> None:
    """Writes (3, H, W), uint8 or float in [0, 1], in the format of the path's suffix; all of the file or nothing.

    Raises InputError for a suffix that is not in IMAGE_SUFFIXES, another shape, or a path that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(FORMATS)}")
    if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"an image is (3, height, width), uint8 or float, not {image.dtype} {tuple(image.shape)}")
    if image.is_floating_point():
        image = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    partial = path.with_name(f".{secrets.token_hex(8)}")
    try:
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        picture.save(partial, FORMATS[path.suffix.lower()], quality=95)
        os.replace(partial, path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _decode(data: bytes) -> np.ndarray:
    """The bytes of a file as (H, W, 3) uint8."""
    if not data:
        raise ImageError("the file is empty")
    image = Image.open(io.BytesIO(data), formats=sorted(set(FORMATS.values())))  # reads the header only
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that an image may have")
    pixels = None
    if image.format in ("JPEG", "MPO") and image.mode != "CMYK":
        # What simplejpeg will not take, Pillow may: it forgives stray bytes, though no missing ones.
        with contextlib.suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(data, "RGB")
    if pixels is None:
        image.load()  # mode, size and orientation are final only now: loading a TIFF applies and removes the last
        pixels = _rgb(image)
    return _upright(pixels, _orientation(image))


def _rgb(image: Image.Image) -> np.ndarray:
    """An image of any of Pillow's modes as (H, W, 3) uint8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # The upper byte, which is also what Pillow keeps of 16-bit colour.
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
    if image.mode in ("I", "F"):
        raise ImageError("32-bit pixels have no agreed white; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or its block is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged note about an image is no reason not to see the image
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The (H, W, 3) pixels of a file turned as its EXIF orientation says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    """One line on what went wrong."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not a JPEG, PNG, WebP, BMP, TIFF or GIF image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the {MAX_PIXELS} pixels that an image may have"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
