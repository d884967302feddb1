"""The one reader and writer of image files: an image is (3, H, W) uint8 RGB, as the eye sees it."""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features
from torch import Tensor

from foveal.data.mend import defect, mend
from foveal.errors import InputError
from foveal.filesystem import open_file, read_bytes, replacing

# Height times width. Below the number at which Pillow refuses too, so that this line is the one that holds.
MAX_PIXELS = 2**27
MAX_FILE = 2**29  # bytes; so many pixels of 8 bits a channel have fewer without any compression
# A JPEG is decoded once for each scan, of which encoders write up to a dozen. Of more, scans times pixels are bounded.
SCANS, MAX_SCANNED = 32, 2**28
BLOCK = 2**18  # pixels that are converted at once, in up to 22 bytes each

# Suffix -> Pillow's name of the format that `write_image` writes.
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
# Formats that are read besides: Pillow's name -> suffixes, and Pillow's name of the decoder that may be missing.
OTHERS = {
    "JPEG": ((".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"), None),
    "PNG": ((".apng",), None),
    "DIB": ((".dib",), None),
    "PPM": ((".ppm", ".pgm", ".pbm", ".pnm"), None),
    "ICO": ((".ico",), None),
    "AVIF": ((".avif",), "avif"),
    "JPEG2000": ((".jp2", ".j2k", ".jpx", ".jpf", ".j2c"), "jpg_2000"),
    "TGA": ((".tga",), None),
}
HEIF = frozenset({".heic", ".heif", ".hif"})  # read where pillow-heif is installed
IMAGE_SUFFIXES = frozenset(FORMATS).union(
    *(suffixes for suffixes, decoder in OTHERS.values() if decoder is None or features.check(decoder)),
    HEIF if find_spec("pillow_heif") else (),
)
# Pillow's word for the pixels of a file, and ours.
MODES = {
    **dict.fromkeys(("RGB", "RGBA", "YCbCr"), "colour"),
    **dict.fromkeys(("1", "L", "LA"), "grey"),
    **dict.fromkeys(("P", "PA"), "palette"),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), "16 bits"),
}
ORIENTATION = 0x0112  # EXIF tag
STORED_WIDTH, STORED_HEIGHT, BITS, PHOTOMETRIC = 256, 257, 258, 262  # TIFF 6.0 tags


class ImageError(InputError):
    """An image that cannot be read. The text names the file and the reason."""


@dataclass(frozen=True)
class Traits:
    """Properties of an image file that its decoded pixels do not show.

    mode:   what its pixels are: colour, grey, palette, 16 bits, CMYK ...; transparent, of several frames.
    peak:   the largest value in a file with 16 bits a channel, as it is stored; None for other files.
    defect: what the file lacks although every pixel is there; empty where it lacks nothing.
    """

    mode: str
    peak: int | None
    defect: str


def read_image(source: str | PathLike[str] | bytes) -> Tensor:
    """An image file, or its bytes, as (3, H, W) uint8 RGB. The content decides about the format, not the suffix.

    Read are JPEG, PNG, WebP, BMP, TIFF, GIF, ICO, PNM, and TGA by its suffix; AVIF, JPEG 2000 and HEIF where Pillow has
    the decoder. EXIF orientation is applied (XMP's is not, as in browsers), transparency laid over white, the first
    frame taken of many, of 16 bits the upper 8. In memory the channels of a pixel lie together, from which torch
    resizes uint8 images about three times as fast.

    Raises ImageError for whatever does not decode, and for more than MAX_PIXELS before any pixel is decoded.
    """
    name = "an image in memory" if isinstance(source, bytes) else os.fspath(source)
    data = b""
    try:
        data = source if isinstance(source, bytes) else read_bytes(source, MAX_FILE)
        with warnings.catch_warnings():
            # Of what Pillow warns about, the pixels either come out whole or an exception follows.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            pixels = _decode(data, _formats(name))
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise _unreadable(name, error, data) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: str | PathLike[str], *, upright: bool = True) -> tuple[int, int]:
    """Height and width of an image file from its header alone: as `read_image` gives it or, not upright, as it is
    stored. Raises ImageError."""
    with _header(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # of which Pillow's releases differ in when they turn it
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = tags.get(STORED_WIDTH, width), tags.get(STORED_HEIGHT, height)
        turned = upright and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def image_orientation(path: str | PathLike[str]) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it has none. Raises ImageError."""
    with _header(path) as image:
        return _orientation(image)


def image_traits(path: str | PathLike[str]) -> Traits:
    """The properties of an image file; only files of 16 bits a channel are decoded. Raises ImageError."""
    with _header(path) as image:
        # The frames of an MPO file are views of one photograph, as telephones leave them.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        words = [MODES.get(image.mode, image.mode)]
        words += ["transparent"] * image.has_transparency_data + ["of several frames"] * animated
        return Traits(", ".join(words), _peak(image), defect(read_bytes(path, MAX_FILE)))


@contextlib.contextmanager
def _header(path: str | PathLike[str]) -> Iterator[Image.Image]:
    """The image of a file, of which no pixel is decoded yet. Raises ImageError, for what happens inside too."""
    try:
        with open_file(path, MAX_FILE) as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            try:
                image = _open(file, _formats(os.fspath(path)))
            except (UnidentifiedImageError, ValueError):  # a damaged or an oversized note
                if (mended := mend(read_bytes(path, MAX_FILE), MAX_PIXELS)) is None:
                    raise
                image = _open(io.BytesIO(mended), _formats(os.fspath(path)))
            with image:
                yield image
    except Exception as error:  # from arbitrary bytes a decoder can raise anything
        raise _unreadable(os.fspath(path), error) from error


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
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    with replacing(path) as file:
        try:
            picture.save(file, FORMATS[path.suffix.lower()], quality=95)
        except ValueError as error:
            raise InputError(f"cannot write {path}: {_reason(error)}") from error


def _formats(name: str) -> tuple[str, ...]:
    """Pillow's names of the formats that a file of this name may have."""
    # Nothing in the bytes of a TGA file distinguishes it from damaged files of other formats.
    return (*_recognised(), "TGA") if name.lower().endswith(".tga") else _recognised()


@functools.cache
def _recognised() -> tuple[str, ...]:
    """Pillow's names of the formats that content alone identifies, the frequent ones first."""
    Image.init()
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    # Pillow has the little-endian form of this TIFF alone: 16 bits, grey, white is 0. `_deep` inverts both.
    big_endian = (TiffImagePlugin.MM, 0, (1,), 1, (16,), ())
    TiffImagePlugin.OPEN_INFO.setdefault(big_endian, ("I;16B", "I;16B"))
    names = dict.fromkeys((*FORMATS.values(), *OTHERS, "HEIF"))
    return tuple(name for name in names if name != "TGA" and name in Image.OPEN)


def _open(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """Pillow's image of a file, of which the header alone is read."""
    image: Any = Image.open(file, formats=formats)
    if image.format == "TIFF" and image.tag_v2.get(BITS, ())[:1] == (16,):
        # Planes of 16-bit colour without compression, of which Pillow reads the first half as if they had 8 bits.
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        if image.tile and all(tile[0] == "raw" and tile[3][0] in ("R", "G", "B", "A") for tile in image.tile):
            make = getattr(type(image.tile[0]), "_make", tuple)  # named since Pillow 11
            image.tile = [make((*tile[:3], (f"{tile[3][0]};16{order}", *tile[3][1:]))) for tile in image.tile]
    return image


def _decode(data: bytes, formats: tuple[str, ...]) -> np.ndarray:
    """The bytes of a file as (H, W, 3) uint8."""
    if not data:
        raise ImageError("the file is empty")
    try:
        return _pixels(data, formats)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception:
        if (mended := mend(data, MAX_PIXELS)) is None:
            raise
    return _pixels(mended, formats)


def _pixels(data: bytes, formats: tuple[str, ...]) -> np.ndarray:
    """(H, W, 3) uint8 of a file without defects."""
    image = _open(io.BytesIO(data), formats)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that an image may have")
    pixels = None
    jpeg = image.format in ("JPEG", "MPO")
    if jpeg and (scans := _scans(data)) > SCANS and scans * width * height > MAX_SCANNED:
        raise ImageError(f"{scans:,} scans of {width} x {height} pixels are more work than any image takes")
    if jpeg and image.mode != "CMYK":
        # What simplejpeg will not take, Pillow may: it forgives stray bytes, though no missing ones.
        with contextlib.suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(data, "RGB")
    if pixels is None:
        image.load()  # mode, size and orientation are final only now: loading a TIFF applies and removes the last
    orientation = _orientation(image)
    if pixels is not None and orientation == 1:
        return pixels
    height, width = (image.height, image.width) if pixels is None else pixels.shape[:2]
    upright = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    stored = _stored(upright, orientation)
    if pixels is None:
        _fill(stored, image)
    else:
        stored[:] = pixels
    return upright


def _scans(data: bytes) -> int:
    """How many scans a JPEG can have: its marks of their beginning, FF DA. Six times as fast as bytes.count."""
    even = np.frombuffer(data, "<u2", len(data) // 2)
    odd = np.frombuffer(data, "<u2", (len(data) - 1) // 2, 1)
    return int(np.count_nonzero(even == 0xDAFF) + np.count_nonzero(odd == 0xDAFF))


def _fill(pixels: np.ndarray, image: Image.Image) -> None:
    """Write an image of any of Pillow's modes to (H, W, 3) uint8."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not deep:
        signed = image.format == "TIFF" and image.tag_v2.get(BITS) == (16,)  # type: ignore[attr-defined]
        kind = "signed 16-bit" if signed else "32-bit"
        raise ImageError(f"{kind} pixels have no agreed white; save it with 8 or 16 bits a channel, unsigned")
    # In blocks of rows, since Pillow's other forms of a large image would each take as much memory as it.
    rows = max(1, BLOCK // max(1, image.width))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        block = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _deep(np.asarray(block), image)[..., None] if deep else _rgb(block)


def _rgb(block: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an image with at most 8 bits a channel, laid over white."""
    if block.has_transparency_data:
        block = block.convert("RGBA")
        block = Image.alpha_composite(Image.new("RGBA", block.size, "white"), block)
    return np.asarray(block.convert("RGB"))


def _deep(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """(H, W) uint8 of rows of a grey image with more than 8 bits: the upper 8, which is also what Pillow keeps of
    16-bit colour."""
    bits = 16
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(BITS, (16,))[0]
        if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow inverts in 1 to 8 bits alone
            values = 2**bits - 1 - values.astype(np.int32)
    return (values >> (bits - 8)).astype(np.uint8)


def _peak(image: Image.Image) -> int | None:
    """The largest value of an image with 16 bits a channel, before anything is inverted; of colour, of which Pillow
    decodes the upper 8 bits, the largest that it can be."""
    # Some of Pillow's names of 5 or 6 bits a channel, in BMP, end in 16 too.
    deep = image.format in ("PNG", "TIFF", "PPM") and ";16" in str(getattr(image, "tile", ""))
    if not deep or image.mode in ("F", "CMYK"):
        return None
    image.load()
    values = np.asarray(image)
    if image.mode.startswith("I"):
        return int(values.max())
    # Alpha may be full in files whose colour is not.
    colour = values[..., :1] if image.mode == "LA" else values[..., :3]
    return int(colour.max()) * 256 + 255


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or its block is damaged."""
    try:
        image.info.pop("xmp", None)  # where Pillow looks for an orientation if EXIF has none
        image.info.pop("XML:com.adobe.xmp", None)
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged note about an image is no reason not to see the image
        return 1
    return orientation if orientation in range(1, 9) else 1


def _stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of the (H, W, 3) pixels of an upright image in the order in which its file stores them."""
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    return upright.transpose(1, 0, 2) if orientation >= 5 else upright


def _unreadable(name: str, error: Exception, data: bytes = b"") -> ImageError:
    """The error of a file that is no image, or cannot be opened."""
    if type(error) is InputError:
        return ImageError(str(error))
    return ImageError(f"cannot read {name}: {_reason(error, data)}")


def _reason(error: Exception, data: bytes = b"") -> str:
    """One line on what went wrong. data: the bytes of the file, where they are at hand."""
    if isinstance(error, UnidentifiedImageError):
        if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim", b"heis"):
            return "it is a HEIF image; install the package pillow-heif, or save it as JPEG"
        if data[:4] in (b"II*\0", b"MM\0*"):
            return "it is a TIFF image whose kind of pixels Pillow does not decode; save it as 8-bit grey or RGB"
        return "it is not a JPEG, PNG or another image that foveal reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the {MAX_PIXELS} pixels that an image may have"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
