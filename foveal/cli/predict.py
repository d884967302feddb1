"""foveal predict"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from foveal.cli.common import RunOrName, answer, check_folder, find_system, image_files, parse, table
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output
from foveal.progress import Bar


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
    """Probability from which on an object is listed; default 0.5."""
    line_width: int | None = None
    """Of boxes in the pictures, in pixels; default one that suits the picture."""
    labels: Literal["scores", "names", "none"] | None = None
    """What the pictures write at each object: its class and probability (the default), its class, or nothing."""
    plan: Literal["eager", "auto"] = "eager"
    """auto: measure the ways to run this system here, and take the fastest; for many images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: let that plan take it too, which keeps two or three digits of a probability."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    memory: Literal["check", "ignore"] = "check"
    """check: refuse to start where the memory that is estimated is not there; ignore: start all the same."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> int:
    options = parse(Predict, "predict", words)
    with Bar(f"loading {options.system}") as bar:
        return _predict(options, bar)


def _predict(options: Predict, bar: Bar) -> int:
    from foveal.data.image import ImageError, read_image
    from foveal.memory import check_answering
    from foveal.report.answers import answers
    from foveal.report.boxes import Style
    from foveal.report.draw import MOST_SHOWN
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
    drawn = options.line_width is not None or options.labels is not None
    style = Style(options.line_width, options.labels or "scores") if drawn else None
    output = answers(system, folder, {"top": options.top, "threshold": options.threshold}, style)
    if options.memory == "check":
        for line in check_answering(system, 1):
            bar.say(f"foveal: {line}")
    if options.plan == "auto":
        bar.stage("measuring the ways to run it")
        from foveal.accelerate import accelerate

        accelerated = accelerate(system, 1, options.precision)
        system = accelerated.system
        bar.say(f"foveal: {accelerated}")
    predictions, unreadable = list[dict[str, Any]](), dict[str, str]()
    with stop_requests() as stop:
        for path in bar.track(paths, "predicting", len(paths)):
            if stop.requested:
                break
            try:
                image = read_image(path)
            except ImageError as error:
                unreadable[str(path)] = str(error)
                bar.say(f"foveal: {error}")
                continue
            predictions.append(output.take(str(path), image, system.predict([image])[0]))
        document = {"system": options.system, "predictions": predictions, "unreadable": unreadable}
        bar.stage("writing")
        try:
            output.save(document)  # first, for whoever reads the answers may leave early
            if folder and len(predictions) > MOST_SHOWN:
                note = f"the first {MOST_SHOWN} of {len(predictions):,} images have pictures; predictions.json has all"
                bar.say(f"foveal: {folder}: {note}")
        finally:
            bar.close()
            answer(document, options.json, table(output.headings, [output.row(entry) for entry in predictions]))
        if stop.requested:
            done = len(predictions) + len(unreadable)
            raise KeyboardInterrupt(f"stopped after {done} of {len(paths)} images, whose answers are here")
    return 2 if unreadable else 0
