"""foveal predict"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from foveal.cli.common import RunOrName, answer, check_folder, find_system, one_line, parse, table
from foveal.errors import InputError

PICTURES = 100  # more would be too small to see, and too much to hold


@dataclass
class Predict:
    """Name what images show, most probable class first.

    Example: foveal predict runs/digits photos/*.jpg --out predictions
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of them."""
    out: str | None = None
    """Folder for predictions.json and a picture of the images, the first 100, with their classes."""
    weights: str | None = None
    """Published weights for a system given by its name."""
    top: int = 3
    """How many classes to name."""
    plan: Literal["eager", "auto"] = "eager"
    """auto: measure the ways to run this system here, and take the fastest; for many images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: let that plan take it too, which keeps two or three digits of a probability."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> int:
    options = parse(Predict, "predict", words)
    from torch import Tensor

    from foveal.data.image import ImageError, read_image

    if options.top < 1:
        raise InputError(f"top must be at least 1, not {options.top}")
    paths = _image_files(options.images)
    if options.precision != "float32" and options.plan == "eager":
        raise InputError(f"precision {options.precision} has no effect without --plan auto")
    if not any(path.exists() for path in paths):
        raise InputError(f"there is no image {paths[0]}")
    if options.out:
        check_folder(Path(options.out))
    system = find_system(options.system, options.weights, device=options.device)
    if options.plan == "auto":
        from foveal.accelerate import accelerate

        accelerated = accelerate(system, 1, options.precision)
        system = accelerated.system
        print(f"foveal: {accelerated}", file=sys.stderr)
    predictions, unreadable, pictures = [], {}, list[Tensor]()
    for path in paths:
        try:
            image = read_image(path)
        except ImageError as error:
            unreadable[str(path)] = str(error)
            print(f"foveal: {one_line(str(error))}", file=sys.stderr)
            continue
        best = system.predict([image])[0].top(system.labels, options.top)
        top = [{"label": label, "score": score} for label, score in best]
        predictions.append({"image": str(path), **top[0], "top": top})
        if options.out and len(pictures) < PICTURES:
            pictures.append(image)
    document = {"system": options.system, "predictions": predictions, "unreadable": unreadable}
    rows = [
        (p["image"], p["label"], f"{p['score']:.3f}", ", ".join(f"{t['label']} {t['score']:.3f}" for t in p["top"][1:]))
        for p in predictions
    ]
    answer(document, options.json, table(("image", "class", "probability", "next"), rows))
    if options.out:
        from foveal.report.draw import save_predictions

        save_predictions(Path(options.out), document, pictures)
    return 2 if unreadable else 0


def _image_files(names: tuple[str, ...]) -> list[Path]:
    """The files that the arguments name; those of a folder in order of name."""
    from foveal.data.sources import image_files

    if not all(names):
        raise InputError("the name of an image is empty")
    files = []
    for path in map(Path, names):
        if path.is_dir():
            inside = image_files(path)
            if not inside:
                raise InputError(f"{path} has no images in it")
            files += [path / name for name in inside]
        else:  # or nothing, which reading it will tell: the others can be answered
            files.append(path)
    if not files:
        raise InputError("no image given: foveal predict RUN IMAGE...")
    return files
