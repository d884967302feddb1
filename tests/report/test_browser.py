"""The report as a person sees it, in a real browser."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import foveal
from foveal.report.html import write_report
from foveal.report.measured import write_page
from foveal.train.config import TrainConfig
from tests.report.browser import EXECUTABLE, Browser
from tests.report.conftest import answering
from tests.toys import Detector, small_digits, squares

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="there is no chromium or chrome on the PATH")

# What reaches beyond the right edge of the page, but for what is in a box that scrolls by itself.
BEYOND = """[...document.body.querySelectorAll("*")]
    .filter(e => !e.closest(".scroll, details:not([open])") && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))"""
# The least contrast, as WCAG 2 counts it, of any text with what is behind it.
CONTRAST = """(() => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = colour => {
        paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = rgb(getComputedStyle(e).backgroundColor);
            if (colour[3] == 255) return light(colour);
        }
        return light(rgb(getComputedStyle(document.documentElement).backgroundColor));
    };
    let least = [99, ""];
    for (const e of document.body.querySelectorAll("*")) {
        if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;
        const style = getComputedStyle(e);
        const one = light(rgb(e.ownerSVGElement ? style.fill : style.color)), two = behind(e);
        const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (contrast < least[0]) least = [contrast, e.outerHTML.slice(0, 80)];
    }
    return least;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert EXECUTABLE is not None
    with Browser(EXECUTABLE, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a short training on digits."""
    dataset = small_digits()
    torch.manual_seed(0)
    system = foveal.create("lenet", labels=dataset.labels)
    run = tmp_path_factory.mktemp("runs") / "run"
    foveal.train(system, dataset, TrainConfig(out=str(run), epochs=2, plan="eager", quiet=True, report=False))
    return write_report(run, dataset, system)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with many classes of long names that are often mixed up, and with odd files."""
    labels = tuple(f"a_class_whose_name_hardly_ends_{n}<b>" for n in range(30))
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(30, (300,), generator=draw)
    scores = torch.randn(300, 30, generator=draw) + 2 * torch.nn.functional.one_hot(truth, 30)
    system, dataset = answering(truth.tolist(), scores, labels)
    dataset = replace(dataset, splits=np.repeat(np.array([0, 1], np.int8), [60, 240]))
    run = tmp_path_factory.mktemp("runs") / "run"
    learned = foveal.create("linear_softmax", labels=labels)
    finished = foveal.train(
        learned, dataset, TrainConfig(out=str(run), epochs=1, plan="eager", quiet=True, report=False)
    )
    name = f"/data/{'a/' * 60}{'b' * 120}.png"
    finished.write_record(unreadable={name: f"cannot read {name}: it is damaged", "new\nline": "no image"})
    return write_report(run, dataset, system)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a short training to detect."""
    torch.manual_seed(0)
    system, run = Detector(), tmp_path_factory.mktemp("runs") / "run"
    foveal.train(system, squares(), TrainConfig(out=str(run), epochs=3, plan="eager", quiet=True, report=False))
    return write_report(run, squares(), system)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a short training to make images."""
    dataset = small_digits()
    torch.manual_seed(0)
    system = foveal.create("gan_nano", labels=dataset.labels, conditional=True)
    run = tmp_path_factory.mktemp("runs") / "run"
    foveal.train(system, dataset, TrainConfig(out=str(run), epochs=9, plan="eager", quiet=True, report=False))
    return write_report(run, dataset, system)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an evaluation."""
    dataset = small_digits()
    torch.manual_seed(0)
    system = foveal.create("lenet", labels=dataset.labels)
    return write_page(tmp_path_factory.mktemp("out"), system, dataset, {"accuracy": 0.1}, "all images", {}, 64, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("report", ["digits", "crowded", "found", "made", "measured"])
def test_the_page(browser: Browser, report: str, width: int, scheme: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(report)
    browser.open(path, width, scheme)
    assert browser.run("innerWidth") == width
    for _ in range(2):
        assert browser.run(BEYOND) == []
        assert browser.run("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth") == 0
        contrast, where = browser.run(CONTRAST)
        assert contrast >= 4.5, where
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("document.documentElement.getBoundingClientRect().height") > 2000
    assert browser.complaints() == []
    page, *others = browser.requests()
    assert page == path.as_uri()
    assert all(address.startswith("data:") for address in others)


def test_what_is_seen_first(browser: Browser, digits: Path) -> None:
    browser.open(digits, 1280)
    assert browser.run("document.title").startswith("lenet on digits")
    visible = "e => e.checkVisibility() && e.getBoundingClientRect().height > 10 && e.innerText"
    seen = browser.run(f"[...document.querySelectorAll('h1, h2')].map({visible})")
    assert seen == [
        *("lenet on digits", "Learning curves", "Confusion matrix", "Classes", "Worst mistakes"),
        *("Signals by depth", "Unreadable files", "Configuration", "Cost", "Environment"),
    ]
    assert browser.run("document.querySelector('h1').getBoundingClientRect().top") < 100
    # Each picture has been decoded, and each curve has an extent.
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.run("document.images.length") >= 2
    assert browser.run(
        "[...document.querySelectorAll('polyline')].every(line => line.getBoundingClientRect().width > 100)"
    )


def test_the_scroll_of_wide_tables_stays_in_their_boxes(browser: Browser, crowded: Path) -> None:
    browser.open(crowded, 400)
    wide = browser.run("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert any(inside > box for inside, box in wide)
    assert all(box <= 400 for _, box in wide)


def test_a_narrow_page_shows_both_shares_of_a_class(browser: Browser, digits: Path) -> None:
    box = "document.querySelector('#classes .scroll')"
    for width, columns in ((400, 6), (1280, 8)):
        browser.open(digits, width)
        assert browser.run(f"{box}.scrollWidth - {box}.clientWidth") == 0
        seen = f"[...{box}.querySelectorAll('ROW > *')].filter(cell => cell.checkVisibility()).length"
        assert [browser.run(seen.replace("ROW", row)) for row in ("thead tr", "tbody tr:first-child")] == 2 * [columns]


def test_a_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    # The checks above can fail: a page with a script, a picture from elsewhere and a wide element.
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<body style="color:#999;background:#fff"><p style="width:3000px">x</p><img src="file:///gone.png"><script>console.warn(1)</script>'
    )
    browser.open(bad, 400)
    assert len(browser.run(BEYOND)) == 1
    assert browser.run("document.scrollingElement.scrollWidth") > 400
    assert browser.complaints()
    assert "file:///gone.png" in browser.requests()
    assert browser.run(CONTRAST)[0] < 4.5
