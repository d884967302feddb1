"""Image files as cameras, scanners, browsers and telephones leave them: depth, orientation, suffixes, missing ends."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from foveal.data.image import IMAGE_SUFFIXES, ImageError, image_size, image_traits, read_image
from foveal.data.mend import mend

RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 18, 26
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
DEEP = RNG.integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(data):
    return read_image(data).permute(1, 2, 0).numpy()


def tiff(values, order="<", **tags):
    """A TIFF of (H, W) or (H, W, C) values straight from TIFF 6.0, uncompressed. tags: those that are not the usual."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    usual = {
        "t256": width, "t257": height, "t258": 8 * values.itemsize, "t259": 1, "t262": 2 if channels > 2 else 1,
        "t273": 0, "t277": channels, "t278": height, "t279": len(data),
    }  # fmt: skip
    entries = sorted({int(name[1:]): value for name, value in (usual | tags).items()}.items())
    start = 8 + 2 + 12 * len(entries) + 4
    depths = b""
    if channels > 1:
        depths = struct.pack(f"{order}{channels}H", *[8 * values.itemsize] * channels)
    packed = b""
    for tag, value in entries:
        if tag == 258 and channels > 2:
            packed += struct.pack(f"{order}HHII", tag, 3, channels, start)
        elif tag == 273:
            packed += struct.pack(f"{order}HHII", tag, 4, 1, start + len(depths))
        else:
            packed += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + packed + bytes(4) + depths + data


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# --- Depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_or_black_in_16_bits(order, photometric):
    shown = DEEP if photometric else 65535 - DEEP
    np.testing.assert_array_equal(read(tiff(DEEP, order, t262=photometric))[..., 0], shown >> 8)


@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_or_black_in_8_bits_and_1_bit(photometric):
    grey = COLOUR[..., 0]
    np.testing.assert_array_equal(read(tiff(grey, t262=photometric))[..., 1], grey if photometric else 255 - grey)
    bits = RNG.integers(0, 256, (HEIGHT, 3), np.uint8)
    shown = np.unpackbits(bits, 1) == photometric
    np.testing.assert_array_equal(read(tiff(bits, t256=24, t258=1, t262=photometric))[..., 2], 255 * shown)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff(order, channels):
    deep = RNG.integers(0, 2**16, (HEIGHT, WIDTH, channels), np.uint16)
    if channels == 4:
        deep[..., 3] = 65535
    np.testing.assert_array_equal(read(tiff(deep, order)), deep[..., :3] >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_plane_for_each_channel(tmp_path, order, kind, channels):
    values = RNG.integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, channels), kind)
    if channels == 4:
        values[..., 3] = np.iinfo(kind).max
    file = io.BytesIO()
    planes = np.ascontiguousarray(values.transpose(2, 0, 1))
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", byteorder=order, **extra)
    np.testing.assert_array_equal(read(file.getvalue()), values[..., :3] >> (8 * values.itemsize - 8))
    (tmp_path / "a.tif").write_bytes(file.getvalue())
    assert image_traits(tmp_path / "a.tif").peak == (None if kind == np.uint8 else int(values.max()) // 256 * 256 + 255)


def test_12_bit_tiff_has_its_own_white():
    values = RNG.integers(0, 2**12, (HEIGHT, WIDTH), np.uint16)
    pairs = values.reshape(HEIGHT, -1, 2).astype(np.uint32)
    packed = (pairs[..., 0] << 12) | pairs[..., 1]
    rows = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).reshape(HEIGHT, -1).astype(np.uint8)
    np.testing.assert_array_equal(read(tiff(rows, t256=WIDTH, t258=12))[..., 0], values >> 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(DEEP, t339=2), "signed 16-bit pixels have no agreed white"),
        (tiff(DEEP.astype(np.int32), t339=2), "32-bit pixels have no agreed white"),
        (encode(Image.fromarray(DEEP.astype(np.float32)), "TIFF"), "32-bit pixels have no agreed white"),
        (tiff(DEEP.astype(np.float64), t339=3), "a TIFF image whose kind of pixels"),
    ],
)
def test_pixels_without_an_agreed_white(data, reason):
    with pytest.raises(ImageError, match=reason):
        read_image(data)


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_the_largest_value_of_16_bits(tmp_path, top):
    values = np.linspace(0, top, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    for name, data in {
        "grey.png": encode(Image.fromarray(values), "PNG"),
        "grey.tif": tiff(values),
        "big.tif": tiff(values, ">", t262=0),
        "grey.pgm": f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + values.astype(">u2").tobytes(),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert image_traits(tmp_path / name).peak == top, name
    colour = np.stack([values, values // 2, 0 * values], -1)
    (tmp_path / "colour.tif").write_bytes(tiff(colour))
    assert image_traits(tmp_path / "colour.tif").peak == top // 256 * 256 + 255
    opaque = np.stack([values, values, values, np.full_like(values, 65535)], -1)
    (tmp_path / "opaque.tif").write_bytes(tiff(opaque))
    assert image_traits(tmp_path / "opaque.tif").peak == top // 256 * 256 + 255


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_8_bits_have_no_peak(tmp_path, mode):
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / "a.png")
    assert image_traits(tmp_path / "a.png").peak is None


# --- Orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_pixels(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(encode(Image.fromarray(COLOUR), form, exif=exif))
    assert image_size(path) == read_image(path).shape[1:]
    assert image_size(path) == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    assert image_size(path, upright=False) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_16_bits_are_turned_once(tmp_path, orientation):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(DEEP, t274=orientation))
    turned = np.rot90(DEEP >> 8, {3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read_image(path)[0].numpy(), turned)
    assert image_size(path) == turned.shape


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF")
def test_avif_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.avif"
    slope = np.zeros((HEIGHT, WIDTH, 3), np.uint8) + np.arange(WIDTH, dtype=np.uint8)[:, None] * 9
    path.write_bytes(encode(Image.fromarray(slope), "AVIF", exif=exif))
    assert image_size(path) == read_image(path).shape[1:] == (WIDTH, HEIGHT)
    assert np.abs(read_image(path).permute(1, 2, 0).numpy().astype(int) - np.rot90(slope, -1)).mean() < 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_alone_is_not_applied(tmp_path, form):
    note = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options = {"xmp": note.encode()}
    if form == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", note)
    path = tmp_path / "a"
    path.write_bytes(encode(Image.fromarray(COLOUR), form, **options))
    assert image_size(path) == read_image(path).shape[1:] == (HEIGHT, WIDTH)


# --- Formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "form", "allowed"),
    [
        (".jfif", "JPEG", 60), (".jpe", "JPEG", 60), (".ppm", "PPM", 0), (".pnm", "PPM", 0), (".dib", "DIB", 0),
        (".dib", "BMP", 0), (".tga", "TGA", 0), (".jp2", "JPEG2000", 0), (".avif", "AVIF", 60), (".ico", "ICO", 0),
    ],
)  # fmt: skip
def test_formats_beside_the_usual(tmp_path, suffix, form, allowed):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    options = {"quality": 100} if form in ("JPEG", "AVIF") else {"sizes": [(WIDTH, HEIGHT)]} if form == "ICO" else {}
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode(Image.fromarray(COLOUR), form, **options))
    assert suffix in IMAGE_SUFFIXES
    assert np.abs(read_image(path).permute(1, 2, 0).numpy().astype(int) - COLOUR).mean() <= allowed
    assert image_size(path) == (HEIGHT, WIDTH)


def test_grey_maps_of_any_white():
    values = RNG.integers(0, 1001, (HEIGHT, WIDTH))
    data = f"P5 {WIDTH} {HEIGHT} 1000\n".encode() + values.astype(">u2").tobytes()
    np.testing.assert_allclose(read(data)[..., 0], values * 255 / 1000, atol=1)
    bits = b"P1 3 1\n1 0 1\n"
    assert read(bits)[0, :, 0].tolist() == [0, 255, 0]


def test_bytes_like_those_of_tga_are_an_image_by_their_suffix_alone(tmp_path):
    data = encode(Image.fromarray(COLOUR), "TGA")
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match="not a JPEG, PNG"):
        read_image(tmp_path / "a.jpg")


def test_heif_without_its_package_says_what_to_install():
    with pytest.raises(ImageError, match="pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))


# --- Missing ends and damaged notes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("cut", "more"), [(2, b""), (1, b""), (2, bytes(300)), (1, bytes(300))])
def test_a_jpeg_without_its_end_marker(tmp_path, mode, progressive, cut, more):
    data = encode(Image.fromarray(COLOUR).convert(mode), "JPEG", progressive=progressive)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "short.jpg").write_bytes(data[:-cut] + more)
    np.testing.assert_array_equal(read(data[:-cut] + more), read(data))
    assert image_traits(tmp_path / "whole.jpg").defect == ""
    assert image_traits(tmp_path / "short.jpg").defect == "no end marker"


def test_a_jpeg_with_too_many_pixels_is_not_mended():
    data = encode(Image.fromarray(COLOUR), "JPEG")[:-2]
    assert mend(data, HEIGHT * WIDTH) is not None
    assert mend(data, HEIGHT * WIDTH - 1) is None


def test_bytes_behind_the_end_marker_are_no_defect(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(COLOUR), "JPEG") + b"more of a telephone")
    assert image_traits(tmp_path / "a.jpg").defect == ""


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_pixels_stays_unreadable(share, progressive):
    data = encode(Image.fromarray(np.tile(COLOUR, (8, 8, 1))), "JPEG", progressive=progressive)
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: int(share * len(data))])


@pytest.mark.parametrize("cut", [4, 12])
def test_a_png_without_its_end(tmp_path, cut):
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(COLOUR), "PNG")[:-cut])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), COLOUR)
    assert image_traits(tmp_path / "a.png").defect == "no end marker"


LONG = zlib.compress(b"a" * 3_000_000)


@pytest.mark.parametrize(
    ("note", "defect"),
    [
        (chunk(b"zTXt", b"Comment\0\0" + LONG), "an oversized note"),
        (chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG), "an oversized note"),
        (chunk(b"iCCP", b"profile\0\0" + LONG), "an oversized note"),
        (chunk(b"tEXt", b"Comment\0damaged")[:-1] + b"?", "a damaged note"),
        (chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\1\0\0\0\0\0\0")[:-1] + b"?", "a damaged note"),
        (chunk(b"tEXt", b"Comment\0sound"), ""),
    ],
    ids=["zTXt", "iTXt", "iCCP", "checksum", "orientation", "sound"],
)
@pytest.mark.parametrize("where", ["before", "after"])
def test_notes_in_a_png_hide_no_pixel(tmp_path, note, defect, where):
    data = encode(Image.fromarray(COLOUR), "PNG")
    place = 33 if where == "before" else len(data) - 12
    path = tmp_path / "a.png"
    path.write_bytes(data[:place] + note + data[place:])
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), COLOUR)
    assert image_size(path) == (HEIGHT, WIDTH)
    assert image_traits(path).defect == defect


def test_the_orientation_beside_an_oversized_note_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(COLOUR), "PNG", exif=exif)
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk(b"zTXt", b"Comment\0\0" + LONG) + data[33:])
    assert image_size(path) == read_image(path).shape[1:] == (WIDTH, HEIGHT)


def test_a_png_without_pixels_stays_unreadable():
    data = encode(Image.fromarray(COLOUR), "PNG")
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_lines_of_pixels_are_turned(form, orientation, size):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    row = Image.fromarray(np.linspace(0, 250, size[0] * size[1]).astype(np.uint8).reshape(size[1], size[0]))
    row.convert("RGB").save(file, form, exif=exif, quality=100, subsampling=0)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        right = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    pixels = read_image(file.getvalue()).permute(1, 2, 0).numpy()
    assert pixels.shape == right.shape
    assert abs(pixels - right).max() <= 1
