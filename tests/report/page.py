"""A report as a tree of elements, which has to be well formed."""

import xml.etree.ElementTree as Tree
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder, self.open = Tree.TreeBuilder(), list[str]()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), attributes
        self.builder.start(tag, {name: value or "" for name, value in attributes})
        if tag in VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def read(html: str | Path) -> Tree.Element:
    """The tree of a page, or of a part of one."""
    text = html.read_text("utf-8") if isinstance(html, Path) else f"<div>{html}</div>"
    reader = _Reader()
    reader.feed(text)
    assert not reader.open, reader.open
    return reader.builder.close()


def said(element: Tree.Element) -> str:
    """All text of an element."""
    return "".join(element.itertext())


def section(page: Tree.Element, title: str) -> Tree.Element:
    """The section of that title."""
    (found,) = [part for part in page.iter("section") if said(next(part.iter("h2"))) == title]
    return found


def titles(page: Tree.Element) -> list[str]:
    return [said(heading) for heading in page.iter("h2")]


def rows(element: Tree.Element) -> list[list[str]]:
    """The text of each cell in the body of each table of an element."""
    return [[said(cell) for cell in row] for body in element.iter("tbody") for row in body]


def facts(element: Tree.Element) -> dict[str, str]:
    """Names and values of the lists in an element."""
    return {
        said(pair.find("dt")): said(pair.find("dd"))  # type: ignore[arg-type]
        for facts in element.iter("dl")
        for pair in facts
    }
