"""How often an explanation of a digit is better than random maps of the same grain, by deletion and insertion.

claim     the default method, occlusion, is better than random maps on at least 90 % of the test digits
command   python recipes/explain_digits.py [NAME ...]
cost      about five minutes a system on two cores
expected  0.90 or more for occlusion, and for gradcam on resnet_nano
measured  docs/results.md
"""

import sys
import tempfile

import torch

import foveal

NAMES = ("resnet_nano", "vit_nano")
METHODS = ("occlusion", "gradcam", "saliency")
FIGURES = ("insertion", "deletion", "random_insertion", "random_deletion", "better_than_random")


def main() -> None:
    data = foveal.load_dataset("digits")
    test = data.select("test")
    for name in sys.argv[1:] or NAMES:
        torch.manual_seed(0)
        system = foveal.create(name)
        with tempfile.TemporaryDirectory() as folder:
            foveal.train(system, data, foveal.TrainConfig(epochs=20, out=f"{folder}/run", quiet=True, report=False))
        print(f"{name}, test accuracy {foveal.evaluate(system, test)['accuracy']:.4f}, {len(test)} digits")
        for method in METHODS:
            rows = []
            for i in range(len(test)):
                figures = foveal.explain(system, test.image(i), method).faithfulness()
                rows.append([figures[figure] for figure in FIGURES])
            table = torch.tensor(rows)
            better = (table[:, -1] > 0).double().mean()
            means = ", ".join(f"{figure} {mean:.3f}" for figure, mean in zip(FIGURES, table.mean(0), strict=True))
            print(f"{method}: better than random on {better:.3f}; in the mean {means}", flush=True)


if __name__ == "__main__":
    main()
