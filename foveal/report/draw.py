"""Pictures of images: grids with a caption below each."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from foveal.errors import InputError
from foveal.structures import to_float


def image_grid(images: Sequence[Tensor], captions: Sequence[str], title: str = "") -> Any:
    """A matplotlib figure of images (3, H, W), uint8 or float in [0, 1], in rows, each with its caption."""
    # The object interface, without pyplot: no window, no state shared with a notebook's own figures.
    from matplotlib.figure import Figure

    columns = min(len(images), max(4, math.ceil(math.sqrt(2 * len(images)))))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + (0.4 if title else 0)), dpi=150, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, caption in zip(axes, images, captions, strict=False):
        axis.imshow(to_float(image).permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
        axis.set_title(_short(caption), fontsize=8, parse_math=False)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """A figure as PNG. Raises InputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # an empty box says as much
            figure.savefig(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def save_pictures(directory: Path, pictures: Mapping[str, tuple[Tensor, Sequence[str]]]) -> list[Path]:
    """What `System.pictures` shows, one PNG a title, below `directory`/pictures; the files."""
    paths = []
    for title, (images, captions) in pictures.items():
        paths.append(directory / "pictures" / f"{title.replace(' ', '_')}.png")
        save_figure(image_grid(list(images), captions, title), paths[-1])
    return paths


def save_predictions(directory: Path, document: Mapping[str, Any], images: Sequence[Tensor]) -> None:
    """predictions.json, and predictions.png with the class and probability of each of the images, the first ones."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # A name that is not text, but for a few bytes, stands there as JSON's own escapes.
        (directory / "predictions.json").write_text(text + "\n", "utf-8", "backslashreplace")
    except OSError as error:
        raise InputError(f"cannot write {directory / 'predictions.json'}: {error.strerror}") from None
    if images:
        captions = [f"{row['label']}\n{row['score']:.0%}" for row in document["predictions"]]
        save_figure(image_grid(images, captions), directory / "predictions.png")


def _short(caption: str, width: int = 22) -> str:
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in caption.split("\n"))
