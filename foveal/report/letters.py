"""Which names can be drawn in a picture here, and with which font."""

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

from foveal.filesystem import write_text

LONGEST = 200  # characters of a name in a picture


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of so many characters at most, the last of them an ellipsis where some are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def drawn(label: str, index: int) -> str:
    """What stands for a class in a picture: its name, or its number from 1 where no font here has all its letters."""
    return label if font_of(label) else f"class {index + 1}"


def save_numbers(folder: Path, labels: Sequence[str]) -> None:
    """classes.txt with the name of each class that pictures show as a number, if there is one. Raises InputError."""
    lines = [f"class {index + 1}\t{label}\n" for index, label in enumerate(labels) if not font_of(label)]
    if not lines:
        return
    write_text(folder / "classes.txt", "".join(lines))


@lru_cache(2**14)
def font_of(text: str) -> Path | None:
    """A font with all letters of a text: matplotlib's own, which has most alphabets, else one of the system's. None
    where there is none, or nothing here joins and orders the letters of its script."""
    letters = {ord(sign) for sign in text if sign.isprintable() and unicodedata.category(sign) not in ("Cf", "Mn")}
    letters |= {ord(sign) for sign in text if unicodedata.category(sign) == "Mn" and not "\ufe00" <= sign <= "\ufe0f"}
    joined = any(unicodedata.bidirectional(sign) in ("R", "AL") or unicodedata.category(sign) == "Mc" for sign in text)
    if joined and not features.check("raqm"):
        return None
    if letters <= _letters(default_font()):
        return default_font()
    return next((path for path in _system_fonts() if letters <= _letters(path)), None)


@cache
def default_font() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _system_fonts() -> list[Path]:
    """Upright and regular ones first. Those of matplotlib have boxes, or signs of mathematics, in place of letters."""
    from matplotlib.font_manager import fontManager

    def order(font: Any) -> tuple[bool, bool, bool, str]:
        return font.style != "normal", str(font.weight) not in ("400", "normal"), "Serif" in font.name, font.fname

    paths = [Path(font.fname) for font in sorted(fontManager.ttflist, key=order)]
    return [path for path in paths if path.parent != default_font().parent and "LastResort" not in path.name]


@cache
def _letters(path: Path) -> frozenset[int]:
    """The characters that a font has; none where it cannot be drawn with in any size, as some of pictures cannot."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(str(path), 20)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
