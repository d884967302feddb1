"""A training step of Faster R-CNN on ResNet-50 with a pyramid, beside torchvision's own.

Images of 512 x 512, batch 2, eight objects in each, SGD with momentum, float32, eager, frozen norms, all layers
learning. The arms take turns, step by step; each is compared with torchvision's step of the same round. Both have the
same weights and 2,000 proposals, 256 anchors and 512 regions an image to learn from.

Where other processes want the cores too, read "processor", the ratio of processor time with `--threads 1`.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import torch
from common import arguments, machine, paired, report, spread, verdict, within
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import foveal
from foveal.structures import Batch, Objects
from foveal.system import Preprocess

OBJECTS, CLASSES = 8, 90
TARGET = 1.0  # of torchvision's time


def step(network: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    """One step of training."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1e-4, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        sum(losses().values()).backward()
        optimizer.step()

    return run


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--size", type=int, default=512, help="side of the images (default 512)")
    parser.add_argument("--batch", type=int, default=2, help="images in a step (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    size = options.size
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=size, max_size=size
    )
    labels = [str(number) for number in range(CLASSES)]
    fields = {"labels": labels, "preprocess": Preprocess((size, size), "squash", 1.0), "frozen_norm": True}
    with TemporaryDirectory() as folder:
        save_file(theirs.state_dict(), f"{folder}/weights.safetensors")
        ours = foveal.create("fasterrcnn_resnet50_fpn", weights=f"{folder}/weights.safetensors", **fields).train()
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)

    corner = torch.rand(options.batch, OBJECTS, 2) * size * 0.6
    boxes = torch.cat([corner, corner + 20 + torch.rand_like(corner) * size * 0.3], 2)
    classes = torch.randint(0, CLASSES, (options.batch, OBJECTS))
    targets = tuple(Objects(*each) for each in zip(boxes, classes, strict=True))
    images = ours.preprocess.batch(list(torch.rand(options.batch, 3, size, size)))
    batch = Batch(images.images, targets, images.indices, images.affines, images.sizes)
    pairs = [{"boxes": each.boxes, "labels": each.labels + 1} for each in targets]

    arms = {
        "torchvision": step(theirs, lambda: theirs(list(batch.images), pairs)),
        "foveal": step(ours, partial(ours.loss, batch)),
    }
    clock: dict[str, list[float]] = {name: [] for name in arms}
    worked: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(options.rounds + 1):
        for name in list(arms) if number % 2 else reversed(arms):  # no arm always comes first
            begin = time.perf_counter(), time.process_time()
            arms[name]()
            if number > 0:  # the first warms up
                clock[name].append(time.perf_counter() - begin[0])
                worked[name].append(time.process_time() - begin[1])

    document = {"machine": machine() | {"threads": options.threads}, "size": size, "batch": options.batch, "arms": {}}
    table = [["arm", "s a step", "images/s", "of torchvision (min-max)", "fastest", "processor", "target"]]
    for name, values in clock.items():
        ratio, work = paired(values, clock["torchvision"]), paired(worked[name], worked["torchvision"])
        fastest, middle = min(values) / min(clock["torchvision"]), spread(values)
        document["arms"][name] = {"seconds": middle, "ratio": ratio, "fastest": fastest, "processor_ratio": work}
        row = [name, f"{middle['median']:.2f}", f"{options.batch / middle['median']:.2f}", within(ratio, 3)]
        row += [f"{fastest:.3f}", within(work, 3), verdict(ratio["median"], TARGET) if name == "foveal" else ""]
        table.append(row)
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
