"""The parts of a page: elements, tables, numbers and pictures as HTML that is safe whatever the names in it are."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from foveal.structures import to_float

PIXEL_ART = 64  # sides up to this are stored without loss and enlarged without blur


class Html(str):
    """Text that is HTML already; any other is escaped where it goes into an element."""


def text(value: Any) -> Html:
    """A value as HTML text. What cannot be seen, or would turn the line around, is shown as Python writes it."""
    # Joiners are part of the spelling of names in several scripts.
    seen = "".join(
        c if c.isprintable() or c in "\u200c\u200d" else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )
    return Html(html.escape(seen))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Parts in a row, those that are not HTML escaped."""
    return Html(between.join(part if isinstance(part, Html) else text(part) for part in parts))


def tag(name: str, /, *content: Any, **attributes: Any) -> Html:
    """An element. `class_` stands for the attribute class; an attribute that is None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>{join(content)}</{name}>")


def void(name: str, /, **attributes: Any) -> Html:
    """An element that has no content, and so no end."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def table(headings: Sequence[Any], rows: Iterable[Sequence[Any]], *, title: str, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls in a box of its own where it is too wide. numbers: the columns that are aligned right."""

    def line(cells: Sequence[Any], kind: str) -> Html:
        return tag(
            "tr",
            *(
                tag("th" if kind == "col" or not n else "td", cell, scope=kind if kind == "col" or not n else None,
                    class_="number" if n in numbers else None)
                for n, cell in enumerate(cells)
            ),
        )  # fmt: skip

    head, body = tag("thead", line(headings, "col")), tag("tbody", *(line(row, "row") for row in rows))
    return scroll(tag("table", head, body), title)


def scroll(content: Html, title: str) -> Html:
    """A box that scrolls by itself, with the keyboard too."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=title)


def facts(values: Mapping[str, Any]) -> Html:
    """Names with their values, a line each."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items()))


def note(content: Any) -> Html:
    """A paragraph beside the matter."""
    return tag("p", content, class_="note")


def number(value: float) -> str:
    """Four decimals, as the command line shows figures; four digits where that is too few or too many."""
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 10 else f"{value:.4g}"


def marked(name: str, value: float, few: Mapping[str, str]) -> str:
    """A figure, with what it rests on where that is almost nothing: 0.4100 (3 objects)."""
    return number(value) + (f" ({few[name]})" if name in few else "")


def plain(value: Any) -> str:
    """A setting as a person would write it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(plain, value)) or "none"
        case {"name": name, "labels": _}:  # a system that this one is made of
            return str(name)
    return str(value)


def picture(image: Tensor, alt: str) -> Html:
    """An image (3, H, W), uint8 or float in [0, 1], inside the page: PNG where it is small, JPEG else."""
    pixels = (to_float(image).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    tiny = max(pixels.shape) <= PIXEL_ART
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if tiny else "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    source = f"data:image/{'png' if tiny else 'jpeg'};base64,{data}"
    height, width = image.shape[-2:]
    return void("img", src=source, alt=alt, width=width, height=height, class_="tiny" if tiny else None)
