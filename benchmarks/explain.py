"""How long occlusion takes beside captum's, for the same windows, strides and colour.

ResNet-18 with random weights and statistics on one image, evaluation mode, float32, on all cores, default windows: a
seventh of the side, half a window apart. The arms take turns; each is compared with foveal's of its own round:

captum          as its documentation shows it: a forward pass for each window
captum batched  with as many windows in a forward pass (perturbations_per_eval) as is fastest of 4, 16 and 64 for it

The maps are compared too: the largest difference, as a share of the largest value.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Occlusion
from common import arguments, machine, paired, report, spread, within
from torch import Tensor, nn

import foveal
from foveal.explain.occlusion import occlusion

SIZES = (64, 128, 224)
BATCHES = (4, 16, 64)
TARGET = 3.0  # times faster than captum


def network(size: int) -> Any:
    """ResNet-18 in evaluation mode, with statistics other than zero and one."""
    torch.manual_seed(0)
    system = foveal.create("resnet18", image_size=size)
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return system


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def arms(system: Any, image: Tensor) -> dict[str, Callable[[], Tensor]]:
    """name -> a function that gives the map (h, w)."""
    label, size = system.labels[0], image.shape[-1]
    window = -(-size // 7)
    stride = window // 2
    colour = system.pixel_mean[None].expand_as(image)

    def captum(batch: int) -> Tensor:
        method = Occlusion(lambda images: system.score(images, label))
        shapes, strides = (3, window, window), (3, stride, stride)
        found = method.attribute(image, shapes, strides, colour, perturbations_per_eval=batch)
        return found[0, 0].detach()

    batched = {f"captum, {batch} at once": (lambda batch=batch: captum(batch)) for batch in BATCHES}
    return {"foveal": lambda: occlusion(system, image, label)[0], "captum": lambda: captum(1), **batched}


def main() -> None:
    options = arguments(__doc__, rounds=3).parse_args()
    document: dict[str, Any] = {"machine": machine(), "sizes": {}}
    table = [
        ["size", "foveal, seconds", "captum", "times (min-max)", "captum batched", "times", "difference", "target"]
    ]
    for size in SIZES:
        system, image = network(size), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        seconds: dict[str, list[float]] = {}
        maps: dict[str, Tensor] = {}
        for number in range(options.rounds + 1):
            for name, function in arms(system, image).items():
                taken, maps[name] = timed(function)
                if number > 0:  # the first round warms up
                    seconds.setdefault(name, []).append(taken)
        best = min((name for name in seconds if "at once" in name), key=lambda name: spread(seconds[name])["median"])
        ratio, batched = paired(seconds["captum"], seconds["foveal"]), paired(seconds[best], seconds["foveal"])
        scale = float(maps["captum"].abs().max())
        difference = float((maps["foveal"] - maps["captum"]).abs().max()) / scale
        document["sizes"][size] = {
            "seconds": {name: spread(values) for name, values in seconds.items()},
            "ratio": ratio,
            "batched": {"arm": best, "ratio": batched},
            "difference": difference,
            "target": TARGET,
            "met": ratio["median"] > TARGET,
        }
        middle = {name: f"{spread(values)['median']:.2f}" for name, values in seconds.items()}
        verdict = f"> {TARGET:g} {'met' if ratio['median'] > TARGET else 'MISSED'}"
        row = [str(size), middle["foveal"], middle["captum"], within(ratio, 1), middle[best], within(batched, 1)]
        table.append([*row, f"{difference:.0e}", verdict])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
