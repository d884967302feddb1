"""The page of `foveal check --out`: pictures of labels that are probably wrong."""

from pathlib import Path

import foveal
from foveal.data.dataset import Dataset
from foveal.data.findings import IMPLAUSIBLE, Findings
from foveal.data.image import ImageError
from foveal.data.suspects import Suspect, crop
from foveal.filesystem import make_folder, write_text
from foveal.report.draw import small
from foveal.report.html import page
from foveal.report.parts import Html, join, note, picture, tag
from foveal.wording import counted

NAME = "suspects.html"
MOST = 500  # suspects with a picture
SIDE = 160  # pixels of a picture


def write_suspects(folder: Path, dataset: Dataset, found: Findings) -> Path:
    """Write suspects.html into a folder, which is created if need be; the file.

    Raises InputError where the file cannot be written.
    """
    suspects = found.suspects
    heading = [
        tag("h1", "Implausible labels", tag("small", " in ", dataset.source)),
        tag("p", f"{counted(len(suspects), 'suspect')} · {counted(found.faults, 'fault')} in all"),
    ]
    notes = tag("ul", *(tag("li", line) for line in found.notes)) if found.notes else note("None.")
    sections = [("Suspects", _suspects(dataset, suspects)), ("Notes", notes)]
    make_folder(folder)
    write_text(
        folder / NAME, page(f"{IMPLAUSIBLE}s in {dataset.source}: foveal check", heading, sections, foveal.__version__)
    )
    return folder / NAME


def _suspects(dataset: Dataset, suspects: list[Suspect]) -> Html:
    if not suspects:
        return note("No label is suspect. The notes below name the labels that were not judged.")
    first = (
        "The most probably wrong label comes first. Probabilities are those of a classifier that was trained on other "
        "images. A suspect may be right and its image hard: look at it before you change the label."
    )
    if len(suspects) > MOST:
        first += f" The first {MOST} of {len(suspects):,} are shown; foveal check --json lists all."
    cards = [_card(dataset, rank, one) for rank, one in enumerate(suspects[:MOST], 1)]
    return join([note(first), tag("div", *cards, class_="cards suspects")])


def _card(dataset: Dataset, rank: int, one: Suspect) -> Html:
    try:
        image = dataset.image(one.index)
        image = image if one.box is None else crop(image, one.box)
        shown = picture(small(image, SIDE), f"labelled {one.label}")
    except ImageError as error:  # the file is gone since
        shown = note(f"not available: {error}")
    classes = [
        tag("div", tag("dt", what), tag("dd", name), tag("dd", f"{probability:.2f}", class_="number"))
        for what, name, probability in (("label", one.label, one.of_label), ("looks like", one.other, one.probability))
    ]
    which = f"{rank}. {one.name}" + ("" if one.object is None else f", object {one.object}")
    return tag("figure", shown, tag("figcaption", tag("dl", *classes), tag("small", which)), class_="card")
