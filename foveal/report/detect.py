"""What a report says of a detector: what it finds of each class, what kinds of error cost it most, its worst images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.explain.explanation import explain
from foveal.metrics.detect import DetectEvaluator, matched, precision_recall
from foveal.metrics.detection_errors import errors
from foveal.report.boxes import Mark, draw_marks
from foveal.report.draw import overlay, small
from foveal.report.letters import drawn
from foveal.report.parts import Html, facts, join, note, number, picture, table, tag
from foveal.structures import Objects
from foveal.system import System
from foveal.train.evaluate import check_truths, evaluation_loader, measure

IOU = 0.5  # from which on a detection finds an object
SURE = 0.5  # probability from which on a detection is told to a person, as `foveal predict` does
MOST_CURVES = 12
MOST_CLASSES = 100
MOST_IMAGES = 8
SIDES = (520, 520)  # of a picture in the page, where it is half as large
TEXT = 1 / 22
LARGE = 128 * 128  # pixels of an image, from which on occlusion takes longer than a report is worth
RIGHT, WRONG = "#56b4e9", "#d55e00"
KINDS = {
    "duplicate": "A second box on an object that a better one has found.",
    "class": "A box that fits an object, with the name of another class.",
    "location": "The right class near an object, in a box that does not fit it well enough.",
    "both": "Near an object of another class, in a box that does not fit it either.",
    "background": "A box where nothing is.",
    "missed": "An object that no box was meant for.",
}


@dataclass(frozen=True)
class Detections:
    """What a system finds in N images, and what there is. items: their places in the data."""

    items: list[int]
    predictions: list[Objects]
    truths: list[Objects]
    labels: tuple[str, ...]
    figures: dict[str, float]
    classes: list[dict[str, float]]

    @cached_property
    def told(self) -> "Told":
        """Those that a person is told."""
        sure = [p[torch.as_tensor(p.scores) >= SURE] for p in self.predictions]
        found, truths, of = matched(sure, self.truths, len(self.labels), IOU)
        asked = ~(truths.crowd | truths.ignored)
        is_found = np.isin(np.arange(len(truths)), of)
        return Told(found, truths, of < 0, asked & ~is_found)


@dataclass(frozen=True)
class Told:
    """Detections and truths as tables of metrics/average_precision.py. wrong: (D,) bool, which detections find nothing.
    missed: (G,) bool, which truths are not found though they are asked for."""

    found: Any
    truths: Any
    wrong: np.ndarray
    missed: np.ndarray

    def worst(self, images: int, most: int) -> list[int]:
        """Images with the most missed objects and wrong detections; of equal ones the more confident mistakes first."""
        count = np.bincount(self.found.image[self.wrong], minlength=images)
        count = count + np.bincount(self.truths.image[self.missed], minlength=images)
        sure = np.bincount(self.found.image[self.wrong], self.found.score[self.wrong], minlength=images)
        order = np.lexsort((-sure, -count))
        return [image for image in order.tolist() if count[image]][:most]


def sections(system: System, view: Dataset, batch_size: int, workers: int | None) -> list[tuple[str, Html]]:
    """Title and content of each section, for the images of a view. Raises InputError where none can be measured."""
    seen = detect(system, view, batch_size, workers)
    return [
        ("Objects found", _found(seen)),
        ("Classes", _classes(seen)),
        ("Errors", _errors(seen)),
        ("Worst images", _worst(seen, system, view)),
    ]


def detect(system: System, view: Dataset, batch_size: int, workers: int | None) -> Detections:
    """What the system finds in all images of a view that can be read."""
    loader = evaluation_loader(system, view, batch_size, workers)
    check_truths(system, loader.dataset)
    measured = measure(system, loader)
    collected = measured.evaluator
    assert isinstance(collected, DetectEvaluator)
    items = [item for item in range(len(view)) if view.name(item) not in loader.unreadable]
    return Detections(
        items, collected.predictions, collected.truths, system.labels, measured.values, collected.per_class()
    )


def _found(seen: Detections) -> Html:
    told = seen.told
    objects = int((~(told.truths.crowd | told.truths.ignored)).sum())
    found, wrong = objects - int(told.missed.sum()), int(told.wrong.sum())
    said = (
        f"Of {objects:,} objects in {len(seen.items):,} images {found:,} are found by a detection with a probability "
        f"of {SURE} or more that overlaps them by an IoU of {IOU} or more; {wrong:,} such detections find none."
    )
    if not len(told.found):
        best = max((float(p.scores[0]) for p in seen.predictions if p.scores is not None and len(p)), default=0.0)
        said += f" No detection is as probable as that: the most probable has {best:.2f}."
    curves = precision_recall(seen.predictions, seen.truths, len(seen.labels), IOU)
    drawn = [(float(_area(curve)), label, curve) for label, curve in enumerate(curves) if _asked(seen, label)]
    drawn.sort(key=lambda row: row[0])
    shown = drawn[:MOST_CURVES]
    about = (
        "Precision, the share of the detections that are right, against recall, the share of the objects that are "
        f"found, as less and less probable detections are let in; a ring stands where those of {SURE} and more are."
    )
    if len(drawn) > len(shown):
        about += f" Shown are the {len(shown)} of {len(drawn):,} classes with the lowest curves."
    shown.sort(key=lambda row: row[1])
    charts = [_chart(seen.labels[label], curve) for _, label, curve in shown]
    names = {
        "mAP": "mAP, the mean over IoUs from 0.5 to 0.95",
        "mAP50": "mAP at an IoU of 0.5",
        "mAP75": "mAP at an IoU of 0.75",
        "mAPs": "mAP of small objects, below 32 x 32 pixels",
        "mAPm": "mAP of objects from 32 x 32 to 96 x 96",
        "mAPl": "mAP of larger objects",
        "AR1": "recall with 1 detection of a class an image",
        "AR10": "recall with 10",
        "AR100": "recall with 100",
        "ARs": "recall, small objects",
        "ARm": "recall, medium objects",
        "ARl": "recall, large objects",
    }
    figures = facts({names[name]: number(value) for name, value in seen.figures.items()})
    folded = tag("details", tag("summary", "COCO's figures"), figures)
    return join([note(said), note(about), tag("div", *charts, class_="charts"), folded])


def _asked(seen: Detections, label: int) -> int:
    """How many objects of a class there are to be found."""
    truths = seen.told.truths
    return int((~(truths.crowd | truths.ignored) & (truths.label == label)).sum())


def _area(curve: Any) -> float:
    """Under a curve of precision against recall."""
    if not len(curve.recall):
        return 0.0
    recall = torch.cat([curve.recall.new_zeros(1), curve.recall])
    return float((recall.diff() * curve.precision).sum())


def _chart(name: str, curve: Any) -> Html:
    """Precision against recall of one class."""
    width, height, left, right, top, bottom = 360, 200, 46, 350, 10, 160
    drawn = [
        tag("text", "precision", x=left, y=top - 1, text_anchor="start", class_="axis"),
        tag("text", "recall", x=right, y=height - 6, text_anchor="end", class_="axis"),
    ]

    def x(recall: float) -> str:
        return f"{left + (right - left) * recall:.1f}"

    def y(precision: float) -> str:
        return f"{bottom - (bottom - top - 8) * precision:.1f}"

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn.append(tag("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        drawn.append(tag("text", f"{tick:g}", x=x(tick), y=bottom + 18, text_anchor="middle"))
        if tick in (0.0, 0.5, 1.0):
            drawn.append(tag("text", f"{tick:g}", x=left - 6, y=f"{float(y(tick)) + 4:.1f}", text_anchor="end"))
    count = len(curve.recall)
    said, key = "nothing found", "nothing found"
    if count:
        places = np.unique(np.linspace(0, count - 1, min(count, 300)).round().astype(int))
        points = [(0.0, float(curve.precision[0]))]
        points += [(float(curve.recall[n]), float(curve.precision[n])) for n in places.tolist()]
        drawn.append(tag("polyline", points=" ".join(f"{x(r)},{y(p)}" for r, p in points), class_="val"))
        said = (
            f"precision from {points[0][1]:.2f} at no recall to {points[-1][1]:.2f} at a recall of {points[-1][0]:.2f}"
        )
        sure = int((curve.scores >= SURE).sum())
        key = f"recall up to {points[-1][0]:.2f}"
        if sure:
            r, p = float(curve.recall[sure - 1]), float(curve.precision[sure - 1])
            drawn.append(tag("circle", cx=x(r), cy=y(p), r=3.5, class_="val"))
            key = f"precision {p:.2f}, recall {r:.2f}"
    caption = tag("figcaption", tag("b", name), tag("small", key))
    label = f"Precision against recall of {name}: {said}"
    return tag("figure", caption, tag("svg", *drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=label),
               class_="chart")  # fmt: skip


def _classes(seen: Detections) -> Html:
    told, rows = seen.told, []
    for label, name in enumerate(seen.labels):
        figures = seen.classes[label]
        objects = int(figures["objects"])
        if not objects:
            rows.append((math.inf, (name, "0", "-", "-", "", "-", "-")))
            continue
        found = objects - int((told.missed & (told.truths.label == label)).sum())
        wrong = int((told.wrong & (told.found.label == label)).sum())
        bar = f"--low:0%;--high:{100 * figures['AP50']:.1f}%;--at:{100 * figures['AP50']:.1f}%"
        shares = (f"{found / objects:.3f}", f"{found / (found + wrong):.3f}" if found + wrong else "-")
        drawn = tag("span", tag("i"), class_="interval", style=bar)
        rows.append(
            (figures["AP50"], (name, f"{objects:,}", f"{figures['AP']:.3f}", f"{figures['AP50']:.3f}", drawn, *shares))
        )
    said = (
        "AP: the area under the curve of precision against recall by COCO's rules, the mean over IoUs from 0.5 to "
        f"0.95; AP50: at an IoU of 0.5. Recall and precision: of the detections with a probability of {SURE} or more."
    )
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: row[0])[:MOST_CLASSES]
        said += f" Shown are the {len(rows)} classes of {len(seen.labels):,} with the lowest AP50."
    headings = ("class", "objects", "AP", "AP50", "", "recall", "precision")
    return join([note(said), table(headings, [row for _, row in rows], title="Classes", numbers=(1, 2, 3, 5, 6))])


def _errors(seen: Detections) -> Html:
    found = errors(seen.predictions, seen.truths, len(seen.labels), IOU)
    most = max(max(error.cost for error in found.values()), 1e-9)
    said = (
        f"What goes wrong, and how much higher the mAP at an IoU of {IOU} would be without: each kind is mended alone, "
        "all else left as it is (TIDE, Bolya et al. 2020). Detections of any probability count; improbable ones cost "
        "little."
    )
    bars = []
    for kind, error in sorted(found.items(), key=lambda item: -item[1].cost):
        times = "never" if not error.count else "once" if error.count == 1 else f"{error.count:,} times"
        share = f"--share:{100 * max(error.cost, 0) / most:.1f}%"
        bars.append(
            tag("div", tag("b", kind), tag("span", f"costs {error.cost:.3f}", class_="number"), tag("i", style=share),
                tag("small", f"{KINDS[kind]} {times.capitalize()}."))
        )  # fmt: skip
    return join([note(said), tag("div", *bars, class_="bars")])


def _worst(seen: Detections, system: System, view: Dataset) -> Html:
    worst = seen.told.worst(len(seen.items), MOST_IMAGES)
    if not worst:
        return note(f"In none of the {len(seen.items):,} images is an object missed or a detection wrong.")
    told = seen.told
    wrong = len({*told.found.image[told.wrong].tolist(), *told.truths.image[told.missed].tolist()})
    said = (
        f"{len(worst)} of the {wrong:,} images with mistakes, the most mistakes first: what there is, then what is "
        f"found with a probability of {SURE} or more; in blue what is right, in orange, with a name, what is missed or "
        "wrong, dashed what is not asked for."
    )
    cards = [_card(seen, image, view) for image in worst]
    parts = [note(said), tag("div", *cards, class_="cards wide"), *_why(seen, system, view)]
    return join(parts)


def _card(seen: Detections, image: int, view: Dataset) -> Html:
    told, labels, item = seen.told, seen.labels, seen.items[image]
    own, there = told.found.image == image, told.truths.image == image
    found = [
        _mark(box, f"{drawn(labels[label], label)} {score:.2f}", wrong)
        for box, label, score, wrong in _rows(own, told.found.boxes, told.found.label, told.found.score, told.wrong)
    ]
    free = told.truths.crowd | told.truths.ignored
    truths = [
        _mark(box, drawn(labels[label], label), missed, dashed)
        for box, label, missed, dashed in _rows(there, told.truths.boxes, told.truths.label, told.missed, free)
    ]
    missed = _several([labels[label] for label in told.truths.label[there & told.missed]])
    wrong = _several([labels[label] for label in told.found.label[own & told.wrong]])
    try:
        pixels = view.image(item)
        pictures = [
            picture(_draw(pixels, truths), f"what there is; missed: {missed}"),
            picture(_draw(pixels, found), f"what is found; wrong: {wrong}"),
        ]
    except InputError as error:  # the image is gone since
        pictures = [note(f"not available: {error}")]
    lines = [tag("div", tag("dt", what), tag("dd", which)) for what, which in (("missed", missed), ("wrong", wrong))]
    caption = tag("figcaption", tag("dl", *lines), tag("small", view.name(item)))
    return tag("figure", tag("div", *pictures, class_="pair"), caption, class_="card")


def _rows(own: np.ndarray, *columns: np.ndarray) -> list[tuple[Any, ...]]:
    return list(zip(*(column[own].tolist() for column in columns), strict=True))


def _mark(box: Sequence[float], name: str, wrong: bool, dashed: bool = False) -> Mark:
    x1, y1, x2, y2 = box
    return Mark((x1, y1, x2, y2), name if wrong else "", WRONG if wrong else RIGHT, dashed)


def _draw(pixels: torch.Tensor, marks: list[Mark]) -> torch.Tensor:
    return draw_marks(pixels, sorted(marks, key=lambda mark: not mark.text), SIDES, TEXT)  # names on top


def _several(names: Sequence[str]) -> str:
    """Names with how often each is there."""
    counts = {name: list(names).count(name) for name in names}
    return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in counts.items()) or "none"


def _why(seen: Detections, system: System, view: Dataset) -> list[Html]:
    """Where the evidence for the most confident wrong detection is."""
    told = seen.told
    if not told.wrong.any():
        return []
    row = int(np.argmax(np.where(told.wrong, told.found.score, -1)))
    image, box = int(told.found.image[row]), torch.from_numpy(told.found.boxes[row])
    near = (seen.predictions[image].boxes.double() - box).abs().sum(1)
    same = near + 1e9 * (seen.predictions[image].labels != int(told.found.label[row]))
    try:
        pixels = view.image(seen.items[image])
        found = explain(system, pixels, _method(system), object=int(same.argmin()) + 1)
    except (InputError, torch.OutOfMemoryError):  # the image is gone since, or this system has no score
        return []
    if found.box is None or found.target != seen.labels[int(told.found.label[row])]:
        return []
    heat = overlay(small(pixels, SIDES[0]), small(found.heat[None], SIDES[0])[0])
    x1, y1, x2, y2 = (found.box * heat.shape[2] / pixels.shape[2]).tolist()
    shown = draw_marks(heat, [Mark((x1, y1, x2, y2), "", "#ffffff")], SIDES, TEXT)
    plain = draw_marks(
        pixels, [_mark(found.box.tolist(), f"{found.target} {found.probability:.2f}", True)], SIDES, TEXT
    )
    said = (
        f"The most confident wrong detection, a {found.target} with a probability of {found.probability:.2f}, and "
        f"where {found.method} finds the evidence for it: the brighter, the more; grey is none."
    )
    pictures = [
        picture(plain, f"a wrong {found.target}"),
        picture(shown, f"the evidence for this {found.target}, by {found.method}"),
    ]
    caption = tag("figcaption", tag("small", view.name(seen.items[image])))
    card = tag("figure", tag("div", *pictures, class_="pair"), caption, class_="card")
    return [tag("h3", "Why the most confident mistake"), note(said), tag("div", card, class_="cards wide")]


def _method(system: System) -> str:
    """Occlusion, the most faithful, where its many passes are quick; else a method of one pass."""
    if math.prod(system.preprocess.size) <= LARGE:
        return "occlusion"
    try:
        return "gradcam" if system.explained_layer else "saliency"
    except InputError:
        return "saliency"
