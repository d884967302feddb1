"""What a report says of a system that makes images: what it makes, and what a judge says of it."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foveal.data.dataset import Dataset
from foveal.data.image import read_image
from foveal.data.tiles import tiles
from foveal.errors import InputError
from foveal.report.parts import Html, join, note, number, picture, table, tag
from foveal.system import System, evaluating
from foveal.train.directory import SAMPLE
from foveal.train.evaluate import evaluation_loader, judged, measure

SHOWN = 16  # images
MEASURED = 256  # images that are made to be judged
SECONDS = 120.0  # that making them may take
SAID = {
    "loss": "The sum of the terms above, which training lowers.",
    "noise": "Mean square of what the network's answer is off the noise that was added.",
    "nll": "-ln p(image), an exact one, over the channels of its pixels.",
    "reconstruction": "How far what the system remembers of an image is off it.",
    "kl": "What the codes of images tell beyond those of new ones.",
    "commitment": "How far codes are off the vectors that they stand for.",
    "codebook": "The same, as it moves the codes.",
    "discriminator_real": "How far real images are from seeming real to it.",
    "discriminator_fake": "How far made images are from seeming made to it.",
    "discriminator_penalty": "On the slope of what it says.",
    "discriminator_loss": "The sum of these, which the discriminator lowers.",
    "generator_fool": "How far made images are from seeming real to the discriminator.",
    "generator_loss": "The same, which the generator lowers.",
    "bits_per_dim": "What it takes to write down a channel of a pixel by the probabilities that the system gives.",
    "perplexity": "How many codes there would be if all were used alike.",
    "frechet": "Distance of the judge's features of made and real images; less is better, for one number of images.",
    "precision": "Share of the made images that lie among the real ones.",
    "recall": "Share of the real images that lie among the made ones.",
    "diversity": "How evenly the judge's answers spread over its classes; 1 is evenly.",
    "agreement": "Mean probability that the judge gives to the class that was asked for.",
}


def sections(system: System, view: Dataset, batch_size: int, workers: int | None) -> list[tuple[str, Html]]:
    """Images that it makes or, where it makes none, how it remembers some; and figures of them."""
    shown, seconds = _images(system, view, workers)
    measured = replace(view, items=_first(view, MEASURED))
    loader = evaluation_loader(system, measured, batch_size, workers)
    affordable = seconds * len(measured) / SHOWN < SECONDS
    figures = measure(system, loader, evaluators=judged(system, measured) if affordable else None).values
    rows = [(name.replace("_", " "), number(value), SAID.get(name, "")) for name, value in figures.items()]
    parts = [table(("figure", "value", "what it is"), rows, title="Figures", numbers=(1,))]
    if not affordable:
        told = f"To make as many images as are judged would take {seconds * len(measured) / SHOWN:.0f} seconds here; "
        parts.append(note(told + "foveal evaluate does it."))
    return [("Images", shown), ("Figures", join(parts))]


def over_time(directory: Path) -> list[tuple[str, Html]]:
    """The samples that a run has left on its way, as a section; none where there are none."""
    cards = []
    for path in sorted((directory / "samples").glob("epoch-*.png")):
        name = SAMPLE.fullmatch(path.name)
        if not name or path.is_symlink():
            continue
        epoch = int(name[1])
        try:
            drawn = picture(read_image(path), f"what the system made after epoch {epoch}")
        except InputError as error:
            drawn = note(f"Not available: {error}")
        cards.append(tag("figure", drawn, tag("figcaption", f"epoch {epoch}"), class_="card"))
    if not cards:
        return []
    said = note("What the system made on its way, from the same random numbers each time.")
    return [("Samples over time", join([said, tag("div", *cards, class_="cards")]))]


def _images(system: System, view: Dataset, workers: int | None) -> tuple[Html, float]:
    """A grid, and the seconds that it took to make it."""
    started = time.perf_counter()
    with evaluating(system):
        if system.can("sample"):
            images = system.sample(SHOWN, generator=torch.Generator().manual_seed(0))
            said = "Made from random numbers of seed 0"
            said += "; classes take turns." if system.labels else "."
        else:
            batch = next(iter(evaluation_loader(system, view, SHOWN, workers).epoch())).to(system.device).float()
            images = torch.stack([batch.images, system.reconstruct(batch.images)], 1).flatten(0, 1)  # type: ignore
            said = "Each image beside what the system remembers of it."
    seconds = time.perf_counter() - started
    return join([note(said), picture(tiles(images, 8), "images that the system makes")]), seconds


def _first(view: Dataset, count: int) -> np.ndarray:
    """The first images of a view, by their places."""
    items = np.arange(len(view.images)) if view.items is None else view.items
    return items[:count]
