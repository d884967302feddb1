"""Learning curves, as small drawings that take their colours from the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from foveal.report.parts import Html, join, number, tag

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 10, 176  # edges of the plot itself; the rest is for numbers
MOST_POINTS = 400  # of one line
MOST_FIGURES = 3  # that only the validation has and that are seen at once
DECADES = 2  # between the least and the largest loss, from which on the axis is logarithmic

Points = list[tuple[int, float]]


def curves(history: Sequence[Mapping[str, Any]], best: int | None) -> Html:
    """One chart for each figure, with a line for each split, and one for the learning rate.

    history: a record for each epoch, as in metrics.jsonl; best: the epoch to mark.
    """
    series: dict[str, dict[str, Points]] = {"loss": {}}
    for record in history:
        for split in ("train", "val"):
            values = record[split]
            alone = len(values) == 2 and "loss" in values  # a sum of one term need not be drawn twice
            for name, value in values.items():
                if (name == "loss" or split == "val" or not alone) and math.isfinite(value):
                    series.setdefault(name, {}).setdefault(split, []).append((record["epoch"], value))
        if record["lr"] is not None:
            series.setdefault("learning rate", {}).setdefault("lr", []).append((record["epoch"], record["lr"]))
    # Figures of the validation first, then what only the training has; the learning rate goes last.
    names = sorted(series, key=lambda name: (name == "learning rate", "val" not in series[name]))
    names = [name for name in names if series[name]]
    folded = [name for name in names if series[name].keys() == {"val"}][MOST_FIGURES:]
    drawn, more = (
        tag("div", *(chart(name, series[name], best) for name in names if (name in folded) == fold), class_="charts")
        for fold in (False, True)
    )
    return join([drawn, tag("details", tag("summary", f"More figures: {len(folded)}"), more)]) if folded else drawn


def chart(name: str, lines: Mapping[str, Points], best: int | None, along: str = "epoch") -> Html:
    """A figure over the epochs, or whatever `along` counts: a line of (epoch, value) for each split."""
    from matplotlib.ticker import MaxNLocator

    values = [value for points in lines.values() for _, value in points]
    epochs = [epoch for points in lines.values() for epoch, _ in points]
    low, high = min(values), max(values)
    logarithmic = low > 0 and math.log10(high / low) > DECADES
    if logarithmic:
        ticks = [10.0**n for n in range(max(-300, math.floor(math.log10(low))), math.ceil(math.log10(high)) + 1)]
    else:
        low, high = (low, high) if low < high else (min(low, 0.0), max(high, 0.0) or 1.0)
        ticks = list(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    first, last = min(epochs), max(epochs)

    def x(epoch: float) -> float:
        return LEFT + (RIGHT - LEFT) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        bottom, top, at = (math.log10(v) if logarithmic else v for v in (ticks[0], ticks[-1], value))
        return BOTTOM - (BOTTOM - TOP) * (at - bottom) / (top - bottom)

    numbers = [f"{tick:.6g}" for tick in ticks]
    if not logarithmic and not any("e" in text for text in numbers):
        decimals = max(len(text.partition(".")[2]) for text in numbers)
        numbers = [f"{tick:.{decimals}f}" for tick in ticks]
    drawn = [tag("text", along, x=LEFT - 6, y=HEIGHT - 8, text_anchor="end")]
    for tick, shown in zip(ticks, numbers, strict=True):
        drawn.append(tag("line", x1=LEFT, x2=RIGHT, y1=f"{y(tick):.1f}", y2=f"{y(tick):.1f}", class_="grid"))
        drawn.append(tag("text", shown, x=LEFT - 6, y=f"{y(tick) + 4:.1f}", text_anchor="end"))
    whole = MaxNLocator(6, integer=True, min_n_ticks=1).tick_values(first, last)
    for tick in [tick for tick in whole if first <= tick <= last]:
        drawn.append(tag("text", f"{tick:.0f}", x=f"{x(tick):.1f}", y=HEIGHT - 8, text_anchor="middle"))
    if best is not None:
        drawn.append(tag("line", x1=f"{x(best):.1f}", x2=f"{x(best):.1f}", y1=TOP, y2=BOTTOM, class_="best"))
    keys, said = [], []
    for split, points in lines.items():
        path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in thinned(points))
        drawn.append(tag("polyline", points=path, class_=split))
        marked = dict(points).get(best) if best is not None else None
        if marked is not None:
            drawn.append(tag("circle", cx=f"{x(best or 0):.1f}", cy=f"{y(marked):.1f}", r=3.5, class_=split))
        shown = number(points[-1][1] if marked is None else marked)
        keys.append(tag("span", f"{split} ", tag("b", shown), class_=split))
        said.append(f"{split} from {number(points[0][1])} to {number(points[-1][1])}")
    label = f"{name} over {len(set(epochs))} {along}s: {', '.join(said)}"
    scale = [tag("small", " log scale")] if logarithmic else []
    caption = tag("figcaption", tag("b", name.replace("_", " "), *scale), tag("span", *keys, class_="keys"))
    drawing = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    return tag("figure", caption, drawing, class_="chart")


def thinned(points: Points) -> Points:
    """At most MOST_POINTS points that still show each peak: the lowest and the highest of each stretch."""
    if len(points) <= MOST_POINTS:
        return points
    length = math.ceil(2 * len(points) / MOST_POINTS)
    stretches = [points[start : start + length] for start in range(0, len(points), length)]
    return [
        point for part in stretches for point in sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    ]
