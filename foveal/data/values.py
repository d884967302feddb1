"""Text and numbers as other tools write them into their files."""

import codecs
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from foveal.errors import InputError
from foveal.filesystem import MAX_TEXT, first_bytes, open_file

BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WINDOWS = "cp1252"
HOLE = bytes(8)  # in no encoding do so many zeros occur in text; the holes of a sparse file are full of them
MAX_LIST = 2**28  # bytes of a list of images or classes
BLOCK = 2**24  # bytes
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "iso-8859-1": WINDOWS}


def decode(data: bytes, declared: str = "", *, windows: bool = False) -> tuple[str, str]:
    """(the text, its encoding): by its byte order mark, by its zeros, as declared, or in UTF-8. Raises ValueError, with
    one line, where no encoding fits. windows: the code page of Windows in Western Europe is tried last."""
    name, place, tried = _marked(data), 0, ""
    # Windows declares the narrow encoding and writes the wider one.
    names = [name] if name else [declared.lower(), WIDER.get(declared.lower(), ""), "utf-8", WINDOWS * windows]
    for name in dict.fromkeys(filter(None, names)):
        try:
            text = data.decode(name)
        except UnicodeDecodeError as error:
            place, tried = error.start, name.upper().removesuffix("-SIG")
        except LookupError:
            continue
        else:
            if "\0" in text:
                raise ValueError("it has zero bytes, as binary files have; save it as UTF-8")
            return text, name
    raise ValueError(f"byte {place} is not text in {tried}; save it as UTF-8")


def beginning(file: Path, count: int) -> str:
    """The first so many bytes of a file as text, for a look at what it is; empty where it cannot be read."""
    data = first_bytes(file, count)
    return data.decode(_marked(data) or "utf-8", "replace")


def _marked(data: bytes) -> str:
    """The encoding that a byte order mark or zeros between the letters show, if any does."""
    marked = next((name for mark, name in BOMS.items() if data.startswith(mark)), "")
    return marked or (json.detect_encoding(data[:4]) if 0 in data[:4] else "")


def read_text(file: Path, limit: int = MAX_TEXT, *, windows: bool = False, declared: bool = False) -> tuple[str, str]:
    """The text of a regular file, and its encoding, as `decode` has them. limit: bytes that it may have. declared: XML
    that may name its encoding. Raises InputError."""
    parts = []
    with open_file(file, limit) as opened:
        left = os.fstat(opened.fileno()).st_size
        try:
            # A sparse file ends the loop before it fills the memory.
            while left > 0 and (part := opened.read(min(left, BLOCK))):
                if HOLE in part:
                    raise InputError(f"cannot read {file}: it has zero bytes, as binary files have; save it as UTF-8")
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from None
    data = b"".join(parts)
    found = re.match(rb"""\s*<\?xml[^>]{,200}?encoding\s*=\s*["']([A-Za-z0-9._-]+)""", data) if declared else None
    try:
        return decode(data, found[1].decode("ascii") if found else "", windows=windows)
    except ValueError as error:
        raise InputError(f"cannot read {file}: {error}") from None


def number(value: Any) -> float | None:
    """A number, or text of one with a point or a comma; NaN beyond 1e300. None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
        try:
            value = float(text) if "_" not in text else None
        except ValueError:
            return None
    if type(value) not in (int, float):
        return None
    return float(value) if abs(value) < 1e300 else math.nan


def side(value: Any) -> int:
    """The length of a side in whole pixels; 0 where a file does not give one."""
    found = number(value)
    return int(found) if found is not None and math.isfinite(found) and 0 < found < 2**31 else 0
