import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.image import FORMATS, MAX_PIXELS, ImageError, read_image, write_image
from foveal.errors import InputError
from foveal.system import resize

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 23, 37
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
SMOOTH = np.stack(np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 200, HEIGHT)), -1)
SMOOTH = np.concatenate([SMOOTH, SMOOTH[:, ::-1, :1]], -1).astype(np.uint8)
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}}


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(data):
    """(H, W, 3) as numpy; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(data).permute(1, 2, 0).numpy()


def png(pixels, colour_type, extra=b"", size=None):
    """A PNG of (H, W, channels) uint8 or uint16, straight from the specification; Pillow writes no 16-bit colour."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = size or pixels.shape[:2]
    depth = 8 * pixels.itemsize
    lines = b"".join(b"\0" + line.astype(f">u{pixels.itemsize}").tobytes() for line in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def over_white(colour, alpha):
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize(
    ("form", "mode"),
    [(form, mode) for form in LOSSLESS for mode in ("RGB", "L", "1", "P") if (form, mode) != ("WEBP", "P")]
    + [("GIF", "L"), ("GIF", "1"), ("GIF", "P"), ("TIFF", "CMYK"), ("TIFF", "YCbCr")],
)
def test_opaque_modes_as_pillow_converts_them(form, mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    data = encode(picture, form, **LOSSLESS.get(form, {}))
    if form in ("PNG", "TIFF"):
        assert Image.open(io.BytesIO(data)).mode == mode  # the case that is meant is the one that is tested
    np.testing.assert_array_equal(read(data), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(form, mode):
    colour = COLOUR if mode == "RGBA" else np.repeat(COLOUR[..., :1], 3, 2)
    picture = Image.fromarray(np.dstack([colour, ALPHA])).convert(mode)
    shown = np.asarray(picture.convert("RGBA"))[..., :3]  # LA is a luminance, of which a grey may lose one level
    pixels = read(encode(picture, form, **LOSSLESS[form]))
    assert np.abs(pixels - over_white(shown, ALPHA)).max() <= 1
    assert (pixels[ALPHA == 0] == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(form):
    picture = Image.fromarray(COLOUR).quantize(16)
    expected = np.array(picture.convert("RGB"))
    expected[np.asarray(picture) == 3] = 255
    np.testing.assert_array_equal(read(encode(picture, form, transparency=3)), expected)


def test_png_palette_with_an_alpha_for_each_entry():
    picture = Image.fromarray(COLOUR).quantize(4)
    alphas = np.array([0, 90, 200, 255], np.uint8)
    expected = over_white(np.asarray(picture.convert("RGB")), alphas[np.asarray(picture)])
    assert np.abs(read(encode(picture, "PNG", transparency=alphas.tobytes())) - expected).max() <= 1


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_of_16_bits_the_upper_8(colour_type, channels):
    deep = RNG.integers(0, 2**16, (HEIGHT, WIDTH, channels), np.uint16)
    upper = (deep >> 8).astype(np.uint8)
    colour = np.broadcast_to(upper[..., : 3 if channels > 2 else 1], (HEIGHT, WIDTH, 3))
    expected = over_white(colour, upper[..., -1]) if channels in (2, 4) else colour
    assert np.abs(read(png(deep, colour_type)) - expected).max() <= (1 if channels in (2, 4) else 0)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_grey_tiff(mode):
    deep = RNG.integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)
    picture = Image.frombytes(mode, (WIDTH, HEIGHT), deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    np.testing.assert_array_equal(read(encode(picture, "TIFF"))[..., 1], deep >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused(mode):
    with pytest.raises(ImageError, match="32-bit pixels have no agreed white"):
        read(encode(Image.fromarray(COLOUR).convert("L").convert(mode), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 95, "subsampling": 0}),
        ("RGB", {"quality": 60, "subsampling": 2}),
        ("RGB", {"progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_jpeg_as_pillow_reads_it(mode, options):
    data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(read(data) - expected).max() <= 2  # two builds of libjpeg may round differently
    if mode == "RGB":
        assert np.abs(expected - SMOOTH).mean() < 12


def test_jpeg_with_stray_bytes_is_read_by_pillow():
    data = encode(Image.fromarray(SMOOTH), "JPEG")
    scan = data.rindex(b"\xff\xda")
    stray = data[:scan] + b"\x00\x00\x00" + data[scan:]
    assert np.abs(read(stray).astype(int) - read(data)).max() <= 2


# Where the stored first row and first column are seen (Exif 2.32, tag 0x0112).
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def seen(stored, orientation):
    """Each stored pixel put where the specification says that it is seen."""
    rows, columns = stored.shape[:2]
    turned = orientation >= 5
    picture = np.zeros((columns, rows, 3) if turned else (rows, columns, 3), np.uint8)
    height, width = picture.shape[:2]
    place = {
        "top": lambda i: ("y", i),
        "bottom": lambda i: ("y", height - 1 - i),
        "left": lambda i: ("x", i),
        "right": lambda i: ("x", width - 1 - i),
    }
    for r in range(rows):
        for c in range(columns):
            at = dict([place[SIDES[orientation][0]](r), place[SIDES[orientation][1]](c)])
            picture[at["y"], at["x"]] = stored[r, c]
    return picture


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(SMOOTH)
    stored = np.asarray(Image.open(io.BytesIO(encode(picture, form, **LOSSLESS.get(form, {})))))
    pixels = read(encode(picture, form, exif=exif, **LOSSLESS.get(form, {})))
    assert pixels.shape == seen(stored, orientation).shape
    assert np.abs(pixels.astype(int) - seen(stored, orientation)).max() <= (2 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_orientation_where_pillow_decodes_the_jpeg(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(SMOOTH).convert("CMYK")
    stored = np.asarray(Image.open(io.BytesIO(encode(picture, "JPEG"))).convert("RGB"))
    np.testing.assert_array_equal(read(encode(picture, "JPEG", exif=exif)), seen(stored, orientation))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read(encode(Image.fromarray(SMOOTH), "JPEG", exif=exif)).shape == SMOOTH.shape


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_does_not_hide_the_image(form, block):
    assert read(encode(Image.fromarray(SMOOTH), form, exif=block)).shape == SMOOTH.shape


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_many_frames(form):
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (10, 120, 250)]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **LOSSLESS.get(form, {}))
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (read(data) == 10).all()


@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("GIF", "P")]
)
def test_memory_is_safe_and_fast_for_torch(form, mode):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = read_image(encode(Image.fromarray(SMOOTH).convert(mode), form, **({} if form == "GIF" else {"exif": exif})))
    assert image.dtype == torch.uint8
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.permute(1, 2, 0).is_contiguous()
    assert image.permute(1, 2, 0).numpy().flags.writeable
    again = image.clone()
    image.zero_()
    assert again.any()


def test_resize_does_not_depend_on_the_layout_in_memory():
    image = read_image(encode(Image.fromarray(COLOUR), "PNG"))[:, 3:20, 5:31]
    exact = resize(image.double(), (11, 45))
    for layout in (image, image.contiguous()):
        assert (resize(layout, (11, 45)) - exact).abs().max() <= 1


def test_every_format_in_a_fresh_process(tmp_path):
    # In this one Pillow has loaded what it needs to write them.
    paths = [tmp_path / f"a.{form}" for form in (*LOSSLESS, "JPEG", "GIF")]
    for path in paths:
        Image.fromarray(SMOOTH).save(path, path.suffix[1:])
    code = "import sys; from foveal.data.image import read_image; [read_image(path) for path in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", code, *paths], check=True)


def test_path_bytes_and_string_give_the_same(tmp_path):
    data = encode(Image.fromarray(COLOUR), "PNG")
    path = tmp_path / "no suffix says what it is"
    path.write_bytes(data)
    assert read_image(path).equal(read_image(data))
    assert read_image(str(path)).equal(read_image(data))


def fails(source, *, name="", reason):
    """The reading fails with one line, without warnings, that holds the name and the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            read_image(source)
    text = str(caught.value)
    assert "\n" not in text
    assert str(name) in text
    assert reason in text, text
    assert "BytesIO" not in text


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        *((form, "truncated") for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF")),
        ("WEBP", "could not create decoder"),
    ],
)
def test_truncated_files(tmp_path, form, reason):
    path = tmp_path / "half.png"
    data = encode(Image.fromarray(COLOUR), form)
    for length in (len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:length])
        fails(path, name=path, reason=reason)
    path.write_bytes(data[:20])
    fails(path, name=path, reason="")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0", "not a JPEG, PNG"),
        (b"This is no image.\n" * 50, "not a JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG, PNG"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, reason):
    path = tmp_path / "renamed.png"
    path.write_bytes(content)
    fails(path, name=path, reason=reason)


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "file").write_bytes(b"")
    fails(tmp_path / "missing.png", name="missing.png", reason="No such file")
    fails(tmp_path, name=tmp_path, reason="is a folder")
    fails(tmp_path / "loop.png", name="loop.png", reason="symbolic links")
    fails(tmp_path / "file" / "x.png", name="x.png", reason="Not a directory")
    fails("nul\0.png", name="nul", reason="null")
    fails(b"", name="an image in memory", reason="the file is empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(Image.fromarray(COLOUR), "PNG"))
    path.chmod(0)
    fails(path, name=path, reason="Permission denied")


@pytest.mark.parametrize("side", [12_000, 20_000, 2_000_000_000])  # Pillow warns of the first and refuses the second
def test_too_many_pixels_are_refused_by_the_header(side):
    start = time.perf_counter()
    fails(png(COLOUR, 2, size=(side, side)), reason=f"{MAX_PIXELS}")
    assert time.perf_counter() - start < 1
    assert side * side > MAX_PIXELS


def test_too_many_pixels_of_a_jpeg():
    data = encode(Image.fromarray(COLOUR), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    fails(data[:frame] + struct.pack(">HH", 12_000, 12_000) + data[frame + 4 :], reason="12000 x 12000 pixels")


def test_large_images_below_the_limit_are_read_without_a_warning():
    # 100 million pixels, of which Pillow warns, but the data ends early.
    fails(png(COLOUR, 2, size=(10_000, 10_000)), reason="truncated")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_bytes_give_an_image_or_an_image_error(form):
    rng = np.random.default_rng(1)
    exif = {} if form in ("GIF", "BMP") else {"exif": Image.Exif()}
    if exif:
        exif["exif"][0x0112] = 6
    data = encode(Image.fromarray(COLOUR), form, **exif)
    errors = []
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, min(len(data), 400), 3)] = rng.integers(0, 256, 3)
        try:
            assert read(damaged.tobytes()).shape[2] == 3
        except ImageError as error:
            errors.append(str(error))
    assert errors
    assert not any("\n" in error for error in errors)


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    image = torch.from_numpy(SMOOTH).permute(2, 0, 1)
    write_image(path, image)
    difference = (read_image(path).int() - image).abs()
    limit = {".png": 0, ".bmp": 0, ".tif": 0, ".tiff": 0, ".gif": 60}.get(suffix.lower(), 12)
    assert difference.max() <= limit
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_floats_are_written_as_the_nearest_level(tmp_path):
    path = tmp_path / "a.png"
    image = torch.linspace(-0.2, 1.2, 3 * 15 * 20).view(3, 15, 20).requires_grad_()
    write_image(path, image)
    expected = [round(255 * min(max(value, 0), 1)) for value in image.flatten().tolist()]
    assert read_image(path).flatten().tolist() == expected


def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image = torch.from_numpy(COLOUR).permute(2, 0, 1)
    write_image(path, image)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"a\.png: No space left on device"):
        write_image(path, 255 - image)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written(tmp_path):
    image = torch.from_numpy(COLOUR).permute(2, 0, 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="the name must end in"):
        write_image(tmp_path / "a.txt", image)
    with pytest.raises(InputError, match=r"uint8 or float, not torch.int64"):
        write_image(tmp_path / "a.png", image.long())
    with pytest.raises(InputError, match=r"\(1, 23, 37\)"):
        write_image(tmp_path / "a.png", image[:1])
    for path in (tmp_path / "missing" / "a.png", tmp_path / "file" / "a.png"):
        with pytest.raises(InputError, match=r"cannot write .*a\.png: No"):
            write_image(path, image)
    with pytest.raises(InputError, match=r"cannot write .*a\.jpg"):
        write_image(tmp_path / "a.jpg", image[:, :1, :1].expand(3, 1, 70_000))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
