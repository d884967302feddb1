"""What each small detector reaches on the built-in scenes, without weights to start from.

claim     faster_rcnn_nano, retinanet_nano and fcos_nano reach a test mAP50 of at least 0.80 within ten minutes
command   python recipes/scenes.py [NAME ...] [--seed S]
cost      four minutes a system on two cores, more for detr_nano
expected  0.80 or more for these three
measured  docs/results.md
"""

import argparse
import tempfile
import time

import torch

import foveal


def main() -> None:
    known = [name for name in foveal.names("detect") if name.endswith("_nano")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(known)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = foveal.load_dataset("scenes")
    for name in options.names or known:
        torch.manual_seed(options.seed)
        system = foveal.create(name, labels=data.labels)
        with tempfile.TemporaryDirectory() as folder:
            config = foveal.TrainConfig(out=f"{folder}/run", seed=options.seed, quiet=True, report=False)
            started, worked = time.perf_counter(), time.process_time()
            foveal.train(system, data, config)
            seconds, work = time.perf_counter() - started, time.process_time() - worked
        figures = foveal.evaluate(system, data.select("test"))
        parameters = sum(parameter.numel() for parameter in system.parameters())
        print(
            f"{name}: mAP {figures['mAP']:.4f}, mAP50 {figures['mAP50']:.4f}, {seconds:.0f} s, {work:.0f} s of them "
            f"at work, {parameters:,} parameters",
            flush=True,
        )


if __name__ == "__main__":
    main()
