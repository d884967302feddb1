"""JPEG and PNG files that lack a part that no pixel depends on: the end marker, a readable note, a checksum of one."""

import zlib
from collections.abc import Iterator

import simplejpeg

PNG = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # chunks that decide about pixels or their orientation
LARGE = 2**20  # bytes; Pillow refuses notes that unpack to more


def defect(data: bytes) -> str:
    """What a readable JPEG or PNG file lacks; empty where it lacks nothing."""
    if data.startswith(b"\xff\xd8"):
        # Within the compressed pixels the bytes FF D9 cannot occur.
        return "" if data.find(b"\xff\xd9", max(data.rfind(b"\xff\xda"), 0)) >= 0 else "no end marker"
    if not data.startswith(PNG):
        return ""
    chunks = list(_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND" or not chunks[-1][2]:
        return "no end marker"
    if not all(sound for _, _, sound in chunks):
        return "a damaged note"
    return "an oversized note" if any(_oversized(kind, chunk[8:-4]) for kind, chunk, _ in chunks) else ""


def mend(data: bytes, max_pixels: int) -> bytes | None:
    """The file without its defect; None where it has another one, or lacks pixels, or may have more than so many."""
    if data.startswith(b"\xff\xd8"):
        candidates = (_ended(data), _ended(data.rstrip(b"\0")))
        return next((jpeg for jpeg in candidates if _is_whole(jpeg, max_pixels)), None)
    if data.startswith(PNG):
        kept = [_with_checksum(chunk) if kind == b"eXIf" else chunk for kind, chunk, _ in _chunks(data) if kind in KEPT]
        return PNG + b"".join(kept)
    return None


def _ended(jpeg: bytes) -> bytes:
    return jpeg + (b"\xd9" if jpeg.endswith(b"\xff") else b"\xff\xd9")


def _is_whole(jpeg: bytes, max_pixels: int) -> bool:
    """Whether every pixel is there: libjpeg invents those that are not, and simplejpeg reports that as an error."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(jpeg)
        if height * width > max_pixels:
            return False
        simplejpeg.decode_jpeg(jpeg, "CMYK" if space in ("CMYK", "YCCK") else "GRAY")
    except ValueError:
        return False
    return True


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(type, the chunk with its length and checksum, whether the checksum is right) of each chunk up to IEND; the last
    chunk of a truncated file is as long as what there is of it."""
    place = len(PNG)
    while place + 8 <= len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])
        chunk, kind = png[place:end], png[place + 4 : place + 8]
        # The checksum of the pixels is left to the decoder.
        yield kind, chunk, kind == b"IDAT" or zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if kind == b"IEND":
            return
        place = end


def _with_checksum(chunk: bytes) -> bytes:
    return chunk[:-4] + zlib.crc32(chunk[4:-4]).to_bytes(4)


def _oversized(kind: bytes, body: bytes) -> bool:
    """Whether a compressed note unpacks to more than Pillow accepts."""
    packed = {
        b"zTXt": lambda: body.partition(b"\0")[2][1:],
        b"iCCP": lambda: body.partition(b"\0")[2][1:],
        b"iTXt": lambda: body.partition(b"\0")[2][2:].split(b"\0", 2)[-1],
    }
    if kind not in packed:
        return False
    try:
        return len(zlib.decompressobj().decompress(packed[kind](), LARGE + 1)) > LARGE
    except zlib.error:
        return False
