"""Grad-CAM: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra 2016, arXiv:1610.02391.

A layer's maps A_k, each weighted by how strongly the score grows with it on average:

    w_k = mean over (i, j) of d score / d A_k[i, j]        map = sum over k of w_k A_k

The paper's relu is left to whoever shows the map: what is negative speaks against the target.
"""

from typing import Any

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.explain.method import Method
from foveal.nn.record import record
from foveal.system import System, evaluating


def gradcam(system: System, images: Tensor, target: Any, layer: str | None = None) -> Tensor:
    """Prepared images (B, 3, H, W) in [0, 1] -> maps (B, h, w) in the resolution of the layer.

    layer: name of a module whose output is a map, or can be laid out as one; default `system.explained_layer`.

    Raises InputError for a layer that does not exist, has no map, or has no influence on the score.
    """
    name = system.explained_layer if layer is None else layer
    with torch.inference_mode(False), evaluating(system), torch.enable_grad(), record(system, name) as outputs:
        # The gradient goes from the score to the layer; it exists for frozen weights too if the pixels want one.
        pixels = images.clone().detach().requires_grad_(True)
        score = system.score(pixels, target)
        activation = outputs.get(name)
        if not isinstance(activation, Tensor):
            raise InputError(f"layer {name!r} gives no tensor that a score could be differentiated by")
        maps = system.as_map(activation).detach()  # (B, K, h, w)
        (gradient,) = torch.autograd.grad(score.sum(), activation, allow_unused=True)
        if gradient is None:
            raise InputError(f"layer {name!r} has no influence on the score")
        weights = system.as_map(gradient).mean((2, 3), keepdim=True)  # (B, K, 1, 1)
    return (weights * maps).sum(1)


GRADCAM = Method(gradcam, of_layer=True)
