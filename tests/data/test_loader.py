"""Batches: the same ones for any number of workers and after any resumption, and what becomes of damaged images."""

import gc
import multiprocessing
import pickle
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveal.data.dataset import Dataset, ImageArray, ImageFiles, LabelColumn
from foveal.data.loader import Loader
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
from foveal.structures import Batch, Caption, Label, Objects, Target
from foveal.system import Preprocess

SIZE = (10, 12)
PLAIN = Pipeline((Fit(Preprocess(SIZE, "squash")),))


def noise(image: Tensor) -> Tensor:
    """A transform of one's own that draws from all three global generators."""
    draws = torch.randint(0, 9, ()) + int(np.random.rand() * 9) + random.randrange(9)  # noqa: NPY002
    return image ^ draws.to(torch.uint8)


RANDOM = (
    External(noise),
    RandomResizedCrop(SIZE, (0.3, 1.0)),
    Fit(Preprocess(SIZE, "squash")),
    Shift(0.2),
    HorizontalFlip(),
    TrivialAugment(),
    ColorJitter(0.3, 0.3, 0.3, 0.1),
    Cutout(0.4),
)


def images(count: int) -> ImageArray:
    draw = torch.Generator().manual_seed(0)
    sizes = [(8 + i % 5, 9 + i % 7) for i in range(count)]
    return ImageArray([torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw) for size in sizes], "made")


def dataset(count: int = 23, targets: Any = None) -> Dataset:
    targets = LabelColumn(np.arange(count) % 3) if targets is None else targets
    return Dataset("made", "any", ("a", "b", "c"), images(count), targets, np.zeros(count, np.int8))


def objects(count: int = 23) -> Dataset:
    """From none to three objects in an image, with masks and keypoints."""
    draw = np.random.default_rng(1)
    targets = []
    for image in images(count).images:
        height, width = image.shape[1:]
        number = int(draw.integers(0, 4))
        boxes = torch.tensor(draw.uniform(0, 8, (number, 2, 2)).cumsum(1).reshape(number, 4), dtype=torch.float32)
        points = torch.tensor(draw.uniform(0, 8, (number, 5, 3)), dtype=torch.float32)
        masks = torch.tensor(draw.random((number, height, width)) < 0.5)
        targets.append(Objects(boxes, torch.arange(number), masks=masks, keypoints=points))
    return dataset(count, targets)


def equal(one: Any, two: Any) -> bool:
    """Whether two batches or targets are the same, bit for bit and type for type."""
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, Batch | Target):
        return type(one) is type(two) and all(equal(value, vars(two)[name]) for name, value in vars(one).items())
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(one == two)


def order(batches: Any) -> list[int]:
    return [index for batch in batches for index in batch.indices.tolist()]


# --- The same batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [dataset, objects])
def test_workers_change_nothing(data: Callable[[], Dataset]) -> None:
    here = Loader(data(), Pipeline(RANDOM, 3), batch_size=4, seed=3, shuffle=True)
    there = Loader(data(), Pipeline(RANDOM, 3), batch_size=4, seed=3, shuffle=True, workers=2)
    epochs = [[list(loader.epoch(number)) for number in (0, 1)] for loader in (here, there)]
    assert equal(*epochs)
    # What a resumption sees is the rest of the epoch; the workers are the same ones all along.
    for loader in (here, there):
        assert equal(list(loader.epoch(1, 3)), epochs[0][1][3:])
        assert equal(list(loader.epoch(0)), epochs[0][0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_shares_make_up_the_batches(shuffle: bool) -> None:
    def epoch(**settings: Any) -> list[Batch]:
        return list(Loader(dataset(), Pipeline(RANDOM, 3), batch_size=6, seed=3, shuffle=shuffle, **settings).epoch(1))

    whole, shares = epoch(), [epoch(share=(number, 3), workers=number % 2) for number in range(3)]
    sizes = [[len(batch) for batch in share] for share in shares]
    assert sizes == ([[2, 2, 2]] * 3 if shuffle else [[2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 1]])
    for number, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            assert torch.equal(share[number].indices, batch.indices[rank::3])
            assert torch.equal(share[number].images, batch.images[rank::3])


def test_a_share_of_less_than_one_image_is_no_batch() -> None:
    shares = [list(Loader(dataset(7), PLAIN, batch_size=3, share=(number, 3)).epoch()) for number in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]


def test_what_cannot_be_shared_evenly_is_an_error() -> None:
    with pytest.raises(InputError, match="batches of 7 images cannot be shared evenly by 2 processes"):
        Loader(dataset(7), PLAIN, batch_size=64, shuffle=True, share=(0, 2))


def test_workers_draw_nothing_from_the_training() -> None:
    # Dropout draws from this generator: were the loader to touch it, a resumed run would not end like a whole one.
    before = torch.get_rng_state()
    for workers in (0, 1):
        loader = Loader(dataset(), Pipeline(RANDOM), batch_size=4, shuffle=True, workers=workers)
        for number in range(2):
            assert len(list(loader.epoch(number))) == 5
            assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_differ() -> None:
    loader = Loader(dataset(), Pipeline(RANDOM), batch_size=4, shuffle=True)
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert order(first) != order(second)
    assert order(Loader(dataset(), PLAIN, batch_size=4, seed=1, shuffle=True).epoch(0)) != order(first)
    seen = {index: image for batch in first for index, image in zip(batch.indices.tolist(), batch.images, strict=True)}
    again = [
        (seen[index], image)
        for batch in second
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
        if index in seen
    ]
    assert len(again) > 10
    assert sum(torch.equal(one, two) for one, two in again) < 3  # each epoch augments anew


def test_two_epochs_side_by_side() -> None:
    loader = Loader(dataset(), Pipeline(RANDOM), batch_size=4, shuffle=True)
    apart = [list(loader.epoch(0)), list(loader.epoch(1))]
    pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert equal([list(batches) for batches in zip(*pairs, strict=True)], apart)


def test_an_epoch_left_early() -> None:
    loader = Loader(dataset(), Pipeline(RANDOM), batch_size=4, shuffle=True, workers=1)
    next(loader.epoch(0))
    fresh = Loader(dataset(), Pipeline(RANDOM), batch_size=4, shuffle=True)
    assert equal(list(loader.epoch(0)), list(fresh.epoch(0)))


def test_no_more_workers_than_batches() -> None:
    before = len(multiprocessing.active_children())
    loader = Loader(dataset(8), PLAIN, batch_size=4, workers=50)
    assert order(loader.epoch()) == list(range(8))
    assert len(multiprocessing.active_children()) - before <= 2


def test_workers_end_with_their_loader() -> None:
    loader = Loader(dataset(), PLAIN, batch_size=4, workers=2)
    next(loader.epoch())
    children = multiprocessing.active_children()
    assert len(children) >= 2
    gc.disable()
    try:
        started = time.monotonic()
        del loader
        assert time.monotonic() - started < 4  # torch kills what does not end within 5 seconds
    finally:
        gc.enable()
    assert not any(child.is_alive() for child in children)


def test_an_incomplete_last_batch() -> None:
    drawn = Loader(dataset(23), PLAIN, batch_size=4, shuffle=True)
    assert len(drawn) == 5
    assert [len(batch) for batch in drawn.epoch()] == [4] * 5
    assert len(set(order(drawn.epoch()))) == 20
    whole = Loader(dataset(23), PLAIN, batch_size=4)
    assert len(whole) == 6
    assert [len(batch) for batch in whole.epoch()] == [4] * 5 + [3]
    assert order(whole.epoch()) == list(range(23))
    small = Loader(dataset(3), PLAIN, batch_size=100, shuffle=True)
    assert (len(small), small.batch_size) == (1, 3)
    assert sorted(order(small.epoch())) == [0, 1, 2]


def test_all_are_left_out_once_in_a_while() -> None:
    loader = Loader(dataset(23), PLAIN, batch_size=4, shuffle=True)
    assert len({index for number in range(12) for index in order(loader.epoch(number))}) == 23


def test_what_a_batch_holds() -> None:
    data = dataset()
    (batch, *_) = Loader(data, PLAIN, batch_size=5).epoch()
    assert batch.images.shape == (5, 3, *SIZE)
    assert batch.images.dtype == torch.uint8
    assert batch.indices.tolist() == [0, 1, 2, 3, 4]
    assert batch.sizes.tolist() == [list(data.image(i).shape[1:]) for i in range(5)]
    assert [int(target.label) for target in batch.targets] == [0, 1, 2, 0, 1]
    for affine, (height, width) in zip(batch.affines, batch.sizes.tolist(), strict=True):
        torch.testing.assert_close(affine @ torch.tensor([width, height, 1.0]), torch.tensor([12.0, 10.0]))
    (floats, *_) = Loader(data, PLAIN, batch_size=5)
    assert floats.images.dtype == torch.float32
    assert torch.equal(floats.images.mul(255).round().to(torch.uint8), batch.images)


def test_images_without_targets() -> None:
    data = replace(dataset(), targets=None)
    assert [batch.targets for batch in Loader(data, PLAIN, batch_size=20, workers=1).epoch()] == [(), ()]


def test_the_view_is_what_is_read() -> None:
    data = replace(dataset(), splits=np.arange(23, dtype=np.int8) % 2).select("val")
    batches = list(Loader(data, PLAIN, batch_size=4).epoch())
    assert order(batches) == list(range(11))  # of the view
    assert [int(target.label) for target in batches[0].targets] == [1 % 3, 3 % 3, 5 % 3, 7 % 3]


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 0), (-1, 0), (4, -1)])
def test_numbers_that_cannot_be(batch_size: int, workers: int) -> None:
    with pytest.raises(InputError, match="batch_size is at least 1 and workers at least 0"):
        Loader(dataset(), PLAIN, batch_size=batch_size, workers=workers)


# --- Batches between processes and devices ---------------------------------------------------------------------------


def targets_of_all_kinds() -> Iterator[tuple[Target, ...]]:
    def some(number: int, **more: Tensor) -> Objects:
        return Objects(torch.rand(number, 4), torch.arange(number), **more)

    yield ()
    yield Label(torch.tensor(3)), Label(torch.tensor(0))
    yield Label(torch.tensor(3), torch.rand(4)), Label(torch.tensor(0), torch.rand(4))
    yield Caption(torch.tensor([1, 2, 3])), Caption(torch.tensor([], dtype=torch.int64)), Caption(torch.tensor([5]))
    yield some(3), some(0), some(1)
    yield some(3), some(2, scores=torch.rand(2)), some(1)  # some are known better than others
    yield some(1, crowd=torch.tensor([True])), some(0)
    yield some(0), some(0)
    yield some(2, scores=torch.rand(2)), some(0, scores=torch.rand(0))
    yield some(2, crowd=torch.tensor([True, False])), some(1, crowd=torch.tensor([False]))
    yield tuple(
        some(n, masks=torch.rand(n, 4 + n, 6) < 0.5, keypoints=torch.rand(n, 5, 3), crowd=torch.zeros(n) > 0)
        for n in (2, 0, 3)
    )


@pytest.mark.parametrize("targets", list(targets_of_all_kinds()))
def test_a_batch_goes_anywhere(targets: tuple[Target, ...]) -> None:
    count = len(targets) or 2
    batch = Batch(
        torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8),
        targets,
        torch.arange(count) + 7,
        torch.rand(count, 2, 3),
        torch.randint(1, 99, (count, 2)),
    )
    assert equal(pickle.loads(pickle.dumps(batch)), batch)
    assert equal(batch.to("cpu"), batch)
    moved = batch.to("meta")
    assert [type(target) for target in moved.targets] == [type(target) for target in targets]
    for one, two in zip(moved.targets, targets, strict=True):
        for (_, there), (_, here) in zip(one.tensors(), two.tensors(), strict=True):
            assert (there is None) == (here is None)
            if there is not None and here is not None:
                assert (there.device.type, there.shape, there.dtype) == ("meta", here.shape, here.dtype)
    assert {value.device.type for name, value in vars(moved).items() if name not in ("targets", "step")} == {"meta"}


# --- Damaged images --------------------------------------------------------------------------------------------------


def folder(root: Path, count: int, broken: set[int]) -> Dataset:
    """`count` images whose value is their number, some of them no images."""
    for i in range(count):
        Image.new("RGB", (2, 2), (i, i, i)).save(root / f"{i}.png")
        if i in broken:
            (root / f"{i}.png").write_bytes(b"no image")
    files = ImageFiles(root, [f"{i}.png" for i in range(count)])
    labels = LabelColumn(np.arange(count) % 3)
    return Dataset(str(root), "classify", ("a", "b", "c"), files, labels, np.zeros(count, np.int8))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_damaged_images(tmp_path: Path, workers: int) -> None:
    data = folder(tmp_path, 40, broken={3, 10, 11, 39})
    loader = Loader(data, PLAIN, batch_size=8, shuffle=True, workers=workers)
    (tmp_path / "whole").mkdir()
    intact = Loader(folder(tmp_path / "whole", 40, set()), PLAIN, batch_size=8, shuffle=True)
    stand_in = {3: 4, 10: 12, 11: 12, 39: 0}
    for number in range(2):
        batches = list(loader.epoch(number))
        expected = [stand_in.get(index, index) for index in order(intact.epoch(number))]
        assert order(batches) == expected
        assert [len(batch) for batch in batches] == [8] * 5
        for batch in batches:
            assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
            assert [int(target.label) for target in batch.targets] == [i % 3 for i in batch.indices.tolist()]
    assert sorted(loader.unreadable) == sorted(str(tmp_path / f"{i}.png") for i in (3, 10, 11, 39))
    assert all(name in reason and "not a JPEG" in reason for name, reason in loader.unreadable.items())


def test_a_long_row_of_damaged_images(tmp_path: Path) -> None:
    data = folder(tmp_path, 200, broken=set(range(100, 120)))
    loader = Loader(data, PLAIN, batch_size=1, shuffle=True)
    assert len(list(loader.epoch())) == 200  # or the count of batches, by which a run resumes, would be wrong
    assert len(loader.unreadable) == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_leaves_damaged_images_out(tmp_path: Path, workers: int) -> None:
    loader = Loader(folder(tmp_path, 40, broken={3, 8, 9, 39}), PLAIN, batch_size=2, workers=workers)
    assert order(loader.epoch()) == [i for i in range(40) if i not in (3, 8, 9, 39)]
    assert len(loader.unreadable) == 4
    assert order(loader.epoch()) == [i for i in range(40) if i not in (3, 8, 9, 39)]
    assert len(loader.unreadable) == 4


def refusal(loader: Loader) -> str:
    """What an epoch of the loader ends with. Unlike pytest.raises this keeps no traceback, which keeps the workers."""
    try:
        list(loader.epoch())
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was wrong")


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("count", "broken", "workers"), [(40, 5, 0), (40, 40, 0), (5, 2, 0), (2, 2, 0), (1, 1, 0), (40, 5, 1), (40, 40, 1)]
)
def test_too_many_damaged_images(tmp_path: Path, count: int, broken: int, workers: int, shuffle: bool) -> None:
    data = folder(tmp_path, count, broken=set(range(broken)))
    text = refusal(Loader(data, PLAIN, batch_size=4, shuffle=shuffle, workers=workers))
    allowed = {40: 4, 5: 1, 2: 1, 1: 0}[count]
    assert f"{tmp_path}: more than {allowed} of {count} images cannot be read; the first: cannot read" in text
    assert ".png" in text
    assert "\n" not in text


def test_few_damaged_images_are_borne(tmp_path: Path) -> None:
    for shuffle in (True, False):
        loader = Loader(folder(tmp_path, 3, broken={1}), PLAIN, batch_size=1, shuffle=shuffle)
        assert len(list(loader.epoch())) == (3 if shuffle else 2)
        assert list(loader.unreadable) == [str(tmp_path / "1.png")]


def wrong(image: Tensor) -> Tensor:
    return image.float()


def grow(image: Tensor) -> Tensor:
    return torch.zeros(3, int(image[0, 0, 0]) % 7 + 1, 2, dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("function", "message"),
    [(wrong, "the transform wrong returned torch.float32"), (grow, "images of several sizes in one batch")],
)
def test_a_wrong_transform_is_one_line(function: Callable[[Tensor], Tensor], message: str, workers: int) -> None:
    text = refusal(Loader(dataset(), Pipeline((External(function),)), batch_size=4, workers=workers))
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("workers", [0, 1])
def test_some_images_without_a_target(workers: int) -> None:
    """Targets would otherwise stand beside other images than their own."""
    images = torch.zeros(6, 3, *SIZE, dtype=torch.uint8)
    targets: Any = [Label(torch.tensor(0)), None, Label(torch.tensor(1)), None, None, Label(torch.tensor(0))]
    data = Dataset("some", "classify", ("a", "b"), ImageArray(images, "some"), targets, np.zeros(6, np.int64))
    loader = Loader(data, PLAIN, batch_size=6, workers=workers)
    with pytest.raises(InputError, match="some/1 has no target"):
        list(loader.epoch())
