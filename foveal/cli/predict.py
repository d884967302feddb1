"""foveal predict"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from foveal.cli.common import RunOrName, answer, check_folder, find_system, image_files, one_line, parse, table
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output


@dataclass
class Predict(Published):
    """Say what images show: the class of each, most probable first, or the objects in it with their boxes.

    Example: foveal predict runs/digits photos/*.jpg --out predictions
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of them."""
    out: str | None = None
    """Folder for predictions.json and pictures: the first 100 images with their classes, or with their objects; of
    objects the file is in COCO's form of results, and holds those below the threshold too; image_info.json lists the
    images and classes by their ids."""
    top: int | None = None
    """How many classes of an image to name; default 3."""
    threshold: float | None = None
    """Probability from which on an object is told; default 0.5."""
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
    from foveal.data.image import ImageError, read_image
    from foveal.report.answers import answers
    from foveal.train.stopping import stop_requests

    paths = image_files(options.images)
    if options.precision != "float32" and options.plan == "eager":
        raise InputError(f"precision {options.precision} has no effect without --plan auto")
    if not any(path.exists() for path in paths):
        raise InputError(f"there is no image {paths[0]}")
    if options.out:
        check_folder(Path(options.out))
        named = [path for path in map(Path, options.images) if path.is_dir()]
        check_output(options.out, dict.fromkeys([*named, *(path.parent for path in paths)]))
    system = find_system(options.system, options.weights, device=options.device, **options.loading())
    folder = Path(options.out) if options.out else None
    told = answers(system, folder, {"top": options.top, "threshold": options.threshold})
    if options.plan == "auto":
        from foveal.accelerate import accelerate

        accelerated = accelerate(system, 1, options.precision)
        system = accelerated.system
        print(f"foveal: {accelerated}", file=sys.stderr)
    predictions, unreadable = list[dict[str, Any]](), dict[str, str]()
    with stop_requests() as stop:
        for path in paths:
            if stop.requested:
                break
            try:
                image = read_image(path)
            except ImageError as error:
                unreadable[str(path)] = str(error)
                print(f"foveal: {one_line(str(error))}", file=sys.stderr)
                continue
            predictions.append(told.take(str(path), image, system.predict([image])[0]))
    document = {"system": options.system, "predictions": predictions, "unreadable": unreadable}
    try:
        told.save(document)  # first, for whoever reads the answers may leave early
    finally:
        answer(document, options.json, table(told.headings, [told.row(entry) for entry in predictions]))
    if stop.requested:
        done = len(predictions) + len(unreadable)
        raise KeyboardInterrupt(f"stopped after {done} of {len(paths)} images, whose answers are here")
    return 2 if unreadable else 0
