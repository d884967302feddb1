"""A detector on few photographs: what the ImageNet weights of its backbone are worth.

claim     on BCCD (364 photographs of blood cells, Pascal VOC's layout) it reaches a test mAP50 of at least 0.80 within
          60 minutes when its backbone, EfficientNet-Lite0, begins with its ImageNet weights; from scratch beside it
command   python recipes/detect_photographs.py --data FOLDER [--name NAME] [--start package] [--epochs E] [--size H W]
cost      an hour each on two cores
expected  0.80 or more with the weights of the package
measured  docs/results.md

Leaves in OUT, for each of the two: the run; test.json, the truths, and predictions.json, both in COCO's layout, from
which pycocotools, where it is installed, has to find the same figures. What is found is drawn by
`foveal predict OUT/package IMAGE --out PICTURES`.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import foveal
from foveal.data.writers import write_coco, write_predictions
from foveal.metrics.detect import FIGURES, DetectEvaluator, coco_map, voc_ap
from foveal.metrics.detection_errors import errors
from foveal.train.evaluate import evaluation_loader, measure

NAME = "fasterrcnn_efficientnet_lite0_fpn"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder in Pascal VOC's layout, or any data to detect")
    parser.add_argument("--name", default=NAME, help=f"a detector on EfficientNet-Lite0; default {NAME}")
    parser.add_argument("--start", choices=("package", "scratch"), nargs="+", default=["package", "scratch"])
    parser.add_argument("--epochs", type=int, help="default: those of the detector's recipe")
    parser.add_argument("--size", type=int, nargs=2, help="height and width in pixels; default: the detector's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/detect_photographs"))
    options = parser.parse_args()
    data = foveal.load_dataset(options.data, task="detect")
    counts = {split: len(data.select(split)) for split in ("train", "val", "test")}
    print(
        f"{options.data}: {', '.join(f'{count} {split}' for split, count in counts.items())}, {', '.join(data.labels)}"
    )
    for start in options.start:
        compare(start, data, options)


def compare(start: str, data: Any, options: argparse.Namespace) -> None:
    """Train from one start, and print what the test split says of it."""
    torch.manual_seed(options.seed)
    fields: dict[str, Any] = {} if options.size is None else {"image_size": tuple(options.size)}
    if start == "scratch":
        fields["frozen_norm"] = False  # statistics that nobody has taken are nothing to keep
    system = foveal.create(
        options.name, labels=data.labels, weights="package" if start == "package" else None, **fields
    )
    changes = {} if options.epochs is None else {"epochs": options.epochs}
    started = time.perf_counter()
    foveal.train(system, data, foveal.TrainConfig(out=str(options.out / start), seed=options.seed, **changes))
    minutes = (time.perf_counter() - started) / 60

    test = data.select("test")
    seen = measure(system, evaluation_loader(system, test, batch_size=4, workers=None)).evaluator
    assert isinstance(seen, DetectEvaluator)
    found, truths, classes = seen.predictions, seen.truths, len(data.labels)
    if len(found) != len(test):
        raise SystemExit(f"{len(test) - len(found)} test images cannot be read: foveal check {options.data}")
    figures = coco_map(found, truths, classes)
    print(f"{options.name} from {start}: mAP50 {figures['AP50']:.4f}, mAP {figures['AP']:.4f}, {minutes:.1f} min")
    mean, of_class = voc_ap(found, truths, classes)
    each = ", ".join(f"{data.labels[index]} {value:.4f}" for index, value in of_class.items())
    print(f"by Pascal VOC's rules: mAP50 {mean:.4f}; {each}")
    for kind, error in errors(found, truths, classes).items():
        print(f"  {kind}: {error.count}, costs {error.cost:.4f} AP50")

    write_coco(test, options.out / start / "test.json")
    write_predictions(options.out / start / "predictions.json", found)
    if find_spec("pycocotools"):
        theirs = by_pycocotools(options.out / start / "test.json", options.out / start / "predictions.json")
        differ = max(abs(figures[name] - theirs[name]) for name in FIGURES)
        print(f"pycocotools on the saved JSON: mAP50 {theirs['AP50']:.4f}, mAP {theirs['AP']:.4f}; ", end="")
        print(f"the largest difference of the twelve figures is {differ:.1e}")


def by_pycocotools(truths: Path, predictions: Path) -> dict[str, float]:
    """The twelve figures. Difficult objects count there as others do."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known = COCO(str(truths))
    evaluation = COCOeval(known, known.loadRes(str(predictions)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


if __name__ == "__main__":
    main()
