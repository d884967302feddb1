"""What a report says of activations and gradients by depth: those of the run's weights beside those of a start."""

from math import isfinite

import torch

from foveal.build import create
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.explain.depth import Signal, signals
from foveal.report.curves import chart
from foveal.report.parts import Html, join, note, number, table, tag
from foveal.system import System
from foveal.train.evaluate import evaluation_loader

MOST_IMAGES = 16


def section(system: System, view: Dataset, seed: int, workers: int | None) -> Html:
    """Charts of the deviations by layer and a table of all figures, for the first images of a view.

    seed: of the untrained system that stands beside this one, where the catalog has it.
    """
    loader = evaluation_loader(system, view, MOST_IMAGES, workers)
    batch = next(iter(loader.epoch()), None)
    if batch is None:
        raise InputError(f"{view.source}: not one image can be read")
    states = {"trained": signals(system, batch)}
    if system.name is not None:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            start = create(system.name, labels=system.labels or None, **system.variant).to(system.device)
        states = {"untrained": signals(start, batch), **states}
    finite = all(isfinite(one.std) and isfinite(one.gradient_std) for found in states.values() for one in found)
    told = (
        f"Standard deviations of what each layer with weights gives to {len(batch)} images, and of the gradient of the "
        "loss with respect to it, as in training. Where they fade or grow from layer to layer, early layers learn "
        "little, or numbers overflow."
    )
    drawn = [_chart("activations", states, "std"), _chart("gradients", states, "gradient_std")] if finite else []
    rows = [
        (one.layer, one.kind, state, *map(number, (one.mean, one.std, one.zeros, one.gradient_mean, one.gradient_std)))
        for layer in zip(*states.values(), strict=True)
        for state, one in zip(states, layer, strict=True)
    ]
    heads = ("layer", "type", "weights", "mean", "deviation", "zeros", "mean gradient", "deviation")
    whole = table(heads, rows, title="Signals by depth", numbers=range(3, 8))
    folded = tag("details", tag("summary", f"Layers: {len(states['trained'])}"), whole)
    return join([note(told), tag("div", *drawn, class_="charts"), folded])


def _chart(name: str, states: dict[str, list[Signal]], figure: str) -> Html:
    lines = {
        state: [(n, float(getattr(one, figure))) for n, one in enumerate(found, 1)] for state, found in states.items()
    }
    return chart(name, lines, None, "layer")
