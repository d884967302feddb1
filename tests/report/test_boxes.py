"""Objects drawn on images of any size: the boxes are where they belong, the texts inside and apart."""

from typing import Any

import pytest
import torch

from foveal.errors import InputError
from foveal.report import boxes as module
from foveal.report.boxes import PALETTE, Mark, Style, draw_marks, draw_objects, marks, shade
from foveal.structures import Objects


def shows(picture: torch.Tensor, colour: str) -> torch.Tensor:
    """(H, W) bool: where a picture has exactly this colour."""
    wanted = torch.tensor([int(colour[n : n + 2], 16) for n in (1, 3, 5)])[:, None, None]
    return (picture == wanted).all(0)


@pytest.mark.parametrize(
    ("size", "shown"), [((96, 96), (640, 640)), ((30, 60), (330, 660)), ((800, 2400), (533, 1600))]
)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_box_is_where_it_belongs(size: tuple[int, int], shown: tuple[int, int], kind: torch.dtype) -> None:
    height, width = size
    box = (0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height)
    picture = draw_marks(torch.zeros(3, *size, dtype=kind), [Mark(box, "", PALETTE[0])])
    assert picture.shape == (3, *shown)
    assert picture.dtype == torch.uint8
    rows, columns = shows(picture, PALETTE[0]).nonzero().unbind(1)
    expected = (0.25 * shown[1], 0.5 * shown[0], 0.75 * shown[1], 0.9 * shown[0])
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert [int(side) for side in found] == pytest.approx(expected, abs=1.5)
    assert not shows(picture, PALETTE[0])[int(0.7 * shown[0]), int(0.5 * shown[1])]  # it is empty inside


def test_what_is_said_of_each_object() -> None:
    flags = torch.tensor([False, True])
    truth = Objects(torch.zeros(2, 4), torch.tensor([1, 0]), crowd=flags, ignored=~flags)
    assert [(mark.text, mark.colour, mark.dashed) for mark in marks(truth, ("cat", "dog"))] == [
        ("dog (ignored)", PALETTE[1], True),
        ("cat (crowd)", PALETTE[0], True),
    ]
    found = Objects(torch.zeros(1, 4), torch.tensor([len(PALETTE) + 2]), torch.tensor([0.987]))
    (mark,) = marks(found, [f"class {n}" for n in range(20)])
    assert (mark.text, mark.colour, mark.dashed) == ("class 9 0.99", PALETTE[2], False)


def test_colours_differ_for_all_eyes() -> None:
    # Machado, Oliveira and Fernandes 2009: how the colours look without one of three kinds of cones, in linear RGB.
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }
    rgb = torch.tensor([[int(c[n : n + 2], 16) / 255 for n in (1, 3, 5)] for c in PALETTE], dtype=torch.float64)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for rows in blind.values():
        seen = (linear @ torch.tensor(rows, dtype=torch.float64).T).clamp(0, 1) ** (1 / 2.4)
        distance = torch.cdist(seen, seen) + torch.eye(len(PALETTE))
        assert distance.min() > 0.12


@pytest.mark.parametrize("size", [(20, 20), (96, 96), (640, 480), (40, 2000)])
def test_texts_stay_inside_and_apart(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = size
    placed: list[tuple[float, ...]] = []
    original = module._place

    def noted(*words: Any) -> Any:
        placed.append((found := original(*words)).area)
        return found

    monkeypatch.setattr(module, "_place", noted)
    draw = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    low = draw[:, :2] * torch.tensor([0.8 * width, 0.8 * height])
    found = Objects(torch.cat([low, low + 0.2 * draw[:, 2:] * width], 1), torch.arange(6), torch.linspace(1, 0.5, 6))
    picture = draw_objects(torch.zeros(3, *size), found, [f"a rather long name {n}" for n in range(6)])
    assert len(placed) == 6
    for x1, y1, x2, y2 in placed:
        assert 0 <= x1 < x2 <= picture.shape[2]
        assert 0 <= y1 < y2 <= max(picture.shape[1], y2 - y1)
    first, *others = placed
    if picture.shape[1] > 100:  # so that there is room
        assert not any(module._shared(first, other) for other in others)


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 20), (-5, -5, 30, 30), (3, 3, 3, 3), (19.9, 19.9, 20, 20), (0, 0, 0.1, 0.1)]
)
@pytest.mark.parametrize("dashed", [False, True])
def test_odd_boxes_and_names(box: Any, dashed: bool) -> None:
    names = ("", "x" * 500, "two\nlines", "caf\udce9", "日本", "<b>&amp;")
    image = torch.zeros(3, 20, 20)
    picture = draw_marks(image, [Mark(box, name, PALETTE[0], dashed) for name in names])
    assert shows(picture, PALETTE[0]).any()
    assert not image.any()  # which is left as it was
    assert draw_marks(torch.zeros(3, 1, 1), [Mark((0, 0, 1, 1), "one", PALETTE[0], dashed)]).shape == (3, 640, 640)


def test_no_objects() -> None:
    none = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    image = torch.randint(0, 256, (3, 700, 700), dtype=torch.uint8)
    assert torch.equal(draw_objects(image, none, ("a",)), image)


def test_objects_of_one_class_are_told_apart() -> None:
    found = Objects(torch.rand(4, 4), torch.tensor([1, 0, 1, 1]), torch.ones(4))
    colours = [mark.colour for mark in marks(found, ("cat", "dog"))]
    assert colours[:2] == [PALETTE[1], PALETTE[0]]
    assert len(set(colours)) == 4


def test_shades_of_a_colour_differ_in_lightness() -> None:
    """So that eyes without any colour tell them apart."""
    for colour in PALETTE:
        parts = [[int(shade(colour, n)[k : k + 2], 16) / 255 for k in (1, 3, 5)] for n in range(3)]
        light = [0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 for red, green, blue in parts]
        assert light[2] < light[0] - 0.04 < light[1] - 0.1


def test_a_text_does_not_cover_a_small_neighbour() -> None:
    """Above the large box, where its text would stand, lies a small one; below it is room."""
    large, small = Mark((200, 200, 600, 500), "large", PALETTE[0]), Mark((205, 176, 235, 196), "", PALETTE[1])
    picture = draw_marks(torch.zeros(3, 640, 640), [large, small])
    rows = shows(picture, PALETTE[1]).nonzero()[:, 0]
    alone = shows(draw_marks(torch.zeros(3, 640, 640), [small]), PALETTE[1])
    assert len(rows) == int(alone.sum())


def test_styles() -> None:
    found = Objects(torch.tensor([[100.0, 100, 500, 500]]), torch.tensor([0]), torch.tensor([0.9]))
    image = torch.zeros(3, 640, 640)
    assert [mark.text for kind in ("scores", "names", "none") for mark in marks(found, ("cat",), kind)] == [
        "cat 0.90",
        "cat",
        "",
    ]
    picture = draw_objects(image, found, ("cat",), Style(11, "none"))
    assert int(shows(picture, PALETTE[0])[300, :300].sum()) == 11
    with pytest.raises(InputError, match="line_width is from 1 to 100"):
        Style(0)
