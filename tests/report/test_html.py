"""The report of a run: what it says is what the run's files say, for every task, whatever the names in it are."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foveal
from foveal.data.dataset import Dataset
from foveal.data.image import ImageError
from foveal.errors import InputError
from foveal.report.html import write_report
from foveal.system import System
from foveal.train.config import TrainConfig
from foveal.wording import duration
from tests.report.page import facts, read, rows, said, section, titles
from tests.toys import Captioner, Detector, Gan, NearestMean, brightness, small_digits, squares, unlabelled

OF_CLASSIFIERS = ["Confusion matrix", "Classes", "Worst mistakes"]
OF_DETECTORS = ["Objects found", "Classes", "Errors", "Worst images"]
SIGNALS = "Signals by depth"
OF_ALL = ["Learning curves", "Unreadable files", "Configuration", "Cost", "Environment"]


@pytest.fixture
def run(shared_run: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(shared_run, tmp_path / "run"))


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def change(run: Path, **entries: Any) -> None:
    text = json.dumps({**record(run), **entries}, ensure_ascii=False)
    (run / "run.json").write_text(text, "utf-8", "backslashreplace")


def trained(system: System, dataset: Dataset, out: Path, **settings: Any) -> Path:
    if not system.can("fit"):
        settings["plan"] = "eager"
    foveal.train(system, dataset, TrainConfig(out=str(out), quiet=True, report=False, **settings))
    return out


def test_the_headline(run: Path) -> None:
    assert write_report(run, small_digits()) == run / "report.html"
    page, known = read(run / "report.html"), record(run)
    (title,), (heading,) = page.iter("title"), page.iter("h1")
    assert said(heading) == "linear_softmax on digits"
    assert said(title).startswith("linear_softmax on digits")
    (header,) = page.iter("header")
    tiles = facts(header)
    for name, value in known["result"].items():
        assert float(tiles[f"val {name.replace('_', ' ')}"]) == pytest.approx(value, abs=5e-5)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert tiles["best epoch"] == f"{known['best_epoch']} of {len(lines)}"
    assert tiles["training time"] == duration(sum(line["seconds"] for line in lines))
    assert tiles["images"] == str(sum(known["data"]["splits"].values())) == "240"
    assert "10 classes · 160 train · 40 val · 40 test" in said(header)


def test_sections_and_the_links_to_them(run: Path) -> None:
    write_report(run, small_digits())
    page = read(run / "report.html")
    assert titles(page) == ["Learning curves", *OF_CLASSIFIERS, SIGNALS, *OF_ALL[1:]]
    (nav,) = page.iter("nav")
    links = {said(link): link.attrib["href"] for link in nav.iter("a")}
    assert links == {title: f"#{section(page, title).attrib['id']}" for title in titles(page)}


def test_configuration(run: Path) -> None:
    write_report(run, small_digits())
    part, known = section(read(run / "report.html"), "Configuration"), record(run)
    (folded,) = part.iter("details")
    defaults = rows(folded)
    data, *chosen = rows(part)[: -len(defaults)]
    assert tuple(data) == ("data", "digits", "user")
    assert [origin for _, _, origin in chosen] == ["user"] * 4 + ["recipe of linear_softmax"] * 4
    assert {name: origin for name, _, origin in chosen} | {name: "default" for name, _ in defaults} == known["origins"]
    shown = {name: value for name, value, *_ in chosen + defaults}
    assert shown.keys() == known["config"].keys()
    assert (shown["epochs"], shown["out"], shown["lr"]) == ("2", known["config"]["out"], "0.002")
    assert (shown["quiet"], shown["flip"], shown["clip"]) == ("yes", "no", "none")
    seen = facts(part)
    assert (seen["size"], seen["mean"], seen["grey"]) == ("32 x 32", "0.5, 0.5, 0.5", "no")


def test_learning_curves(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": "skipped", "epoch": 3, "step": 12, "reason": "inf"}) + '\n{"event": "epo')
    write_report(run, small_digits())
    part, known = section(read(run / "report.html"), "Learning curves"), record(run)
    assert f"those of epoch {known['best_epoch']}," in said(part)
    assert "not finite, and that changed no weight: 1." in said(part)
    shown = {}
    for figure in part.iter("figure"):
        keys = [said(key).split() for key in figure.iter("span") if key.get("class") in ("train", "val")]
        shown[said(next(figure.iter("b")))] = {split: float(value) for split, value in keys}
    best = json.loads((run / "metrics.jsonl").read_text().splitlines()[known["best_epoch"] - 1])
    for name, value in best["val"].items():
        assert shown[name.replace("_", " ")]["val"] == pytest.approx(value, abs=5e-5)
    assert shown["loss"]["train"] == pytest.approx(best["train"]["loss"], abs=5e-5)


def test_the_best_epoch_need_not_be_the_last(run: Path) -> None:
    first, *_ = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    worse = {**first, "epoch": 2, "best": False, "val": {**first["val"], "accuracy": 0.0123}}
    (run / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(worse)}\n")
    write_report(run, small_digits())
    page = read(run / "report.html")
    (header,) = page.iter("header")
    assert facts(header)["best epoch"] == "1 of 2"
    assert facts(header)["val accuracy"] == f"{first['val']['accuracy']:.4f}"
    assert "0.0123" not in said(page).partition("Learning curves")[0]
    assert "those of epoch 1," in said(section(page, "Learning curves"))


def test_cost_and_environment(run: Path) -> None:
    write_report(run, small_digits())
    page, cost = read(run / "report.html"), foveal.cost(foveal.load(run))
    part = section(page, "Cost")
    shown = facts(part)
    assert (shown["parameters"], shown["multiply-accumulates"]) == (f"{cost.params:,}", f"{cost.macs:,}")
    assert shown["outputs of all layers"] == f"{cost.activation_bytes:,} bytes"
    assert said(next(part.iter("pre"))) == cost.table()
    environment = record(run)["environment"]
    assert facts(section(page, "Environment")) == {name: str(value) for name, value in environment.items()}


def test_unreadable_files(run: Path) -> None:
    write_report(run, small_digits())
    assert "Every image that was asked for could be read" in said(
        section(read(run / "report.html"), "Unreadable files")
    )
    names = ["photos/<script>alert(1)</script>.png", "photos/new\nline.png", "photos/caf\udce9.png"]
    change(run, unreadable={name: f"cannot read {name}: no <image>" for name in names})
    write_report(run, small_digits())
    page = read(run / "report.html")
    shown = [names[0], "photos/new\\nline.png", "photos/caf\\udce9.png"]
    assert rows(section(page, "Unreadable files")) == [[name, "no <image>"] for name in shown]
    assert not list(page.iter("script"))


def test_it_needs_nothing_but_itself(run: Path) -> None:
    text = write_report(run, small_digits()).read_text("utf-8")
    page = read(run / "report.html")
    sources = [element.attrib[name] for element in page.iter() for name in ("src", "href") if name in element.attrib]
    assert len(list(page.iter("img"))) >= 2
    assert all(source.startswith(("data:", "#")) for source in sources), sources
    assert all(image.get("alt") for image in page.iter("img"))
    assert all(drawing.get("aria-label") for drawing in page.iter("svg"))
    assert not re.search(r"url\(|@import|https?:", text)
    (policy,) = [meta.attrib["content"] for meta in page.iter("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert len(text) < 200_000


def test_it_can_be_written_later(run: Path) -> None:
    dataset = small_digits()
    first = write_report(run, dataset, foveal.load(run)).read_bytes()
    (run / "report.html").unlink()
    assert write_report(str(run), dataset).read_bytes() == first
    assert not list(run.glob(".*.partial"))


def test_the_order_of_classes_is_the_systems(run: Path) -> None:
    dataset = small_digits()
    write_report(run, dataset)
    before = said(section(read(run / "report.html"), "Confusion matrix"))
    turned = replace(dataset, labels=dataset.labels[::-1], mapping=torch.arange(10).flip(0))
    write_report(run, turned)
    assert said(section(read(run / "report.html"), "Confusion matrix")) == before


@pytest.mark.parametrize(
    ("codes", "told", "count"),
    [
        ([0, 0, 0, 0, 1, 2], "of the val split; the best epoch was chosen by these.", 10),
        ([0, 0, 0, 0, 0, 2], "of the test split.", 10),
        ([0], "of the whole split; the system has learned from these.", 60),
    ],
)
def test_which_images_it_measures(tmp_path: Path, codes: list[int], told: str, count: int) -> None:
    dataset = replace(small_digits(60), splits=np.resize(np.array(codes, np.int8), 60))
    system = foveal.create("linear_softmax", labels=dataset.labels)
    run = trained(system, dataset, tmp_path / "run", epochs=1)
    write_report(run, dataset, system)
    page = read(run / "report.html")
    shown = section(page, "Confusion matrix")
    assert told in said(shown)
    assert f" of {count} images are" in said(shown)
    assert sum(int(cell or 0) for row in rows(shown) for cell in row[1:]) == count
    assert titles(page) == ["Learning curves", *OF_CLASSIFIERS, SIGNALS, *OF_ALL[1:]]


def test_of_a_split_that_was_learned_from(tmp_path: Path) -> None:
    dataset = small_digits(60).select("val")
    system = foveal.create("linear_softmax", labels=dataset.labels)
    run = trained(system, dataset, tmp_path / "run", epochs=1)
    write_report(run, dataset, system)
    told = "of the val split; the system has learned from these."
    assert told in said(section(read(run / "report.html"), "Confusion matrix"))


@pytest.mark.parametrize(
    ("system", "dataset", "more"),
    [
        (Detector(), squares(), [*OF_DETECTORS, SIGNALS]),
        (Gan(), unlabelled(small_digits()), ["Samples over time", "Images", "Figures"]),
        (Captioner(), brightness(), [SIGNALS]),
        (NearestMean(small_digits().labels), small_digits(), OF_CLASSIFIERS),
    ],
    ids=["detect", "generate", "caption", "fit"],
)
def test_every_task(system: System, dataset: Dataset, more: list[str], tmp_path: Path) -> None:
    run = trained(system, dataset, tmp_path / "run")
    write_report(run, dataset, system)
    page = read(run / "report.html")
    assert titles(page) == ["Learning curves", *more, *OF_ALL[1:]]
    assert "Not available" not in said(page)
    (heading,) = page.iter("h1")
    assert said(heading) == f"{type(system).__name__} on {dataset.source}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    charts = {said(next(figure.iter("b"))) for figure in section(page, "Learning curves").iter("figure")}
    charts = {chart.removesuffix(" log scale") for chart in charts}  # which the course of a loss decides
    assert {name.replace("_", " ") for name in lines[0]["val"]} <= charts
    parameters = facts(section(page, "Cost"))["parameters"]
    assert parameters == f"{sum(parameter.numel() for parameter in system.parameters()):,}"


class _Gone:
    """Images that can no more be read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        raise ImageError(f"cannot read digits/{index}: it is gone")

    def name(self, index: int) -> str:
        return f"digits/{index}"

    def content(self, index: int) -> bytes:
        return b""


def test_data_that_is_gone(run: Path) -> None:
    write_report(run, replace(small_digits(), images=_Gone(240)))
    page = read(run / "report.html")
    assert titles(page) == ["Learning curves", "Answers", SIGNALS, *OF_ALL[1:]]
    assert "Not available: digits: more than" in said(section(page, "Answers"))


def test_a_system_whose_cost_is_unknown(tmp_path: Path) -> None:
    class Choosy(Detector):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not images.any():  # neither meta tensors nor a black image
                raise ValueError("black")
            return super().forward(images)

    system = Choosy()
    run = trained(system, squares(), tmp_path / "run", epochs=1)
    write_report(run, squares(), system)
    assert "Not available: Choosy does not run" in said(section(read(run / "report.html"), "Cost"))


def test_a_run_that_was_stopped(run: Path) -> None:
    change(run, status="interrupted")
    write_report(run, small_digits())
    (header,) = read(run / "report.html").iter("header")
    assert "interrupted" in said(header)
    (run / "metrics.jsonl").unlink()
    write_report(run, small_digits())
    page = read(run / "report.html")
    assert "No epoch has ended yet" in said(section(page, "Learning curves"))


def test_a_run_of_a_variant(tmp_path: Path) -> None:
    dataset = small_digits(60)
    system = foveal.create("resnet_nano", labels=dataset.labels, width=4)
    run = trained(system, dataset, tmp_path / "run", epochs=1)
    write_report(run, dataset)
    assert facts(section(read(run / "report.html"), "Configuration"))["width"] == "4"


def test_what_cannot_be(run: Path, tmp_path: Path) -> None:
    dataset = small_digits()
    with pytest.raises(InputError, match=r"cannot read .*run\.json: No such file"):
        write_report(tmp_path, dataset)
    (run / "report.html").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*report\.html: Is a directory"):
        write_report(run, dataset)
    assert not list(run.glob(".*.partial"))
    (run / "run.json").write_text('{"name": "lenet"}')
    with pytest.raises(InputError, match=r"run\.json is damaged, it lacks config, data, environment"):
        write_report(run, dataset)
    (run / "run.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"run\.json is damaged: Expecting"):
        write_report(run, dataset)
