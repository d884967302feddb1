"""foveal explain"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from foveal.cli.common import RunOrName, answer, check_folder, find_system, one_line, parse, table
from foveal.cli.weights import Published
from foveal.errors import InputError
from foveal.filesystem import check_output
from foveal.progress import Bar

if TYPE_CHECKING:
    from foveal.explain.method import Method


@dataclass
class Explain(Published):
    """Show where in an image a system sees the evidence for a class or an object, and test whether it is there.

    Example: foveal explain runs/digits photo.png --method gradcam --out why.png

    The picture has the image, the map over it, and how the class's probability falls when pixels are deleted in the
    order of the map, and rises when they are inserted, beside the same for random maps.
    """

    system: RunOrName
    """A run or checkpoint; or a system's name, with --weights."""
    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """An image file."""
    method: str = "occlusion"
    """occlusion, which takes any system and is the most faithful of them, gradcam or saliency."""
    target: str | None = None
    """The class to explain; default the one that predict names. Of a detector, its most confident object of it."""
    object: int | None = None
    """Of a detector: which of the objects that it finds, or finds of the target; default 1, the most confident."""
    out: str = "explanation.png"
    """The picture, a PNG file; the map itself, with its sign, is written beside it as .npy."""
    steps: int | None = None
    """Number of steps in which pixels are deleted and inserted; default 32, for an object 6. Fewer are faster."""
    device: str | None = None
    """cpu, cuda, mps; default the best there is."""
    json: bool = False
    """One JSON document on stdout."""


def with_settings(methods: Mapping[str, "Method"]) -> type[Explain]:
    """The options, with the settings of all methods as further ones."""
    fields: dict[str, Any] = {}
    annotated: Any = Annotated  # with types that are only known here
    for name, method in methods.items():
        for setting, parameter in method.settings.items():
            text = f"For {name}: {method.help(setting)}"
            kind = annotated[parameter.annotation | None, tyro.conf.arg(help=text)]
            fields.setdefault(setting, (setting, kind, field(default=None, kw_only=True)))
    made = make_dataclass(Explain.__name__, list(fields.values()), bases=(Explain,))
    made.__doc__ = Explain.__doc__
    return made


def run(words: list[str]) -> None:
    from foveal.data.image import read_image
    from foveal.explain.explanation import METHODS, explain, find_method
    from foveal.report.draw import save_explanation

    options = parse(with_settings(METHODS), "explain", words)
    names = dict.fromkeys(name for method in METHODS.values() for name in method.settings)
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    find_method(options.method, settings)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise InputError(f"the picture is a PNG file: --out has to end in .png, not {out.name!r}")
    check_folder(out.parent)
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"steps must be at least 1, not {options.steps}")
    for path in (out, out.with_suffix(".npy")):
        check_output(path, [Path(options.image)])
    image = read_image(options.image)
    system = find_system(options.system, options.weights, device=options.device, **options.loading())
    with Bar(f"explaining {options.image}") as bar:
        found = explain(system, image, options.method, options.target, options.object, bar, **settings)
        curves = found.curves(options.steps, bar=bar)
    if found.empty:
        print(f"foveal: {one_line(found.empty)}", file=sys.stderr)
    files = [str(path) for path in save_explanation(out, found, curves)]
    figures = curves.figures()
    document = {
        "system": options.system,
        "image": options.image,
        "method": found.method,
        "target": found.target,
        "score": found.score,
        "probability": found.probability,
        **({} if found.box is None else {"box": found.box.tolist()}),
        "map": list(found.map.shape),
        "empty": found.empty,
        "faithfulness": figures,
        "files": files,
    }
    rows = [("class", found.target), ("probability", f"{found.probability:.3f}"), ("score", f"{found.score:.3f}")]
    if found.box is not None:
        rows.append(("box", ", ".join(f"{value:.1f}" for value in found.box.tolist())))
    rows += [(name.replace("_", " "), f"{value:.3f}") for name, value in figures.items()]
    text = table(("explanation", found.method), [("method", found.method), *rows])
    answer(document, options.json, f"{text}\nwritten: {' and '.join(files)}")
