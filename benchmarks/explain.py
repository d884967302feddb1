"""How long occlusion takes beside captum's, for the same windows, strides and colour.

ResNet-18 with random weights and statistics on one image, evaluation mode, float32, on all cores, default windows: a
seventh of the side, half a window apart. The arms take turns; each is compared with foveal's of its own round:

captum          as its documentation shows it: a forward pass for each window
captum batched  with as many windows in a forward pass (perturbations_per_eval) as is fastest of 4, 16 and 64 for it

A detected object, with --detector: Faster R-CNN on EfficientNet-Lite0 at 320 pixels, random weights, its most confident
box, one round without a warm-up. The arms have the same windows:

foveal               the score of the regions near the box, batch norms folded, a few windows a pass
captum               the same score, a forward pass for each window
captum, all regions  the score of all regions that are proposed, a forward pass for each window

Where other processes want the cores too, processor time says more than seconds. The maps are compared as well: the
largest difference, as a share of the score, of whose rounding it is made.
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
from foveal.nn.fold import fold_batch_norm
from foveal.ops.boxes import clip, iou
from foveal.structures import Objects

SIZES = (64, 128, 224)
BATCHES = (4, 16, 64)
DETECTOR = 320  # pixels
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


def timed(function: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """(seconds of the clock, seconds of processor time, result)."""
    started, worked = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - started, time.process_time() - worked, result


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


def every_region(system: Any, image: Tensor, target: Objects) -> Tensor:
    """`Detector.score` of one object over all candidates."""
    found, index = system.candidates(system(image))[0], int(target.labels[0])
    boxes = clip(found.boxes[:, index], (image.shape[2], image.shape[3]))
    return (iou(boxes, target.boxes)[:, 0] * found.scores[:, index]).max()[None]


@torch.no_grad()
def detector(window: int) -> dict[str, Any]:
    """The seconds and the processor time of each arm, on one object."""
    torch.manual_seed(0)
    name, labels = "fasterrcnn_efficientnet_lite0_fpn", tuple("abc")
    system: Any = foveal.create(name, image_size=DETECTOR, labels=labels, score_threshold=0.0).eval()
    image = torch.rand(1, 3, DETECTOR, DETECTOR, generator=torch.Generator().manual_seed(1))
    found: Any = system.predict([image[0]])[0]
    target = Objects(found.boxes[:1], found.labels[:1])
    stride, colour = window // 2, system.pixel_mean[None].expand_as(image)

    def captum(score: Callable[[Tensor], Tensor]) -> Tensor:
        return Occlusion(score).attribute(image, (3, window, window), (3, stride, stride), colour)[0, 0]

    functions = {
        "foveal": lambda: occlusion(fold_batch_norm(system, image), image, target, window)[0],
        "captum": lambda: captum(lambda images: system.score(images, target)),
        "captum, all regions": lambda: captum(lambda images: every_region(system, images, target)),
    }
    results = {arm: timed(function) for arm, function in functions.items()}
    seconds, worked, map = results["foveal"]
    score = float(system.score(image, target))
    return {
        arm: {
            "seconds": own[0],
            "processor": own[1],
            "times": own[0] / seconds,
            "processor_times": own[1] / worked,
            "difference": float((own[2] - map).abs().max()) / score,
        }
        for arm, own in results.items()
    }


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--detector", action="store_true", help="a detected object instead of a class")
    parser.add_argument("--window", type=int, default=-(-DETECTOR // 7), help="of the detector, in pixels")
    options = parser.parse_args()
    if options.detector:
        found = detector(options.window)
        table = [["arm", "seconds", "processor", "times", "processor times", "difference"]]
        for arm, own in found.items():
            table.append([arm, *(f"{own[key]:.1f}" for key in list(own)[:4]), f"{own['difference']:.0e}"])
        report({"machine": machine(), "detector": found}, [table], as_json=options.json)
        return
    document: dict[str, Any] = {"machine": machine(), "sizes": {}}
    heads = ["captum: seconds", "times (min-max)", "processor", "captum batched: times", "processor", "difference"]
    table = [["size", "foveal: seconds", *heads, "target"]]
    for size in SIZES:
        system, image = network(size), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        clock: dict[str, list[float]] = {}
        processor: dict[str, list[float]] = {}
        maps: dict[str, Tensor] = {}
        for number in range(options.rounds + 1):
            for name, function in arms(system, image).items():
                seconds, worked, maps[name] = timed(function)
                if number > 0:  # the first round warms up
                    clock.setdefault(name, []).append(seconds)
                    processor.setdefault(name, []).append(worked)
        best = min((name for name in clock if "at once" in name), key=lambda name: spread(processor[name])["median"])
        ratios = {arm: paired(clock[arm], clock["foveal"]) for arm in ("captum", best)}
        shares = {arm: paired(processor[arm], processor["foveal"]) for arm in ("captum", best)}
        score = float(system.score(image, system.labels[0]).detach())
        difference = float((maps["foveal"] - maps["captum"]).abs().max()) / abs(score)
        ratio = ratios["captum"]["median"]
        document["sizes"][size] = {
            "seconds": {name: spread(values) for name, values in clock.items()},
            "ratio": ratios,
            "processor_ratio": shares,
            "difference": difference,
            "target": TARGET,
            "met": ratio > TARGET,
        }
        row = [str(size), *(f"{spread(clock[name])['median']:.2f}" for name in ("foveal", "captum"))]
        row += [
            within(ratios["captum"], 1),
            within(shares["captum"], 1),
            within(ratios[best], 1),
            within(shares[best], 1),
        ]
        table.append([*row, f"{difference:.0e}", f"> {TARGET:g} {'met' if ratio > TARGET else 'MISSED'}"])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
