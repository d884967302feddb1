"""Pictures of images: grids with a caption below each, and explanations."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.explain.explanation import Explanation
from foveal.explain.faithfulness import Curves
from foveal.filesystem import make_folder, own_folder, replacing, write_text
from foveal.report.letters import default_font, drawn, font_of, save_numbers, shortened
from foveal.structures import to_float
from foveal.system import resize

MOST_SHOWN = 100  # images in one grid
LINES = 6  # of a caption


def image_grid(images: Sequence[Tensor], captions: Sequence[str], title: str = "") -> Any:
    """A matplotlib figure of images (3, H, W), uint8 or float in [0, 1], in rows, each with its caption."""
    # The object interface, without pyplot: no window, no state shared with a notebook's own figures.
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

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
        font = FontProperties(fname=font_of(caption) or default_font(), size=8)
        axis.set_title(_short(caption), fontproperties=font, parse_math=False)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """A figure as PNG. Raises InputError where it cannot be written."""
    make_folder(path.parent)
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # an empty box says as much
        figure.savefig(file, format="png")


def save_pictures(directory: Path, pictures: Mapping[str, tuple[Tensor, Sequence[str]]]) -> list[Path]:
    """What `System.pictures` shows, the first of each title as one PNG, below `directory`/pictures; the files."""
    paths = []
    for title, (images, captions) in pictures.items():
        paths.append(own_folder(directory, "pictures") / f"{title.replace(' ', '_')}.png")
        shown = title if len(images) <= MOST_SHOWN else f"{title} (the first {MOST_SHOWN} of {len(images):,})"
        save_figure(image_grid(list(images[:MOST_SHOWN]), captions[:MOST_SHOWN], shown), paths[-1])
    return paths


def save_predictions(
    directory: Path, document: Mapping[str, Any], images: Sequence[Tensor], labels: Sequence[str]
) -> None:
    """predictions.json, and predictions.png with the name, class and probability of each of the first images."""
    # A name that is not text, but for a few bytes, stands there as JSON's own escapes.
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_text(make_folder(directory) / "predictions.json", text + "\n")
    if images:
        names = {label: drawn(label, index) for index, label in enumerate(labels)}
        captions = [
            f"{_middle(Path(row['image']).name)}\n{names[row['label']]} {row['score']:.0%}"
            for row in document["predictions"][: len(images)]
        ]
        save_numbers(directory, labels)
        save_figure(image_grid(images, captions), directory / "predictions.png")


def explanation_figure(found: Explanation, curves: Curves) -> Any:
    """A matplotlib figure: the image, the heat over it, and the curves of deletion and insertion beside random ones."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    image, heat = small(to_float(found.image)).permute(1, 2, 0).clamp(0, 1).cpu(), small(found.heat[None])[0]
    height = 0.8 + 3.4 * min(max(image.shape[0] / image.shape[1], 0.85), 1.5)
    figure = Figure(figsize=(12, height), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for axis in (left, middle):
        axis.set_xticks([])
        axis.set_yticks([])
    left.imshow(image.numpy(), interpolation="nearest")
    name = _short(found.target, 32) if font_of(found.target) else "the class"
    this, sure = (name, "") if found.box is None else (f"this {name}", f" ({found.probability:.2f})")
    left.set_title(f"{name}\nprobability {found.probability:.3f}", fontsize=11, parse_math=False)
    middle.imshow(_grey(image).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    colours = ListedColormap(_heat_colours())
    shown = middle.imshow(heat.numpy(), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(shown, ax=(left, middle), fraction=0.03, label="evidence, share of the highest")
    bar.ax.set_facecolor("0.4")
    middle.set_title(f"evidence for {this}{sure}\nby {found.method}", fontsize=11, parse_math=False)
    if found.box is not None:
        x1, y1, x2, y2 = (found.box * image.shape[1] / found.image.shape[-1] - 0.5).tolist()
        for axis in (left, middle):
            for width, colour in ((4, "black"), (2, "white")):  # seen on any ground
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=width, edgecolor=colour))

    figures = curves.figures()
    for kind, colour in (("insertion", "tab:green"), ("deletion", "tab:red")):
        randoms = getattr(curves, f"random_{kind}")
        right.plot(curves.share, getattr(curves, kind), color=colour, linewidth=2, label=f"{kind}: {figures[kind]:.2f}")
        right.fill_between(curves.share, randoms.amin(0), randoms.amax(0), color=colour, alpha=0.12, linewidth=0)
        label = f"random maps: {figures[f'random_{kind}']:.2f}"
        right.plot(curves.share, randoms.mean(0), color=colour, linewidth=1, linestyle="--", label=label)
    right.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="share of the pixels, highest evidence first")
    right.set_ylabel(f"probability of {this}", parse_math=False)
    gain = f"{figures['better_than_random']:+.2f} against random maps"
    right.set_title(f"faithfulness (insertion - deletion)\n{gain}", fontsize=11)
    # Below the axes: the curves may run anywhere in them.
    right.legend(
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        title="area under the curve",
        title_fontsize=8,
    )
    right.grid(alpha=0.3)
    return figure


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """An image (3, H, W) with a heat (H, W) in [0, 1] over it, as in `explanation_figure`: (3, H, W) in [0, 1]."""
    grey = _grey(to_float(image).permute(1, 2, 0).clamp(0, 1).cpu())
    colours = torch.from_numpy(_heat_colours()).to(grey)
    over = colours[(heat.cpu().clamp(0, 1) * (len(colours) - 1)).round().long()]  # (H, W, 4)
    return (over[..., :3] * over[..., 3:] + grey[..., None] * (1 - over[..., 3:])).permute(2, 0, 1)


def _grey(image: Tensor) -> Tensor:
    """(H, W, 3) -> (H, W), darker, so that colours are those of what is laid over it."""
    return 0.8 * (image @ image.new_tensor([0.299, 0.587, 0.114]))


def _heat_colours() -> np.ndarray:
    """(256, 4): a colour for each heat; where there is no evidence it lets all of the image through."""
    from matplotlib import colormaps

    part = np.linspace(0, 1, 256)
    colours = colormaps["inferno"](part)
    colours[:, 3] = 0.75 * (1 - (1 - part) ** 2)
    return colours


def save_explanation(path: Path, found: Explanation, curves: Curves) -> list[Path]:
    """The figure as PNG and the raw map beside it as .npy; both files. Raises InputError where one is not writable."""
    save_figure(explanation_figure(found, curves), path)
    raw = path.with_suffix(".npy")
    with replacing(raw) as file:
        np.save(file, found.map.numpy())
    return [path, raw]


def small(image: Tensor, side: int = 640) -> Tensor:
    """(C, H, W), no larger than can be seen in a figure."""
    scale = side / max(image.shape[-2:])
    height, width = (max(1, round(scale * n)) for n in image.shape[-2:])
    return image if scale >= 1 else resize(image, (height, width))


def _middle(name: str, width: int = 22) -> str:
    """A file's name without its middle where it is too long: both ends tell images of a series apart."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _short(caption: str, width: int = 22) -> str:
    caption = caption.encode("utf-8", "backslashreplace").decode()  # a file's name need not be text
    lines = caption.split("\n", LINES)
    return "\n".join(shortened(line, width) for line in [*lines[:LINES], *["…"] * (len(lines) > LINES)])
