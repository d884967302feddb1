from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foveal.data.dataset import Dataset, ImageArray
from foveal.data.transforms import Fit, HorizontalFlip, ObjectCrop, ScaleJitter
from foveal.errors import InputError
from foveal.structures import Batch, Objects
from foveal.task import Task, registered
from foveal.train.augment import BatchAugment, sample_pipeline
from foveal.train.config import TrainConfig, resolve
from foveal.train.prepare import training_loader
from tests.toys import Detector, small_digits, squares

SETTINGS: dict[str, Any] = {
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "crop_scale": (0.5, 1.0),
    "scale_jitter": (0.5, 2.0),
    "object_crop": 0.5,
    "mosaic": 0.5,
}


def settings(**values: Any) -> TrainConfig:
    return resolve(TrainConfig(batch_size=8, **values), {}, "toy")[0]


def test_every_setting_of_some_tasks_is_tried_here() -> None:
    assert set(SETTINGS) == frozenset().union(*(task.settings for task in registered()))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_without_effect_on_the_data_are_errors(name: str) -> None:
    config = settings(**{name: SETTINGS[name]})
    for data in (small_digits(), squares()):
        if name in Task.of(data).settings:
            sample_pipeline(config, Detector(), data)
            BatchAugment(config, data)
            continue
        for ask in (lambda d: sample_pipeline(config, Detector(), d), lambda d: BatchAugment(config, d)):
            with pytest.raises(InputError, match=f"^{name} has no effect on data to {data.task}; it is a setting for"):
                ask(data)


def test_what_is_off_is_allowed_everywhere() -> None:
    config = settings()
    for data in (small_digits(), squares()):
        assert [type(step) for step in sample_pipeline(config, Detector(), data).transforms] == [Fit]
        assert not BatchAugment(config, data).mixing


def test_objects_are_cropped_before_they_are_scaled_and_mirrored_with_their_keypoints() -> None:
    data = replace(squares(), mirrored=(0, 2, 1))
    steps = sample_pipeline(settings(object_crop=0.4, scale_jitter=(0.5, 1.5), flip=True), Detector(), data).transforms
    assert steps == (ObjectCrop(0.4), ScaleJitter((24, 24), (0.5, 1.5)), HorizontalFlip(0.5, (0, 2, 1)))


def batches(data: Dataset, start: int = 0) -> list[Batch]:
    config = settings(object_crop=0.5, scale_jitter=(0.5, 2.0), flip=True, shift=0.1, mosaic=0.5, seed=3)
    loader, augment = training_loader(Detector(), data, config), BatchAugment(config, data)
    found = []
    for number, batch in enumerate(loader.epoch(1, start), start):
        found.append(augment(batch.float(), np.random.default_rng([3, 1, number])))
    return found


def test_an_epoch_goes_on_as_it_would_have() -> None:
    whole, rest = batches(squares()), batches(squares(), start=3)
    assert len(whole) == 6
    assert len(rest) == 3
    for one, two in zip(whole[3:], rest, strict=True):
        assert one.images.equal(two.images)
        assert all(a.boxes.equal(b.boxes) for a, b in zip(one.targets, two.targets, strict=True))


def test_marked_objects_stay_under_their_boxes_through_all_of_it() -> None:
    """White squares, in black images, are where the boxes say after all transforms together."""
    data = squares()
    assert isinstance(data.images, ImageArray)
    seen = 0
    for batch in batches(data):
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert isinstance(target, Objects)
            for x1, y1, x2, y2 in target.boxes.round().long().tolist():
                if x2 - x1 > 4 and y2 - y1 > 4:  # the outermost pixels are blends with black
                    assert image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 0.8
                    seen += 1
    assert seen > 20
