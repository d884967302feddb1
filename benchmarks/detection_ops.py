"""Operations of detection beside torchvision's compiled kernels, in turn, on one thread: time over time, float32.

nms: boxes spread over an image, most of which stay, and boxes crowded around a tenth as many objects, as a network
proposes them; threshold 0.5. batched nms: the crowded ones in 80 classes, and as many in each of the classes.
iou: boxes against as many others, at most 2,000. roi align and pool: 7 by 7 of a map of 50 by 50 at stride 16, two
samples in each direction of a bin, forward and backward.

    python benchmarks/detection_ops.py
"""

from collections.abc import Callable
from time import perf_counter

import torch
from common import arguments, machine, paired, report, spread, verdict, within
from torch import Tensor
from torchvision import ops as torchvision

from foveal.ops.boxes import iou
from foveal.ops.nms import batched_nms, nms
from foveal.ops.roi import roi_align, roi_pool

COUNTS = (100, 1_000, 10_000)
CLASSES = 80


def spread_out(count: int) -> Tensor:
    """Boxes (count, 4) in an image of 800 by 800 pixels, the smaller the more there are."""
    centre, size = torch.rand(count, 2) * 800, (torch.rand(count, 2) + 0.5) * 1000 / count**0.5
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def crowded(count: int) -> Tensor:
    """Boxes (count, 4), about ten around each object."""
    objects = spread_out(max(1, count // 10)).repeat(11, 1)[:count]
    size = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    return objects + torch.randn(count, 4) * 0.08 * size


def cases(count: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is measured at a number of boxes: foveal's and torchvision's."""
    spread_boxes, crowd, scores = spread_out(count), crowded(count), torch.rand(count)
    classes = torch.randint(0, CLASSES, (count,))
    others = spread_out(min(count, 2_000))
    found: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "nms, spread": (lambda: nms(spread_boxes, scores, 0.5), lambda: torchvision.nms(spread_boxes, scores, 0.5)),
        "nms, crowded": (lambda: nms(crowd, scores, 0.5), lambda: torchvision.nms(crowd, scores, 0.5)),
        "batched nms, 80 classes": (
            lambda: batched_nms(crowd, scores, classes, 0.5),
            lambda: torchvision.batched_nms(crowd, scores, classes, 0.5),
        ),
        "iou": (lambda: iou(spread_boxes, others), lambda: torchvision.box_iou(spread_boxes, others)),
    }
    few = count <= 1_000
    if few:
        many, high = crowd.repeat(CLASSES, 1) + torch.randn(count * CLASSES, 4), torch.rand(count * CLASSES)
        each = torch.arange(CLASSES).repeat_interleave(count)
        found["batched nms, in each of 80 classes"] = (
            lambda: batched_nms(many, high, each, 0.5),
            lambda: torchvision.batched_nms(many, high, each, 0.5),
        )
    rois = torch.cat([torch.zeros(count, 1), spread_out(count).clamp(0, 800)], 1)
    for channels in (64, 256) if few else (64,):
        features = torch.randn(1, channels, 50, 50, requires_grad=True)
        weight = torch.randn(count, channels, 7, 7)

        def align(kernel: Callable[..., Tensor], features: Tensor = features, weight: Tensor = weight) -> None:
            kernel(features, rois, (7, 7), 1 / 16, 2).backward(weight)

        def pool(kernel: Callable[..., Tensor], features: Tensor = features, weight: Tensor = weight) -> None:
            kernel(features, rois, (7, 7), 1 / 16).backward(weight)

        found[f"roi align, {channels} channels"] = (
            lambda align=align: align(roi_align),
            lambda align=align: align(torchvision.roi_align),
        )
        found[f"roi pool, {channels} channels"] = (
            lambda pool=pool: pool(roi_pool),
            lambda pool=pool: pool(torchvision.roi_pool),
        )
    return found


def seconds(call: Callable[[], object], times: int) -> float:
    start = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - start) / times


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of boxes")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    document: dict[str, dict[str, object]] = {"machine": machine()}
    table = [["boxes", "operation", "foveal ms", "torchvision ms", "ratio", "target"]]
    for count in options.counts:
        for name, (ours, theirs) in cases(count).items():
            seconds(ours, 1)
            # The first call takes longer, and so does any that is interrupted.
            quickest = min(seconds(theirs, 1) for _ in range(4))
            times = max(1, min(200, int(0.01 / max(1e-6, quickest))))
            turns = [(seconds(ours, times), seconds(theirs, times)) for _ in range(options.rounds)]
            own, other = ([1e3 * value for value in values] for values in zip(*turns, strict=True))
            ratio = paired(own, other)
            target = (1.0 if "batched" in name else 2.0) if count == 1_000 else None
            document[f"{name}, {count}"] = {"foveal_ms": spread(own), "torchvision_ms": spread(other), "ratio": ratio}
            medians = f"{spread(own)['median']:.3f}", f"{spread(other)['median']:.3f}"
            table.append([f"{count}", name, *medians, within(ratio), verdict(ratio["median"], target)])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
