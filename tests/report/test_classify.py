"""What a report says of a classifier, against the evaluator, scikit-learn and counting by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

import foveal
from foveal.classify.classifier import Classifier
from foveal.data.dataset import Dataset
from foveal.data.image import ImageError
from foveal.report.classify import LARGE, MOST_MISTAKES, ask, sections, wilson
from foveal.report.draw import overlay
from foveal.report.parts import picture
from foveal.system import Preprocess, Spec
from foveal.train.evaluate import evaluation_loader, measure
from tests.report.conftest import answering
from tests.report.page import read, rows, said
from tests.toys import small_digits


@pytest.fixture
def chosen() -> tuple[Classifier, Dataset]:
    """300 answers with five classes, about half of them right."""
    draw = np.random.default_rng(0)
    truth = draw.choice(5, 300, p=[0.4, 0.3, 0.2, 0.06, 0.04])
    scores = torch.from_numpy(draw.normal(size=(300, 5)))
    scores[torch.arange(300), torch.from_numpy(truth)] += 1.5
    return answering(truth.tolist(), scores, ("ant", "bee", "cat", "dog", "eel"))


def made(system: Classifier, dataset: Dataset) -> dict[str, object]:
    return {title: read(html) for title, html in sections(system, dataset, 64, 0)}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval() -> None:
    for trials in (1, 2, 7, 100, 12345):
        for successes in {0, 1, trials // 3, trials - 1, trials}:
            for confidence in (0.9, 0.95, 0.99):
                interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
                low, high = wilson(successes, trials, confidence)
                assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
                assert 0 <= low <= successes / trials <= high <= 1


def test_answers_are_those_that_are_measured(shared_run: Path) -> None:
    system, view = foveal.load(shared_run), small_digits().select("val")
    found = ask(system, view, 7, 0)
    evaluator = measure(system, evaluation_loader(system, view, 64, 0)).evaluator
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for (true, predicted), count in found.pairs().items():
        confusion[true, predicted] = count
    assert torch.equal(confusion, evaluator.confusion)  # type: ignore[attr-defined]
    assert found.items.tolist() == list(range(len(view)))
    for item in found.items.tolist():
        image, target = view[item]
        (prediction,) = system.predict([image])
        assert found.truth[item] == int(target.label)  # type: ignore[union-attr]
        assert found.predicted[item] == int(prediction.label)
        assert found.of_truth[item] == pytest.approx(float(prediction.scores[found.truth[item]]), rel=1e-4)
        assert found.of_predicted[item] == pytest.approx(float(prediction.scores.max()), rel=1e-4)


def test_confusion_matrix(chosen: tuple[Classifier, Dataset]) -> None:
    system, dataset = chosen
    matrix = made(system, dataset)["Confusion matrix"]
    evaluator = measure(system, evaluation_loader(system, dataset, 64, 0)).evaluator
    confusion = evaluator.confusion.tolist()  # type: ignore[attr-defined]
    expected = [[name, *(str(n or "") for n in row)] for name, row in zip(dataset.labels, confusion, strict=True)]
    assert rows(matrix) == expected
    correct = sum(confusion[n][n] for n in range(5))
    assert f"{correct} of 300 images are classified correctly, {300 - correct} wrongly" in said(matrix)


def test_figures_of_each_class(chosen: tuple[Classifier, Dataset]) -> None:
    system, dataset = chosen
    found = ask(system, dataset, 64, 0)
    precision, recall, _, support = precision_recall_fscore_support(found.truth, found.predicted)
    table = rows(made(system, dataset)["Classes"])
    assert [row[0] for row in table] == list(dataset.labels)
    named = np.bincount(found.predicted)
    for n, (_, images, *cells) in enumerate(table):
        assert int(images) == support[n]
        for (share, interval, _), value, whole in zip(
            (cells[:3], cells[3:]), (recall[n], precision[n]), (support[n], named[n]), strict=True
        ):
            limits = binomtest(round(value * whole), int(whole)).proportion_ci(method="wilson")
            assert share == f"{value:.3f}"
            assert interval == f"{limits.low:.3f} \u2013 {limits.high:.3f}"


def test_worst_mistakes(chosen: tuple[Classifier, Dataset]) -> None:
    system, dataset = chosen
    loss = {}
    for item in range(len(dataset)):
        image, target = dataset[item]
        scores = system(image[None] / 255)[0]
        label = int(target.label)  # type: ignore[union-attr]
        if int(scores.argmax()) != label:
            loss[item] = float(-scores.log_softmax(0)[label])
    worst = sorted(loss, key=lambda item: -loss[item])[:MOST_MISTAKES]
    shown = made(system, dataset)["Worst mistakes"]
    cards = list(shown.iter("figure"))
    assert [said(next(card.iter("small"))) for card in cards] == [f"chosen/{item}" for item in worst]
    for card, item in zip(cards, worst, strict=True):
        (true, predicted) = [[said(part) for part in line] for line in next(card.iter("dl"))]
        label = system.predict([dataset.image(item)])[0]
        assert true[:2] == ["true", dataset.labels[int(dataset.target(item).label)]]
        assert predicted[:2] == ["predicted", dataset.labels[int(label.label)]]
        assert float(true[2]) == pytest.approx(math.exp(-loss[item]), abs=6e-5)
        assert float(predicted[2]) == pytest.approx(float(label.scores.max()), abs=6e-5)
        assert [image.get("alt") for image in card.iter("img")] == [
            f"an image of {true[1]}", f"the evidence for {predicted[1]} in it, by occlusion"
        ]  # fmt: skip
    assert f"{MOST_MISTAKES} of the {len(loss)} wrongly classified" in said(shown)


def test_the_evidence_is_that_for_the_predicted_class(shared_run: Path) -> None:
    system, view = foveal.load(shared_run), small_digits().select("val")
    found = ask(system, view, 64, 0)
    cards = list(made(system, view)["Worst mistakes"].iter("figure"))
    assert cards
    for row, card in zip(found.worst(MOST_MISTAKES), cards, strict=True):
        image = view.image(int(found.items[row]))
        heat = foveal.explain(system, image, "occlusion", system.labels[found.predicted[row]]).heat
        (original,), (seen,) = (read(picture(shown, "")).iter("img") for shown in (image, overlay(image, heat)))
        assert [part.attrib["src"] for part in card.iter("img")] == [original.attrib["src"], seen.attrib["src"]]


def test_no_mistake() -> None:
    system, dataset = answering([0, 1, 1], torch.eye(2)[[0, 1, 1]], ("no", "yes"))
    parts = made(system, dataset)
    assert "Not one of the 3 images is classified wrongly" in said(parts["Worst mistakes"])
    assert rows(parts["Confusion matrix"]) == [["no", "1", ""], ["yes", "", "2"]]
    assert [row[2] for row in rows(parts["Classes"])] == ["1.000", "1.000"]


def test_a_class_that_is_missing() -> None:
    # No image of c; b is never predicted; both are all the same in the tables.
    system, dataset = answering([0, 0, 1], torch.eye(3)[[0, 2, 0]], ("a", "b", "c"))
    parts = made(system, dataset)
    assert rows(parts["Confusion matrix"]) == [["a", "1", "", "1"], ["b", "1", "", ""], ["c", "", "", ""]]
    cells = {row[0]: [row[1], row[2], row[5]] for row in rows(parts["Classes"])}
    assert cells == {"a": ["2", "0.500", "0.500"], "b": ["1", "0.000", "-"], "c": ["0", "-", "0.000"]}


@pytest.mark.parametrize("count", [2, 10, 100, 10_000])
def test_any_number_of_classes_can_be_read(count: int) -> None:
    truth = [n % count for n in range(400)]
    predicted = [label if n % 2 else (label + 1) % count for n, label in enumerate(truth)]
    predicted[:6] = [1, 1, 1, 1, 1, 1]
    truth[:6] = [0, 0, 0, 0, 0, 0]
    names = tuple(f"class number {n}" for n in range(count))
    system, dataset = answering(truth, 20 * torch.nn.functional.one_hot(torch.tensor(predicted), count).float(), names)
    html = sections(system, dataset, 64, 0)
    assert sum(len(part) for _, part in html) < 200_000
    parts = {title: read(part) for title, part in html}
    table = rows(parts["Confusion matrix"])
    pairs = list(zip(truth, predicted, strict=True))
    if count <= 30:
        assert [int(row[1 + n] or 0) for n, row in enumerate(table)] == [pairs.count((n, n)) for n in range(count)]
    else:
        assert len(table) == 30
        assert table[0][:3] == [names[0], names[1], str(pairs.count((0, 1)))]
        assert table[0][3] == f"{pairs.count((0, 1)) / truth.count(0):.1%}"
        counts = [int(row[2]) for row in table]
        assert counts == sorted(counts, reverse=True)
    classes = rows(parts["Classes"])
    assert len(classes) == min(count, 100)
    if count > 100:
        recalls = [float(row[2]) for row in classes]
        assert recalls == sorted(recalls)
        assert "the 100 classes of 10,000 with the lowest recall" in said(parts["Classes"])


def test_a_classifier_with_hostile_names() -> None:
    labels = ('<b>&"', "new\nline", "caf\udce9")
    system, dataset = answering([0, 1, 2], torch.eye(3)[[1, 2, 0]], labels)
    for part in made(system, dataset).values():
        shown = said(part)  # the reader of the page would stumble over elements that are not closed
        assert '<b>&"' in shown
        assert "new\\nline" in shown
        assert "caf\\udce9" in shown
        assert not list(part.iter("br"))


class _Vanishing:
    """Images that can be read once."""

    def __init__(self, images: object) -> None:
        self.images, self.seen = images, set[int]()

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.seen:
            raise ImageError(f"cannot read chosen/{index}: it is gone")
        self.seen.add(index)
        return self.images[index]  # type: ignore[index]

    def name(self, index: int) -> str:
        return f"chosen/{index}"


def test_a_mistake_whose_image_is_gone() -> None:
    system, dataset = answering([0, 1], torch.eye(2)[[1, 1]], ("a", "b"))
    object.__setattr__(dataset, "images", _Vanishing(dataset.images))
    (card,) = made(system, dataset)["Worst mistakes"].iter("figure")
    assert "not available: cannot read chosen/0: it is gone" in said(card)
    assert not list(card.iter("img"))


class _Large(Classifier):
    """Takes everything for "left", from images that are large for occlusion."""

    def __init__(self) -> None:
        super().__init__(Spec(("left", "right"), Preprocess((64, 66), "squash", 1.0, (0.0,) * 3, (1.0,) * 3)))
        self.body = torch.nn.Conv2d(3, 2, 2, 2)
        torch.nn.init.zeros_(self.body.weight)
        torch.nn.init.zeros_(self.body.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).mean((2, 3))


class _Layered(_Large):
    @property
    def explained_layer(self) -> str:
        return "body"


@pytest.mark.parametrize(("kind", "method"), [(_Layered, "gradcam"), (_Large, "occlusion")])
def test_how_a_large_image_is_explained(kind: type[Classifier], method: str) -> None:
    system = kind()
    assert math.prod(system.preprocess.size) > LARGE
    dataset = answering([0, 1], torch.eye(2), ("left", "right"))[1]
    shown = made(system, dataset)["Worst mistakes"]
    assert f"where {method} finds" in said(shown)
    assert f"by {method}" in [*shown.iter("img")][1].attrib["alt"]
