"""Class names of the sets that published classifiers were trained on, in the order of their outputs."""

from pathlib import Path

IMAGENET_1K = tuple(Path(__file__).with_name("imagenet_1k.txt").read_text("utf-8").splitlines())
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")
