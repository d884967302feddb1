"""Text and numbers as other tools write them into their files."""

import codecs
import json
import math
from typing import Any

BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WINDOWS = "cp1252"
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "iso-8859-1": WINDOWS}


def decode(data: bytes, declared: str = "") -> tuple[str, str]:
    """(the text, its encoding): by its byte order mark, by its zeros, as declared, in UTF-8, or else in the code page
    of Windows in Western Europe. Raises ValueError where no encoding fits."""
    for mark, name in BOMS.items():
        if data.startswith(mark):
            return data.decode(name), name
    if 0 in data[:4]:
        name = json.detect_encoding(data)
        return data.decode(name), name
    # Windows declares the narrow encoding and writes the wider one.
    names = [declared.lower(), WIDER.get(declared.lower(), ""), "utf-8", WINDOWS]
    for name in dict.fromkeys(filter(None, names)):
        try:
            return data.decode(name), name
        except (UnicodeDecodeError, LookupError):
            continue
    raise ValueError("it is text in no known encoding")


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
