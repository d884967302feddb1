"""The twelve figures of COCO beside pycocotools and faster-coco-eval, on the same detections.

foveal starts from the predictions as a system returns them; the others from the tables that they have read already, so
what they need for reading is not in their time. The figures are asserted to be equal.
"""

import contextlib
import importlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import arguments, machine, paired, report, spread, within

from foveal.metrics import coco_map
from foveal.structures import Objects

TARGETS = {"pycocotools": 10.0}  # times as fast
PEERS = {
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
}


def data(images: int, found: int, classes: int) -> tuple[list[Objects], list[Objects]]:
    """Images with 10 truths on average, and detections half of which lie near a truth."""
    draw = torch.Generator().manual_seed(0)
    predictions, targets = [], []
    for _ in range(images):
        number = int(torch.randint(1, 20, (), generator=draw))
        corner = torch.rand(number, 2, generator=draw) * 500
        boxes = torch.cat([corner, corner + 10 + torch.rand(number, 2, generator=draw) * 150], 1)
        labels = torch.randint(0, classes, (number,), generator=draw)
        targets.append(Objects(boxes, labels, crowd=torch.rand(number, generator=draw) < 0.02))
        whose = torch.randint(0, number, (found,), generator=draw)
        shift = torch.randn(found, 4, generator=draw) * torch.rand(found, 1, generator=draw) * 12
        far = torch.rand(found, 1, generator=draw) < 0.5
        guess = boxes[whose] + shift + far * torch.rand(found, 1, generator=draw) * 300
        guess = torch.cat([guess[:, :2], guess[:, 2:].maximum(guess[:, :2] + 1)], 1)
        predictions.append(Objects(guess, labels[whose], torch.rand(found, generator=draw)))
    return predictions, targets


def peer(name: str, predictions: list[Objects], targets: list[Objects], classes: int) -> Callable[[], Any]:
    """Evaluates with a peer; only what it does after its tables are read."""
    tables, evaluation, kind = PEERS[name]
    sides = []
    for items in (targets, predictions):
        rows: list[dict[str, Any]] = []
        for image, item in enumerate(items):
            corners = item.boxes.double()
            boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
            scores = [0.0] * len(item) if item.scores is None else item.scores.double().tolist()
            crowds = [0] * len(item) if item.crowd is None else item.crowd.int().tolist()
            for box, label, score, crowd in zip(boxes, item.labels.tolist(), scores, crowds, strict=True):
                row = {"id": len(rows) + 1, "image_id": image, "category_id": label, "bbox": box, "score": score}
                rows.append({**row, "area": box[2] * box[3], "iscrowd": crowd})
        side = importlib.import_module(tables).COCO()
        side.dataset = {
            "images": [{"id": image} for image in range(len(targets))],
            "categories": [{"id": c, "name": str(c)} for c in range(classes)],
            "annotations": rows,
        }
        side.createIndex()
        sides.append(side)

    def run() -> Any:
        one = getattr(importlib.import_module(evaluation), kind)(*sides, "bbox")
        one.evaluate()
        one.accumulate()
        one.summarize()
        return list(one.stats[:12])

    return run


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=20000, help="in all images together (default 20000)")
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    predictions, targets = data(options.images, options.detections // options.images, options.classes)
    arms: dict[str, Callable[[], Any]] = {
        "foveal": lambda: list(coco_map(predictions, targets, options.classes).values())
    }
    with contextlib.redirect_stdout(io.StringIO()):
        for name in PEERS:
            arms[name] = peer(name, predictions, targets, options.classes)
        figures = {name: run() for name, run in arms.items()}
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, run in arms.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    document: dict[str, Any] = {"machine": machine(), "figures": figures["foveal"], "arms": {}}
    table = [["arm", "ms", "foveal is so many times as fast", "target", "figures apart by"]]
    for name, seconds in times.items():
        apart = float(np.abs(np.array(figures[name]) - figures["foveal"]).max())
        assert apart < 1e-9, f"{name} says {figures[name]}, foveal {figures['foveal']}"
        ratio, target = paired(seconds, times["foveal"]), TARGETS.get(name)
        document["arms"][name] = {"seconds": spread(seconds), "ratio": ratio, "target": target, "apart": apart}
        said = "" if target is None else f"> {target:g} {'met' if ratio['median'] > target else 'MISSED'}"
        table.append([name, f"{1000 * spread(seconds)['median']:.0f}", within(ratio, 1), said, f"{apart:.0e}"])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
