"""foveal sample"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveal.cli.common import RunOrName, answer, check_folder, find_system, image_files, parse
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output, make_folder
from foveal.progress import Bar

MOST_FRAMES = 60  # of a film


@dataclass
class Sample(Published):
    """Make new images with a trained system; the same seed makes the same ones.

    Example: foveal sample runs/ddpm --count 16 --out grid.png --seed 1
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    count: int = 16
    """How many images."""
    out: str = "samples.png"
    """An image file, which shows all of them; or a folder, in which each is a file of its own."""
    label: tuple[str, ...] | None = None
    """Class that is asked for, of a system that was trained with --conditional; of several each is asked for --count
    times. Default: all classes in turn."""
    seed: int = 0
    """Where all randomness comes from."""
    steps: int | None = None
    """Steps from noise to image, of a system that takes some; default as many as it was trained with."""
    guidance: float | None = None
    """How strongly the class is insisted on, of a system that can; 1 is as it was learned."""
    solver: str | None = None
    """How a step is made, of a diffusion model: ddpm, ddim, dpm or dpm_sde."""
    trace: str | None = None
    """A GIF file for a film of how the images take shape, of a system that makes them step by step."""
    show: Literal["samples", "reconstruct", "complete", "interpolate", "traverse", "edit"] = "samples"
    """reconstruct: --images, each beside what the system makes of it; complete: their lower half made anew. Of a system
    with a latent space: interpolate, ways from one image to another, of --images or new ones; traverse, one number of
    that space changed in each row; edit, --images with less or more of what those of --having show."""
    images: tuple[str, ...] | None = None
    """Image files or folders, for what --show does with images."""
    having: tuple[str, ...] | None = None
    """Image files or folders that show what --show edit is to add."""
    lacking: tuple[str, ...] | None = None
    """Image files or folders that do not show it."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(Sample, "sample", words)
    if options.count < 1:
        raise InputError(f"count must be at least 1, not {options.count}")
    out = Path(options.out)
    check_folder(out.parent if out.suffix else out)
    if options.trace and Path(options.trace).suffix.lower() != ".gif":
        raise InputError(f"trace must be a file whose name ends in .gif, not {options.trace}")
    inputs = [
        path for names in (options.images, options.having, options.lacking) if names for path in image_files(names)
    ]
    for path in (out, *([Path(options.trace)] if options.trace else [])):
        check_output(path, inputs)
    with Bar(f"loading {options.system}") as bar:
        document, text = _sample(options, out, bar)
    answer(document, options.json, text)


def _sample(options: Sample, out: Path, bar: Bar) -> tuple[dict[str, Any], str]:
    """The result as a document and as text."""
    import torch

    from foveal.data.tiles import tiles, write_film

    system = find_system(options.system, options.weights, device=options.device, **options.loading())
    verb, arguments, columns = _asked(options, system)
    frames: list[torch.Tensor] = []
    # The choices that what is called has; one that it has not would be without effect.
    asked = inspect.signature(verb).parameters
    choices = {name: getattr(options, name) for name in ("steps", "guidance", "solver")}
    arguments |= {name: value for name, value in choices.items() if value is not None}
    for name in [*arguments, *(["trace"] if options.trace else [])]:
        if name not in asked:
            raise InputError(f"{name} has no effect: {system.name} has no such choice when it makes images")
    draw = torch.Generator().manual_seed(options.seed)

    def trace(done: float, images: torch.Tensor) -> None:
        bar.reach(done)
        if options.trace:
            frames.append(tiles(images, columns))

    with torch.inference_mode():
        bar.stage("making images", 1.0 if "trace" in asked else None)
        if "trace" in asked:
            arguments["trace"] = trace
        if "generator" in asked:
            arguments["generator"] = draw
        made = verb(**arguments).cpu()
    bar.stage("writing")
    if options.show in ("reconstruct", "complete"):
        made = torch.stack([arguments["images"].cpu(), made], 1).flatten(0, 1)
    files = _written(out, made, columns)
    if options.trace:
        write_film(options.trace, [*frames[:: max(1, len(frames) // MOST_FRAMES)], tiles(made, columns)])
        files.append(options.trace)
    document = {"system": options.system, "images": len(made), "seed": options.seed, "files": files}
    return document, f"written: {', '.join(files) if len(files) < 4 else out}"


def _asked(options: Sample, system: Any) -> tuple[Callable[..., Any], dict[str, Any], int | None]:
    """What of the system is called, with which arguments, and how many images stand in a row."""
    import torch

    latent = dict.fromkeys(("interpolate", "traverse", "edit"), "render")
    verb = ({"samples": "sample"} | latent).get(options.show, options.show)
    for name in ("having", "lacking"):
        if getattr(options, name) and options.show != "edit":
            raise InputError(f"{name} has no effect without --show edit")
    if not system.can(verb):
        raise InputError(f"{system.name} is a system to {system.task} that cannot {options.show.removesuffix('s')}")
    if verb == "render":
        return _through_latent_space(options, system)
    if options.show == "samples":
        if options.images:
            raise InputError("images have no effect without --show reconstruct, complete, interpolate or edit")
        labels = options.label and [label for label in options.label for _ in range(options.count)]
        arguments: dict[str, Any] = {"labels": labels} if labels else {}
        in_a_row = options.count if labels else None  # a class, a row
        return system.sample, {"n": len(labels or range(options.count)), **arguments}, in_a_row
    if options.label:
        raise InputError(f"label has no effect with --show {options.show}")
    if not options.images:
        raise InputError(f"show {options.show} needs --images")
    images = _given(options.images, system)
    arguments = {"images": images}
    if options.show == "complete":
        known = torch.zeros(images.shape[2:], dtype=torch.bool)
        known[: images.shape[2] // 2] = True
        arguments["known"] = known
    return getattr(system, verb), arguments, 2 * min(4, len(images))


def _through_latent_space(options: Sample, system: Any) -> tuple[Callable[..., Any], dict[str, Any], int]:
    """As `_asked`, for ways through the space that images are rendered from."""
    import torch

    from foveal.generate.latent import COLUMNS, STRENGTHS, editing, interpolation, traversal

    if options.label and len(options.label) > 1:
        raise InputError(f"show {options.show} is of one class, not of {len(options.label)}")
    if options.images and options.show == "traverse":
        raise InputError("images have no effect with --show traverse")
    labels = options.label or system.labels[:1]  # one class, or two things would change at once
    arguments = {"label": labels[0]} if labels else {}
    if options.show == "edit":
        if not (options.images and options.having and options.lacking):
            raise InputError("show edit needs --images, and --having and --lacking for what is to be added to them")
        edited, having, lacking = (_given(names, system) for names in (options.images, options.having, options.lacking))

        def changed(label: str | None = None) -> torch.Tensor:
            return editing(system, edited, having, lacking, label=label).images.flatten(0, 1)

        return changed, arguments, len(STRENGTHS)
    given = system.encode(_given(options.images, system)) if options.images else None
    if given is not None and len(given) < 2:
        raise InputError("show interpolate goes from one of --images to the next: give two or more")

    def shown(generator: torch.Generator, label: str | None = None) -> torch.Tensor:
        if options.show == "traverse":
            point = system.noise(1, system.spec.latent, generator=generator)[0]
            return traversal(system, point, rows=options.count, label=label).images.flatten(0, 1)
        points = given
        if points is None:
            points = system.noise(options.count + 1, system.spec.latent, generator=generator)
        return interpolation(system, points[:-1], points[1:], label=label).images.flatten(0, 1)

    return shown, arguments, COLUMNS


def _given(names: tuple[str, ...], system: Any) -> Any:
    """Images as the system takes them, (B, 3, H, W)."""
    from foveal.data.image import read_image

    return system.preprocess.batch([read_image(path) for path in image_files(names)]).images.to(system.device)


def _written(out: Path, images: Any, columns: int | None) -> list[str]:
    """The files with the images: one, or one for each in a folder."""
    from foveal.data.image import write_image
    from foveal.data.tiles import write_tiles

    if out.suffix:
        make_folder(out.parent)
        write_tiles(out, images, columns)
        return [str(out)]
    make_folder(out)
    paths = [out / f"{number:04}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_image(path, image)
    return [str(path) for path in paths]
