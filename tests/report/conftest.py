"""A finished run, and a classifier whose answers a test can choose."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import foveal
from foveal.classify.classifier import Classifier
from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.system import Preprocess, Spec
from foveal.train.config import TrainConfig
from foveal.train.loop import train
from tests.toys import small_digits


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a linear classifier on some digits, which no test changes; it makes mistakes."""
    dataset = small_digits()
    run = tmp_path_factory.mktemp("runs") / "run"
    system = foveal.create("linear_softmax", labels=dataset.labels)
    train(system, dataset, TrainConfig(out=str(run), epochs=2, plan="eager", quiet=True))
    return run


class Answering(Classifier):
    """Gives to image i the scores that were chosen for it; i is written in its one pixel."""

    def __init__(self, labels: tuple[str, ...], scores: Tensor) -> None:
        super().__init__(Spec(labels, Preprocess((1, 1), "squash", 1.0, (0.0,) * 3, (1.0,) * 3)))
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        red, green, _ = (images[:, :, 0, 0] * 255).round().long().unbind(1)
        return self.scores[(256 * red + green).clamp(max=len(self.scores) - 1)]


def answering(truth: list[int], scores: Tensor, labels: tuple[str, ...]) -> tuple[Answering, Dataset]:
    """A system that answers with rows of `scores` to the images of a data set whose classes are `truth`."""
    number = torch.arange(len(truth))
    pixels = torch.stack([number // 256, number % 256, 0 * number], 1).to(torch.uint8)[:, :, None, None]
    codes = np.ones(len(truth), np.int8)
    return Answering(labels, scores), Dataset(
        "chosen", "classify", labels, ImageArray(pixels, "chosen"), LabelColumn(truth), codes
    )
