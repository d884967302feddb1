"""The verb `explain` and what it gives."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from foveal.errors import InputError, nearest
from foveal.explain.faithfulness import Curves, measure
from foveal.explain.gradcam import gradcam
from foveal.explain.occlusion import occlusion
from foveal.explain.saliency import saliency
from foveal.structures import Batch
from foveal.system import System, resize

# name -> function of (system, prepared images (B, 3, h, w), target, settings ...) that gives maps (B, h', w')
METHODS: dict[str, Callable[..., Tensor]] = {"gradcam": gradcam, "occlusion": occlusion, "saliency": saliency}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the evidence for a class is.

    method:      name of the method.
    target:      name of the class.
    score:       of the target, before any softmax: what the method differentiates or perturbs.
    probability: of the target, as `predict` gives it.
    map:         (h, w), what the method found on the prepared image, with its sign, in the method's own resolution.
    heat:        (H, W) in [0, 1], on the pixels of the image itself: what is positive in the map, the highest value one;
                 zero where the preparation cut the image.
    image:       (3, H, W), as it was given.
    """

    method: str
    target: str
    score: float
    probability: float
    map: Tensor
    heat: Tensor
    image: Tensor = field(repr=False)
    system: System = field(repr=False)

    def curves(self, steps: int = 32, randoms: int = 5, seed: int = 0) -> Curves:
        """How the target's probability falls and rises as pixels go and come in the order of the map."""
        batch = _prepared(self.system, self.image)
        return measure(self.system, batch, self.target, self.map, steps=steps, randoms=randoms, seed=seed)

    def faithfulness(self, steps: int = 32, randoms: int = 5, seed: int = 0) -> dict[str, float]:
        """Deletion, insertion, both of random maps in the mean, and by how much the map is `better_than_random`."""
        return self.curves(steps, randoms, seed).figures()


def explain(
    system: System, image: Tensor, method: str = "gradcam", target: str | None = None, **settings: Any
) -> Explanation:
    """Where in an image (3, H, W), uint8 or float in [0, 1], of any size, the evidence for a class is.

    method:   "gradcam", "occlusion" or "saliency".
    target:   name of the class; default the one that `system.predict` names.
    settings: of the method: `layer` of gradcam; `window`, `stride` and `baseline` of occlusion.

    Raises InputError for a method, class, setting or image that does not fit, or a system that cannot be explained so.
    """
    function, name = METHODS[check_method(method, settings)], system.name or type(system).__name__
    if system.task != "classify":
        raise InputError(f"{name} is a system to {system.task}; so far, explanations are of systems to classify")
    if target is not None and target not in system.labels:
        raise InputError(f"unknown class {target!r}{nearest(target, system.labels)}")
    if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"an image is (3, height, width), uint8 or float, not {image.dtype} {tuple(image.shape)}")
    if "layer" in _settings(method) and settings.get("layer") is None:
        _check_layer(system)

    prediction = system.predict([image])[0]
    index = int(prediction.label) if target is None else system.labels.index(target)
    target, probability, batch = system.labels[index], float(prediction.scores[index]), _prepared(system, image)
    found = function(system, batch.images, target, **settings)[0].detach().cpu()
    with torch.no_grad():
        score = float(system.score(batch.images, target))
    if not torch.isfinite(found).all():
        raise InputError(f"{name} cannot be explained: its scores are not finite")
    heat = on_image(found, batch.affines[0].cpu(), batch.images.shape[-2:], image.shape[-2:])
    return Explanation(method, target, score, probability, found, heat, image, system)


def check_method(method: str, settings: dict[str, Any]) -> str:
    """The method's name. Raises InputError for one that is not there, or has no such settings."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}{nearest(method, METHODS)}")
    for setting in settings:
        if setting not in (known := _settings(method)):
            raise InputError(f"{method} has no setting {setting!r}{nearest(setting, known) if known else ''}")
    return method


def on_image(map: Tensor, affine: Tensor, prepared: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """What is positive in a map (h', w') of the prepared image, (H, W) on the image itself, the highest value one.

    affine: (2, 3), from pixels of the image to pixels of the prepared one.
    """
    (height, width), affine = size, affine.double()
    seen = interpolate(map.clamp(min=0)[None, None].double(), prepared, mode="bilinear", align_corners=False)
    # The way back: the whole image as it was resized, of which the preparation kept a part, then its own size.
    columns, rows = round(float(affine[0, 0]) * width), round(float(affine[1, 1]) * height)
    left, top = round(-float(affine[0, 2])), round(-float(affine[1, 2]))
    whole = pad(seen, (left, columns - left - prepared[1], top, rows - top - prepared[0]), mode="replicate")
    x, y = (torch.arange(width) + 0.5) * affine[0, 0] - left, (torch.arange(height) + 0.5) * affine[1, 1] - top
    inside = ((y >= 0) & (y < prepared[0]))[:, None] & ((x >= 0) & (x < prepared[1]))
    heat = resize(whole[0], size)[0] * inside
    return (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).to(map)


def _prepared(system: System, image: Tensor) -> Batch:
    """What `predict` gives to the network."""
    return system.preprocess.batch([image]).to(system.device)


def _settings(method: str) -> list[str]:
    return list(inspect.signature(METHODS[method]).parameters)[3:]


def _check_layer(system: System) -> None:
    try:
        _ = system.explained_layer
    except InputError as error:
        others = [name for name in METHODS if "layer" not in _settings(name)]
        raise InputError(f"{error}; {' and '.join(others)} need no layer") from None
