"""The settings of TrainConfig that change images and targets, as the transforms that do it."""

from typing import Any

import torch

from foveal.data.dataset import Dataset
from foveal.data.mixing import ClassWeights, CutMix, LabelSmoothing, MixUp
from foveal.data.transforms import (
    ColorJitter,
    Cutout,
    External,
    Fit,
    HorizontalFlip,
    Pipeline,
    RandomResizedCrop,
    Shift,
    TrivialAugment,
)
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import System
from foveal.train.config import TrainConfig
from foveal.train.teacher import Teacher


def sample_pipeline(config: TrainConfig, system: System) -> Pipeline:
    """What is done to each image in turn, before batches are made."""
    size = system.preprocess.size
    steps: list[Any] = [External(function) for function in config.transforms]
    if config.crop_scale:
        steps.append(RandomResizedCrop(size, config.crop_scale, interpolation=system.preprocess.interpolation))
    else:
        steps.append(Fit(system.preprocess))
    if config.shift:
        steps.append(Shift(config.shift))
    if config.flip:
        steps.append(HorizontalFlip())
    if config.trivial_augment:
        steps.append(TrivialAugment())
    if config.jitter:
        steps.append(ColorJitter(config.jitter, config.jitter, config.jitter))
    if config.cutout:
        steps.append(Cutout(config.cutout))
    return Pipeline(tuple(steps), config.seed)


class BatchAugment:
    """What is done to whole batches, on the device: mixing, a teacher, smoothing, class weights, in this order."""

    def __init__(self, config: TrainConfig, dataset: Dataset, teacher: Teacher | None = None) -> None:
        classes = len(dataset.labels)
        mixing = [kind(alpha, classes) for kind, alpha in ((MixUp, config.mixup), (CutMix, config.cutmix)) if alpha]
        self.mixing: list[Any] = mixing
        self.teacher = teacher
        self.targets: list[Any] = [] if teacher is None else [teacher]
        if config.label_smoothing:
            self.targets.append(LabelSmoothing(config.label_smoothing, classes))
        if config.class_weights == "balanced":
            self.targets.append(ClassWeights(balanced_weights(dataset)))
        if (self.mixing or self.targets) and dataset.task != "classify":
            raise InputError(
                f"mixup, cutmix, label_smoothing and class_weights have no effect on data to {dataset.task}"
            )

    def __call__(self, batch: Batch, rng: Any) -> Batch:
        if self.mixing:  # one of them, where both are asked for
            batch = self.mixing[rng.integers(len(self.mixing))](batch, rng)
        for transform in self.targets:
            batch = transform(batch, rng)
        return batch


def balanced_weights(dataset: Dataset) -> torch.Tensor:
    """(C,) N / (C n_c) for n_c of N images in class c: its mean over the images is one."""
    counts = torch.tensor(list(dataset.class_counts().values()), dtype=torch.float32)
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
