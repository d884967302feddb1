"""What stands in a page: nothing that a name could break, and numbers that can be read."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.report.parts import Html, join, number, picture, plain, table, tag, text
from tests.report.page import read, rows


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('<b>&"', "&lt;b&gt;&amp;&quot;"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("caf\udce9", "caf\\udce9"),
        ("in\u202ereverse", "in\\u202ereverse"),
        ("猫 é क\u094d\u200dष", "猫 é क\u094d\u200dष"),
        (3, "3"),
    ],
)
def test_text(given: object, shown: str) -> None:
    assert text(given) == shown
    shown.encode("utf-8")


def test_only_html_goes_in_as_it_is() -> None:
    assert join(["<i>", Html("<i>")]) == "&lt;i&gt;<i>"
    assert (
        tag("p", "<", Html("<br>"), class_='"', aria_label="a", id=None)
        == '<p class="&quot;" aria-label="a">&lt;<br></p>'
    )


def test_table() -> None:
    made = read(table(("name", "<n>"), [("<a>", 1), ("b", 22)], title="Numbers", numbers=(1,)))
    assert rows(made) == [["<a>", "1"], ["b", "22"]]
    assert [cell.get("class") for cell in made.iter("td")] == ["number", "number"]
    assert [cell.get("scope") for cell in made.iter("th")] == ["col", "col", "row", "row"]
    (box,) = [part for part in made.iter("div") if part.get("class") == "scroll"]
    assert (box.get("tabindex"), box.get("aria-label")) == ("0", "Numbers")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.98901, "0.9890"),
        (0, "0.0000"),
        (0.00012345, "0.0001234"),
        (-0.5, "-0.5000"),
        (158.3333, "158.3"),
        (123456.0, "1.235e+05"),
    ],
)
def test_number(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "none"), (True, "yes"), (False, "no"), ([0.9, 0.999], "0.9, 0.999"), ((), "none"), (1, "1")),
        ([{"name": "lenet", "labels": ["a"]}, {"name": "vgg16", "labels": []}], "lenet, vgg16"),
    ],
)
def test_plain(value: object, shown: str) -> None:
    assert plain(value) == shown


@pytest.mark.parametrize(("size", "kind"), [((8, 5), "png"), ((64, 200), "jpeg")])
def test_picture(size: tuple[int, int], kind: str) -> None:
    ramp = torch.linspace(0, 255, size[1]).byte().expand(3, *size)
    (image,) = read(picture(ramp, 'a "ramp"')).iter("img")
    head, _, data = image.attrib["src"].partition(",")
    assert (head, image.get("alt")) == (f"data:image/{kind};base64", 'a "ramp"')
    assert (image.get("height"), image.get("width")) == tuple(map(str, size))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    difference = np.abs(pixels.astype(int) - ramp.permute(1, 2, 0).numpy().astype(int)).max()
    assert difference <= (0 if kind == "png" else 4)
    assert (image.get("class") == "tiny") == (kind == "png")
