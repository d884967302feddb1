"""Names of classes, files and folders that are HTML or JavaScript are text in every page that foveal writes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.dataset import Dataset, ImageFiles, LabelColumn
from foveal.report.html import write_report
from foveal.report.measured import write_page
from foveal.system import System
from foveal.train.config import TrainConfig
from tests.report.browser import EXECUTABLE, Browser
from tests.toys import Detector, squares

HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "' onmouseover='window.hit=1' x='",
    "</title></style></svg><svg onload=window.hit=1>",
    "<!--<iframe src=javascript:parent.hit=1>",
    "&lt;b&gt;&#60;i&#62;&quot; onload=window.hit=1",
    "]]><style>*{display:none}</style><a href=javascript:hit>",
    "`${window.hit=1}`{{hit}}<b onclick=hit>",
)
PAGES = ("report of classes", "evaluation of classes", "evaluation of objects")


def harmless(name: str) -> str:
    return "x" * (len(name) - 1) + chr(ord("a") + HOSTILE.index(name))


def named(name: str) -> str:
    """As the name of a file."""
    return name.replace("/", "\u2215") + ".png"


def classes(folder: Path, rename: Callable[[str], str]) -> tuple[Dataset, System]:
    labels = tuple(map(rename, HOSTILE))
    draw = np.random.default_rng(0)
    root = folder / named(labels[1])
    root.mkdir(parents=True)
    paths = [named(f"{number}{labels[number % len(labels)]}") for number in range(32)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(root / path)
    truth = [number % len(labels) for number in range(32)]
    codes = np.repeat(np.array([0, 1], np.int8), 16)
    dataset = Dataset(str(root), "classify", labels, ImageFiles(root, paths), LabelColumn(truth), codes)
    return dataset, foveal.create("linear_softmax", image_size=8, labels=labels)


def page(kind: str, folder: Path, rename: Callable[[str], str]) -> Path:
    """A page full of such names."""
    unreadable = {named(name): f"\u202e\x1b]0;x\x07cannot read {name}" for name in map(rename, HOSTILE)}
    out = folder / "out"
    torch.manual_seed(0)
    if kind == "evaluation of objects":
        system, dataset = Detector(), replace(squares(), labels=(rename(HOSTILE[0]),), source=rename(HOSTILE[1]))
        system.labels, system.name = dataset.labels, rename(HOSTILE[3])
        return write_page(out, system, dataset, {"mAP": 0.5}, rename(HOSTILE[2]), unreadable, 8, 0)
    dataset, system = classes(folder, rename)
    if kind == "evaluation of classes":
        return write_page(out, system, dataset, {"accuracy": 0.5}, rename(HOSTILE[2]), unreadable, 8, 0)
    run = foveal.train(system, dataset, TrainConfig(out=str(out), epochs=1, plan="eager", quiet=True, report=False))
    run.write_record(unreadable=unreadable)
    return write_report(out, dataset, system)


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, in order, and what is not text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("href", "src") or (value or "").startswith(("data:", "#")), value
        self.found.append((tag, tuple(name for name, _ in attributes)))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", (data,)))

    def unknown_decl(self, data: str) -> None:
        self.found.append(("declaration", (data,)))


@pytest.fixture(scope="module", params=PAGES)
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A page with hostile names, and the same one with others."""
    return tuple(  # type: ignore[return-value]
        page(request.param, tmp_path_factory.mktemp("names"), rename) for rename in (str, harmless)
    )


def test_names_yield_no_element_and_no_attribute(pages: tuple[Path, Path]) -> None:
    hostile, other = (path.read_text("utf-8") for path in pages)
    assert "window.hit" in hostile
    assert "window.hit" not in other
    assert Elements(hostile).found == Elements(other).found
    assert "\x1b" not in hostile
    assert "\u202e" not in hostile


def test_the_parser_would_notice() -> None:
    with pytest.raises(AssertionError):
        Elements("<p><script>1</script>")
    with pytest.raises(AssertionError):
        Elements('<p onload="1">')
    assert Elements("<p title='a' b>").found == [("p", ("title", "b"))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip("there is no chromium or chrome on the PATH")
    with Browser(EXECUTABLE, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_names_do_nothing_in_a_browser(browser: Browser, pages: tuple[Path, Path]) -> None:
    counts = []
    for path in pages:
        browser.open(path, 1280)
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
        browser.run("document.querySelectorAll('*').forEach(e => e.dispatchEvent(new Event('mouseover')))")
        assert browser.run("typeof window.hit") == "undefined"
        assert browser.run("document.querySelectorAll('script, iframe, object').length") == 0
        assert browser.complaints() == []
        assert all(address.startswith(("data:", path.as_uri())) for address in browser.requests())
        counts.append(browser.run("[...document.querySelectorAll('*')].map(e => e.tagName).join(' ')"))
    assert counts[0] == counts[1]
