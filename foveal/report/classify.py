"""What a report says of a classifier: which classes it mixes up, how sure the figures are, its worst mistakes."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.explain.explanation import explain
from foveal.metrics.classify import class_figures
from foveal.report.draw import overlay, small
from foveal.report.parts import Html, join, note, number, picture, scroll, table, tag
from foveal.system import System, evaluating
from foveal.train.evaluate import evaluation_loader

MOST_CLASSES_IN_MATRIX = 30
MOST_CLASSES_IN_TABLE = 100
MOST_PAIRS = 30
MOST_MISTAKES = 12
LARGE = 64 * 64  # pixels of an image, from which on occlusion takes longer than a report is worth
SIDE = 240  # pixels of a picture in the page


@dataclass(frozen=True)
class Answers:
    """What a system says to N images. items: their places in the data. truth, predicted: (N,) class indices.
    of_truth, of_predicted: (N,) the probabilities that the system gives to these."""

    items: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    of_truth: np.ndarray
    of_predicted: np.ndarray

    def pairs(self) -> dict[tuple[int, int], int]:
        """(true class, predicted class) -> how often; those that never occur are left out."""
        pairs, counts = np.unique(np.stack([self.truth, self.predicted], 1), axis=0, return_counts=True)
        return {(true, other): count for (true, other), count in zip(pairs.tolist(), counts.tolist(), strict=True)}

    def worst(self, most: int) -> list[int]:
        """Rows of wrong answers, the highest cross-entropy, which is the least probability of the true class, first."""
        order = np.lexsort((-self.of_predicted, self.of_truth))
        return [row for row in order.tolist() if self.truth[row] != self.predicted[row]][:most]


def sections(system: System, view: Dataset, batch_size: int, workers: int | None) -> list[tuple[str, Html]]:
    """Title and content of each section, for the images of a view. Raises InputError where none can be measured."""
    view = view.relabel(system.labels)
    answers = ask(system, view, batch_size, workers)
    return [
        ("Confusion matrix", _confusion(answers, system.labels)),
        ("Classes", _classes(answers, system.labels)),
        ("Worst mistakes", _mistakes(answers, system, view)),
    ]


def ask(system: System, view: Dataset, batch_size: int, workers: int | None) -> Answers:
    """The system's answers to all images of a view that can be read."""
    loader = evaluation_loader(system, view, batch_size, workers)
    rows = []
    with evaluating(system):
        for batch in loader.epoch():
            prepared = batch.to(system.device).float()
            found = system.decode(system(prepared.images), prepared)
            predicted = torch.stack([label.label for label in found]).cpu()  # type: ignore[attr-defined]
            probabilities = torch.stack([label.scores for label in found]).cpu()  # type: ignore[attr-defined]
            truth = torch.stack([target.label for target in batch.targets])
            chosen = probabilities.gather(1, torch.stack([truth, predicted], 1))  # (B, 2)
            rows.append([batch.indices, truth, predicted, *chosen.double().unbind(1)])
    if not rows:
        raise InputError(f"{view.source}: not one image can be read")
    return Answers(*(torch.cat(column).numpy() for column in zip(*rows, strict=True)))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share p = successes / trials, for n = trials and z the normal quantile (1.96 for 95 %):

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22(158), 209-212. It stays
    inside [0, 1] and means something for few trials and for shares of 0 and 1, where the usual p -+ z s does not.
    """
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / trials
    middle = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # Rounding would leave a share of 0 or 1 a little outside its own interval, or that outside [0, 1].
    return max(0.0, min(p, (middle - half) / scale)), min(1.0, max(p, (middle + half) / scale))


def _confusion(answers: Answers, labels: tuple[str, ...]) -> Html:
    pairs = answers.pairs()
    wrong = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
    count, mistakes = len(answers.items), sum(wrong.values())
    said = note(f"{count - mistakes:,} of {count:,} images are classified correctly, {mistakes:,} wrongly.")
    if len(labels) <= MOST_CLASSES_IN_MATRIX:
        return join([said, _matrix(pairs, labels)])
    if not wrong:
        return said
    present = np.bincount(answers.truth)
    most = sorted(wrong.items(), key=lambda item: (-item[1], present[item[0][0]], item[0]))[:MOST_PAIRS]
    rows = [
        (labels[true], labels[other], f"{count:,}", f"{count / present[true]:.1%}") for (true, other), count in most
    ]
    shown = f"The {len(rows)} most frequent of {len(wrong):,} kinds of mistake, among {len(labels):,} classes:"
    headings = ("true class", "predicted", "images", "of the class")
    return join([said, note(shown), table(headings, rows, title="Most frequent mistakes", numbers=(2, 3))])


def _matrix(pairs: dict[tuple[int, int], int], labels: tuple[str, ...]) -> Html:
    """A row for each true class, a column for each predicted one; colour is the share of the row."""
    sums = [sum(pairs.get((row, column), 0) for column in range(len(labels))) for row in range(len(labels))]

    def cell(row: int, column: int) -> Html:
        count = pairs.get((row, column), 0)
        if not count:
            return tag("td")
        # The root lets a single mistake among many right answers be seen.
        share = f"--share:{100 * math.sqrt(count / sums[row]):.0f}%"
        said = f"{labels[row]} taken for {labels[column]}: {count} of {sums[row]}"
        return tag("td", f"{count:,}", class_="right" if row == column else "wrong", style=share, title=said)

    upright = "upright" if max(map(len, labels)) > 3 else None
    names = [tag("th", tag("span", name), scope="col", title=name, class_=upright) for name in labels]
    above = tag("tr", tag("td"), tag("th", "predicted", colspan=len(labels), scope="colgroup", class_="axis"))
    head = tag("thead", above, tag("tr", tag("th", "true", class_="axis", scope="col"), *names))
    rows = [
        tag("tr", tag("th", tag("span", name), scope="row", title=name), *(cell(row, n) for n in range(len(labels))))
        for row, name in enumerate(labels)
    ]
    return scroll(tag("table", head, tag("tbody", *rows), class_="matrix"), "Confusion matrix")


def _classes(answers: Answers, labels: tuple[str, ...]) -> Html:
    count = len(labels)
    figures = class_figures(torch.from_numpy(answers.truth), torch.from_numpy(answers.predicted), count)
    present, predicted, right = ([int(row[name]) for row in figures] for name in ("images", "predicted", "correct"))
    order = list(range(count))
    said = (
        "Recall: the share of a class's images that are predicted to be of it. Precision: the share of the images "
        "predicted to be of a class that are. Each with its 95 % confidence interval (Wilson's score interval); a wide "
        "one says that there are few images to judge by."
    )
    if count > MOST_CLASSES_IN_TABLE:
        order.sort(key=lambda c: (not present[c], right[c] / max(present[c], 1), -present[c]))
        order = order[:MOST_CLASSES_IN_TABLE]
        said += f" Shown are the {len(order)} classes of {count:,} with the lowest recall."
    rows = [
        (labels[c], f"{present[c]:,}", *_share(right[c], present[c]), *_share(right[c], predicted[c])) for c in order
    ]
    total = _share(sum(right), len(answers.items))
    accuracy = tag("p", "All images: accuracy ", tag("b", total[0]), ", 95 % interval ", total[1], ".")
    headings = ("class", "images", "recall", "95 % interval", "", "precision", "95 % interval", "")
    return join([note(said), accuracy, table(headings, rows, title="Classes", numbers=(1, 2, 3, 5, 6))])


def _share(part: int, whole: int) -> tuple[Any, Any, Any]:
    """A share with its interval, in numbers and as a drawing."""
    if not whole:
        return "-", "-", ""
    low, high = wilson(part, whole)
    place = f"--low:{100 * low:.1f}%;--high:{100 * high:.1f}%;--at:{100 * part / whole:.1f}%"
    return (
        f"{part / whole:.3f}",
        Html(f"{low:.3f} &ndash; {high:.3f}"),
        tag("span", tag("i"), class_="interval", style=place),
    )


def _mistakes(answers: Answers, system: System, view: Dataset) -> Html:
    worst = answers.worst(MOST_MISTAKES)
    if not worst:
        return note(f"Not one of the {len(answers.items):,} images is classified wrongly.")
    wrong = int((answers.truth != answers.predicted).sum())
    method = _method(system)
    said = (
        f"{len(worst)} of the {wrong:,} wrongly classified images, the highest cross-entropy first, which is the least "
        f"probability of the true class. Beside each image stands where {method} finds the evidence for the predicted "
        "class: the brighter, the more; grey is none. Below: both classes with their probabilities."
    )
    cards = [_mistake(answers, row, system, view, method) for row in worst]
    return join([note(said), tag("div", *cards, class_="cards")])


def _mistake(answers: Answers, row: int, system: System, view: Dataset, method: str) -> Html:
    item = int(answers.items[row])
    true, predicted = system.labels[answers.truth[row]], system.labels[answers.predicted[row]]
    pictures = []
    try:
        image = view.image(item)
        pictures.append(picture(small(image, SIDE), f"an image of {true}"))
        found = explain(system, image, method, predicted)
        seen = overlay(small(image, SIDE), small(found.heat[None], SIDE)[0])
        pictures.append(picture(seen, f"the evidence for {predicted} in it, by {method}"))
    except (InputError, torch.OutOfMemoryError) as error:  # the image is gone since, or the system has no score
        pictures.append(note(f"not available: {error}"))
    classes = [
        tag("div", tag("dt", what), tag("dd", name), tag("dd", number(float(probability)), class_="number"))
        for what, name, probability in (
            ("true", true, answers.of_truth[row]),
            ("predicted", predicted, answers.of_predicted[row]),
        )
    ]
    caption = tag("figcaption", tag("dl", *classes), tag("small", view.name(item)))
    return tag("figure", tag("div", *pictures, class_="pair"), caption, class_="card")


def _method(system: System) -> str:
    """Occlusion, the most faithful, where its many passes are quick; else Grad-CAM, if there is a layer to look at."""
    if math.prod(system.preprocess.size) <= LARGE:
        return "occlusion"
    try:
        return "gradcam" if system.explained_layer else "occlusion"
    except InputError:
        return "occlusion"
