"""Objects drawn on images: boxes with names that can be read, however large or small the image is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from foveal.errors import InputError
from foveal.report.letters import default_font, drawn, font_of, shortened
from foveal.structures import Objects, to_float

# Colours that people with any kind of colour vision tell apart: Okabe and Ito 2008, "Color Universal Design".
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
# Of the objects of one class in an image, in turn: its colour, lighter, darker. The share of white or black in it.
SHADES = ((0.0, 255), (0.55, 255), (0.45, 0))
SIDES = (640, 1600)  # of a picture, the longer one: smaller images are enlarged, larger ones shrunk
TEXT = 1 / 36  # height of the text as a share of that side
PIXEL_ART = 64  # sides up to this are enlarged without blur


@dataclass(frozen=True)
class Mark:
    """A box (x1, y1, x2, y2) in pixels of an image with a text, if there is one, at its upper left corner."""

    box: tuple[float, float, float, float]
    text: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Style:
    """How objects are drawn. width: of lines, in pixels of the picture; None for one that suits its size. texts: what
    is written at each object, its name with the score, its name, or nothing."""

    width: int | None = None
    texts: Literal["scores", "names", "none"] = "scores"

    def __post_init__(self) -> None:
        if self.width is not None and not 1 <= self.width <= 100:
            raise InputError(f"line_width is from 1 to 100 pixels, not {self.width}")


def draw_objects(image: Tensor, objects: Objects, labels: Sequence[str], style: Style | None = None) -> Tensor:
    """An image (3, H, W), uint8 or float in [0, 1], as a picture (3, H', W') uint8 with all objects on it: a colour a
    class, a shade of it an object; the names with their scores; crowds, and what is too difficult to be required, in
    dashes."""
    style = style or Style()
    return draw_marks(image, marks(objects, labels, style.texts), width=style.width)


def marks(objects: Objects, labels: Sequence[str], texts: Literal["scores", "names", "none"] = "scores") -> list[Mark]:
    """A mark for each object, in a shade of its class's colour."""
    found, before = [], Counter[int]()
    for row, (box, label) in enumerate(zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True)):
        flags = {"crowd": objects.crowd, "ignored": objects.ignored}
        said = [f"({word})" for word, values in flags.items() if values is not None and bool(values[row])]
        score = [] if objects.scores is None or texts != "scores" else [f"{float(objects.scores[row]):.2f}"]
        text = "" if texts == "none" else " ".join([shortened(drawn(labels[label], label)), *said, *score])
        found.append(Mark(tuple(box), text, shade(PALETTE[label % len(PALETTE)], before[label]), bool(said)))
        before[label] += 1
    return found


def shade(colour: str, number: int) -> str:
    """The colour of the object of this number, from 0, of a class with this colour."""
    share, end = SHADES[number % len(SHADES)]
    red, green, blue = (round((1 - share) * part + share * end) for part in ImageColor.getrgb(colour)[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"


def draw_marks(
    image: Tensor,
    marks: Sequence[Mark],
    sides: tuple[int, int] = SIDES,
    text: float = TEXT,
    width: int | None = None,
) -> Tensor:
    """An image (3, H, W) as a picture (3, H', W') uint8, its longer side within `sides`, with the first marks on top.

    text: height of letters as a share of the longer side. width: of lines in pixels; None for one that suits the size.
    """
    pixels = (to_float(image).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    shape = pixels.shape[:2]
    scale = min(max(1.0, sides[0] / max(shape)), sides[1] / max(shape))
    if scale > 1 and max(shape) <= PIXEL_ART:
        scale = float(round(scale))
    size = max(1, round(scale * shape[1])), max(1, round(scale * shape[0]))
    way = Image.Resampling.NEAREST if max(shape) <= PIXEL_ART else Image.Resampling.BICUBIC
    picture = Image.fromarray(pixels)
    picture = picture if picture.size == size else picture.resize(size, way)
    marks = [mark for mark in marks if np.isfinite(mark.box).all()]  # a system that diverged predicts others
    draw, side = ImageDraw.Draw(picture), max(size)
    letters, thick = max(10, round(text * side)), width or max(2, round(side / 130))
    places = [_within(mark.box, scale, size, thick) for mark in marks]
    for mark, place in reversed([*zip(marks, places, strict=True)]):
        _outline(draw, place, mark, thick)
    taken: list[_Text] = []
    for mark, place in zip(marks, places, strict=True):  # the first have the choice of where their texts stand
        if mark.text:
            taken.append(_place(place, mark, letters, size, taken, places))
    for written in reversed(taken):
        _write(draw, written)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


@cache
def _font(height: int, path: Path) -> Any:
    return ImageFont.truetype(str(path), height)


def _within(box: Sequence[float], scale: float, size: tuple[int, int], thick: int) -> tuple[float, float, float, float]:
    """A box in pixels of the picture, no smaller than its own line, and inside."""
    limits = [side - 1 for side in size]
    x1, y1 = (min(max(0.0, scale * value), limit - thick) for value, limit in zip(box[:2], limits, strict=True))
    x2, y2 = (
        min(max(scale * value - 1, low + thick), limit)
        for value, low, limit in zip(box[2:], (x1, y1), limits, strict=True)
    )
    return max(x1, 0.0), max(y1, 0.0), max(x2, 0.0), max(y2, 0.0)


def _outline(draw: Any, place: tuple[float, float, float, float], mark: Mark, thick: int) -> None:
    """The box, between two thin black lines, so that it is seen on any ground."""
    x1, y1, x2, y2 = place
    if mark.dashed:
        _dashes(draw, place, mark.colour, thick)
        return
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=thick + 2)
    draw.rectangle((x1, y1, x2, y2), outline=mark.colour, width=thick)


def _dashes(draw: Any, place: tuple[float, float, float, float], colour: str, thick: int) -> None:
    """Dashes with black between them."""
    x1, y1, x2, y2 = place
    draw.rectangle(place, outline="black", width=thick)
    step = 4 * thick
    for start in np.arange(x1, x2, 2 * step).tolist():
        end = min(start + step, x2)
        draw.rectangle((start, y1, end, y1 + thick - 1), fill=colour)
        draw.rectangle((start, y2 - thick + 1, end, y2), fill=colour)
    for start in np.arange(y1, y2, 2 * step).tolist():
        end = min(start + step, y2)
        draw.rectangle((x1, start, x1 + thick - 1, end), fill=colour)
        draw.rectangle((x2 - thick + 1, start, x2, end), fill=colour)


class _Text(NamedTuple):
    """What is written, and the ground that it stands on: x1, y1, x2, y2 in pixels of the picture."""

    area: tuple[float, float, float, float]
    text: str
    pad: int
    colour: str
    font: Any


def _place(
    place: tuple[float, float, float, float],
    mark: Mark,
    letters: int,
    size: tuple[int, int],
    taken: Sequence[_Text],
    boxes: Sequence[Sequence[float]],
) -> _Text:
    """Where a mark's text goes: where it covers least of the texts that are placed already, mostly nothing, and of
    places that are alike in this the one where it covers the smallest shares of all boxes."""
    x1, y1, x2, y2 = place
    text = shortened("".join(c if c.isprintable() else repr(c)[1:-1] for c in shortened(mark.text)))
    font = _font(letters, font_of(text) or default_font())
    pad = max(2, round(font.size / 5))
    while len(text) > 4 and font.getlength(text) + 2 * pad > size[0]:
        text = text[:-2] + "…"
    ascent, descent = font.getmetrics()
    width, height = font.getlength(text) + 2 * pad, ascent + descent + pad
    # Above the box, below it, inside it at the top and the bottom; at its left end, its right one, its middle.
    corners = [(x, y) for y in (y1 - height, y2 + 1, y1, y2 - height) for x in (x1, x2 - width, (x1 + x2 - width) / 2)]
    fits = [(x, y) for x, y in corners if y >= 0 and y + height <= size[1]] or [(x1, y1)]
    spots = [(min(max(0.0, x), size[0] - width), min(max(0.0, y), size[1] - height)) for x, y in fits]
    areas = [(max(x, 0.0), max(y, 0.0), x + width, y + height) for x, y in spots]

    def covered(area: tuple[float, float, float, float]) -> tuple[float, float]:
        shares = (_shared(area, box) / max(1.0, (box[2] - box[0]) * (box[3] - box[1])) for box in boxes)
        return sum(_shared(area, other.area) for other in taken), sum(shares)

    chosen = min(areas, key=covered)
    return _Text(chosen, text, pad, mark.colour, font)


def _write(draw: Any, text: _Text) -> None:
    red, green, blue = ImageColor.getrgb(text.colour)[:3]
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
    draw.rectangle(text.area, fill=text.colour, outline="black")
    draw.text((text.area[0] + text.pad, text.area[1] + text.pad / 2), text.text, fill=ink, font=text.font)


def _shared(one: Sequence[float], other: Sequence[float]) -> float:
    """Square pixels that lie in both."""
    sides = [min(one[n + 2], other[n + 2]) - max(one[n], other[n]) for n in (0, 1)]
    return max(0.0, sides[0]) * max(0.0, sides[1])
