"""The verb `explain` and what it gives."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from foveal.errors import InputError, nearest
from foveal.explain.faithfulness import Curves, curves, probability
from foveal.explain.gradcam import gradcam
from foveal.explain.occlusion import occlusion
from foveal.explain.saliency import saliency
from foveal.structures import Batch, Label
from foveal.system import System, evaluating, resize

# name -> (system, prepared images (B, 3, h, w), target, settings) -> maps (B, h', w')
METHODS: dict[str, Callable[..., Tensor]] = {"gradcam": gradcam, "occlusion": occlusion, "saliency": saliency}
NEEDS_LAYER = {"gradcam"}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the evidence for a class is.

    method:      name of the method.
    target:      the class that is explained.
    score:       `System.score` of the target, which the method differentiates or perturbs.
    probability: of the target, as in a prediction.
    map:         (h, w) what the method found, with its sign, on the prepared image; in the method's own resolution.
    heat:        (H, W) in [0, 1] on the pixels of the image itself: what of the map is positive, the largest value one;
                 zero where the preparation cut the image.
    image:       (3, H, W) as given.
    """

    method: str
    target: str
    score: float
    probability: float
    map: Tensor
    heat: Tensor
    image: Tensor = field(repr=False)
    system: System = field(repr=False)
    label: Label = field(repr=False)

    def curves(self, steps: int = 32, randoms: int = 5, seed: int = 0) -> Curves:
        """The target's probability while pixels are deleted or inserted in the order of the map, and of random maps."""
        return curves(self.system, prepare(self.system, self.image), self.label, self.map, steps, randoms, seed)

    def faithfulness(self, steps: int = 32, randoms: int = 5, seed: int = 0) -> dict[str, float]:
        """Deletion, insertion, the same of random maps, and `better_than_random`: the difference of the differences."""
        return self.curves(steps, randoms, seed).figures()


def explain(
    system: System, image: Tensor, method: str = "gradcam", target: str | None = None, **settings: Any
) -> Explanation:
    """Where in the image the evidence for a class is.

    image:    (3, H, W) of any size, uint8 or float in [0, 1].
    method:   "gradcam", "occlusion" or "saliency".
    target:   class name; default the class that `system.predict` names.
    settings: of the method: `layer` of gradcam; `window`, `stride`, `baseline` of occlusion.

    Raises InputError for a name, setting or image that does not fit, and for a system that the method cannot explain.
    """
    function = find_method(method, settings)
    name = system.name or type(system).__name__
    if system.task != "classify":
        raise InputError(f"{name} is a system to {system.task}; explained are systems to classify")
    if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"an image is (3, height, width), uint8 or float, not {image.dtype} {tuple(image.shape)}")
    if target is not None and target not in system.labels:
        raise InputError(f"unknown class {target!r}{nearest(target, system.labels)}")
    # The index and not the name: two classes of ImageNet have the same one.
    index = system.predict([image])[0].label if target is None else torch.tensor(system.labels.index(target))
    label, batch = Label(index), prepare(system, image)
    try:
        found = function(system, batch.images, label, **settings)[0]
    except InputError as error:
        if method in NEEDS_LAYER and "layer" not in settings ...
    ...
