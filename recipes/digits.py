"""What each small system reaches on the built-in digits.

claim     resnet_nano reaches a test accuracy of at least 0.985, the mean of three seeds
command   python recipes/digits.py [NAME ...]
cost      about a minute a run on two cores
expected  0.985 or more for resnet_nano
measured  docs/results.md
"""

import statistics
import sys
import tempfile
import time

import torch

import foveal

SEEDS = (0, 1, 2)
NAMES = (
    "perceptron",
    "neocognitron",
    "visual_words_patches",
    "visual_words_hog",
    "linear_softmax",
    "linear_svm",
    "knn",
    "pca",
    "lenet",
    "alexnet_nano",
    "zfnet_nano",
    "vgg_nano",
    "googlenet_nano",
    "inception_v3_nano",
    "resnet_nano",
    "senet_nano",
    "densenet_nano",
    "mobilenet_v1_nano",
    "mobilenet_v2_nano",
    "mobilenet_v3_nano",
    "resnet_nonlocal_nano",
    "sasa_nano",
    "pixel_transformer_nano",
    "vit_nano",
    "deit_nano",
    "swin_nano",
    "mixer_nano",
)


def main() -> None:
    data = foveal.load_dataset("digits")
    for name in sys.argv[1:] or NAMES:
        accuracies, seconds = [], []
        for seed in SEEDS:
            torch.manual_seed(seed)
            system = foveal.create(name)
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                foveal.train(system, data, foveal.TrainConfig(out=f"{folder}/run", seed=seed, quiet=True, report=False))
                seconds.append(time.perf_counter() - started)
            accuracies.append(foveal.evaluate(system, data.select("test"))["accuracy"])
        each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        print(f"{name}: {statistics.mean(accuracies):.4f} ({each}), {statistics.mean(seconds):.0f} s a run")


if __name__ == "__main__":
    main()
