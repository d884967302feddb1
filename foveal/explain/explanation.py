"""The verb `explain` and what it gives."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveal.errors import InputError, nearest
from foveal.explain.faithfulness import Curves, measure
from foveal.explain.gradcam import GRADCAM
from foveal.explain.method import Method
from foveal.explain.occlusion import OCCLUSION
from foveal.explain.place import fields, on_image, on_prepared, parts
from foveal.explain.saliency import SALIENCY
from foveal.nn.fold import fold_batch_norm
from foveal.progress import SILENT, Silent
from foveal.structures import Batch
from foveal.system import System, evaluating
from foveal.task import Task, registered

METHODS: dict[str, Method] = {"gradcam": GRADCAM, "occlusion": OCCLUSION, "saliency": SALIENCY}
CURVES, OBJECT_CURVES = (32, 5), (6, 2)  # steps and random maps of a class; and of an object, whose passes are slow


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the evidence for a class, or for one detected object, is.

    method:      name of the method.
    target:      name of the class.
    score:       of the target: what the method differentiates or perturbs; of a class before any softmax.
    probability: of the target, as `predict` gives it.
    box:         (4,) of the object, x1, y1, x2, y2 in pixels of the image; None where the target is a class.
    map:         (h, w), what the method found on the prepared image, with its sign, in the method's own resolution.
    place:       (2, 3) float64, from coordinates of the map to pixels of the prepared image, unit (0, 0) being the
                 square from (0, 0) to (1, 1).
    empty:       why the map shows no place, in a sentence; None where it shows one.
    heat:        (H, W) in [0, 1], on the pixels of the image itself: what is positive in the map, as a share of the
                 highest value; zero where the preparation cut the image.
    image:       (3, H, W), as it was given.
    """

    method: str
    target: str
    score: float
    probability: float
    map: Tensor
    place: Tensor
    heat: Tensor
    image: Tensor = field(repr=False)
    system: System = field(repr=False)
    aim: Any = field(repr=False)  # the target as `System.score` takes it
    box: Tensor | None = None
    empty: str | None = None

    def curves(
        self, steps: int | None = None, randoms: int | None = None, seed: int = 0, bar: Silent = SILENT
    ) -> Curves:
        """How the target's probability falls and rises as pixels go and come in the order of the map.

        steps, randoms: default 32 and 5 for a class, 6 and 2 for an object.
        bar:            gets the progress.
        """
        batch = _prepared(self.system, self.image)
        seen = on_prepared(self.map, self.place, _size(batch))
        usual = CURVES if self.box is None else OBJECT_CURVES
        steps, randoms = (d if own is None else own for own, d in zip((steps, randoms), usual, strict=True))
        system = _quick(self.system, batch, self.box)
        return measure(system, batch, self.aim, seen, steps=steps, randoms=randoms, seed=seed, bar=bar)

    def faithfulness(self, steps: int | None = None, randoms: int | None = None, seed: int = 0) -> dict[str, float]:
        """Deletion, insertion, both of random maps in the mean, and by how much the map is `better_than_random`."""
        return self.curves(steps, randoms, seed).figures()


def explain(
    system: System,
    image: Tensor,
    method: str | Method | Callable[..., Tensor] = "occlusion",
    target: str | None = None,
    object: int | None = None,
    bar: Silent = SILENT,
    **settings: Any,
) -> Explanation:
    """Where in an image (3, H, W), uint8 or float in [0, 1], of any size, the evidence is for a class or, where the
    system detects, for one of the objects that it finds.

    method:   "occlusion", which takes any system and is the most faithful of them, "gradcam" or "saliency"; or one of
              your own, a `Method` or its function.
    target:   name of the class; default the one that `system.predict` names. Of a detector: only objects of this class.
    object:   which of the objects that `system.predict` finds; default 1, the most confident.
    bar:      gets the progress of a method that takes long.
    settings: of the method: `layer` of gradcam; `window`, `stride` and `baseline` of occlusion.

    Raises InputError for a method, class, setting or image that does not fit, a system that cannot be explained so, or
    an object that is not found.
    """
    how = find_method(method, settings)
    layer = _layer(system, how, settings)
    if layer is not None:
        settings = {**settings, "layer": layer}
    _check(image)
    batch = _prepared(system, image)
    find = Task.of(system).aim
    if find is None:
        able = " and ".join(f"to {task.name}" for task in registered() if task.aim)
        raise InputError(f"{_name(system)} is a system to {system.task}; explanations are of systems {able}")
    aim = find(system, system.predict([image])[0], batch, target, object)
    looked_at = _quick(system, batch, aim.box) if how.many_passes else system
    progress = {"bar": bar} if how.shows_progress else {}
    found = how.function(looked_at, batch.images, aim.target, **settings, **progress)[0].detach().cpu()
    if not torch.isfinite(found).all():
        raise InputError(f"{_name(system)} cannot be explained: its scores are not finite")
    with evaluating(system):
        score = float(system.score(batch.images, aim.target))
    size, units = _size(batch), (found.shape[0], found.shape[1])
    place = parts(units, size) if layer is None else fields(system, layer, units, size)
    height, width = image.shape[-2:]
    heat = on_image(
        on_prepared(found.clamp(min=0), place, size), system.preprocess.affine(height, width), (height, width)
    )
    return Explanation(
        method=method if isinstance(method, str) else how.function.__name__,
        target=aim.name,
        score=score,
        probability=aim.probability,
        map=found,
        place=place,
        heat=(heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).to(found),
        image=image,
        system=system,
        aim=aim.target,
        box=aim.box,
        empty=_empty(found, score, aim.name, how),
    )


def _quick(system: System, batch: Batch, box: Tensor | None) -> System:
    """The system for many passes: a detector with its batch norms folded into its convolutions."""
    return system if box is None else fold_batch_norm(system, batch.images)


def _empty(map: Tensor, score: float, name: str, method: Method) -> str | None:
    """Why a map shows no place where the evidence is; None where it shows one."""
    if score == 0:
        return f"the map is empty: the score of {name!r} is 0, so there is no evidence to take away"
    if not map.any():
        return f"the map is empty: {method.no_change} the score of {name!r}, {score:.3g}"
    if not (map > 0).any():
        return f"the map shows no evidence for {name!r}: all of its values are negative or zero"
    if map.numel() > 1 and (map == map.flatten()[0]).all():
        return f"the map shows no place: it has the same value everywhere, {float(map.flatten()[0]):.3g}"
    return None


def find_method(method: str | Method | Callable[..., Tensor], settings: Iterable[str]) -> Method:
    """The method of that name. Raises InputError for a name that is not there, or a setting that it does not have."""
    if isinstance(method, str):
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}{nearest(method, METHODS)}")
        how, name = METHODS[method], method
    else:
        how = method if isinstance(method, Method) else Method(method)
        name = how.function.__name__
    known = list(how.settings)
    for setting in settings:
        if setting not in known:
            raise InputError(f"{name} has no setting {setting!r}{nearest(setting, known) if known else ''}")
    return how


def _layer(system: System, method: Method, settings: Mapping[str, Any]) -> str | None:
    """The layer whose map the method gives; None where it is a map of the pixels."""
    if not method.of_layer or settings.get("layer") is not None:
        return settings.get("layer")
    try:
        return system.explained_layer
    except InputError as error:
        others = " and ".join(sorted(name for name, other in METHODS.items() if not other.of_layer))
        raise InputError(f"{error}; {others} look at no layer") from None


def _check(image: Tensor) -> None:
    if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"an image is (3, height, width), uint8 or float, not {image.dtype} {tuple(image.shape)}")


def _prepared(system: System, image: Tensor) -> Batch:
    """What `predict` gives to the network."""
    return system.preprocess.batch([image]).to(system.device)


def _size(batch: Batch) -> tuple[int, int]:
    """Height and width of the prepared images."""
    return batch.images.shape[-2], batch.images.shape[-1]


def _name(system: System) -> str:
    return system.name or type(system).__name__
