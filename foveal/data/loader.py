"""From a data set to batches, in the order and with the random draws that (seed, epoch, index) alone decide."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.data.dataset import Dataset
from foveal.data.image import ImageError
from foveal.data.readers import AHEAD, Readers
from foveal.data.transforms import Pipeline, Sample
from foveal.errors import InputError
from foveal.structures import Batch, to_float
from foveal.system import Preprocess

MAX_UNREADABLE = 0.1  # of the images; more than that is not bad luck but a wrong folder


class Loader:
    """Batches of one split, as many epochs as wanted.

    dataset:    the view to read.
    pipeline:   what is done to each sample.
    preprocess: the system's, which pads images of several sizes to that of the largest of their batch; without one the
                pipeline has to make all one size.
    shuffle:    a new order each epoch, and an incomplete last batch is left out; else the data's own order, complete.
    workers:    processes that read ahead; 0 reads in this one.
    share:      (r, n): of each batch only every n-th image from the r-th on, where n processes train together. The
                batch size stays that of all of them; shares of complete batches are equal.
    unreadable: name -> reason of each image that did not decode. When shuffling, the next image that does stands in
                for it (one rule, the same in each run); else it is left out. Too many raise InputError.
    waited:     seconds that iteration has kept its caller waiting.
    """

    def __init__(
        self,
        dataset: Dataset,
        pipeline: Pipeline,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
        preprocess: Preprocess | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise InputError(
                f"batch_size is at least 1 and workers at least 0, not {batch_size} images and {workers} processes"
            )
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed
        self.batch_size = min(batch_size, len(dataset))
        if shuffle and self.batch_size % share[1]:
            raise InputError(
                f"batches of {self.batch_size} images cannot be shared evenly by {share[1]} processes: set batch_size "
                f"to a multiple of {share[1]}"
            )
        self.unreadable: dict[str, str] = {}
        self.waited = 0.0
        self._allowed = min(max(1, int(MAX_UNREADABLE * len(dataset))), len(dataset) - 1)
        self._order = _Order(len(dataset), self.batch_size, seed, shuffle, share)
        self._fetch = _Fetch(dataset, pipeline, preprocess, self._order, self._allowed, replace_unreadable=shuffle)
        self._readers = Readers(self._fetch, min(workers, len(self))) if workers else None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._order.batches

    @property
    def unused(self) -> int:
        """Images that an epoch leaves out, for the last batch would be incomplete."""
        return len(self.dataset) % self.batch_size if self.shuffle else 0

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from its `start`-th on, images uint8."""
        keys = [(number, batch) for batch in range(start, len(self))]
        source = iter(map(self._fetch, keys)) if self._readers is None else self._readers.each(keys)
        pinned = self._readers is not None and torch.cuda.is_available()
        while True:
            before = time.perf_counter()
            fetched = next(source, None)
            self.waited += time.perf_counter() - before
            if fetched is None:
                return
            if isinstance(fetched, str):
                raise InputError(fetched)
            batch, unreadable = fetched
            self.note(unreadable)
            if batch is not None:
                yield batch.pin_memory() if pinned else batch

    def few(self, count: int) -> Batch | None:
        """The first images of the first batch, prepared in this process; None where none of them can be read."""
        fetched = self._fetch((0, 0), count)
        return None if isinstance(fetched, str) else fetched[0]

    @property
    def held(self) -> int:
        """How many batches the processes that read and this one hold at once."""
        return 1 + (AHEAD + 1) * self._readers.count if self._readers else 1

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of float batches, on the CPU."""
        return (batch.float() for batch in self.epoch())

    def note(self, unreadable: dict[str, str]) -> None:
        """Count images, by name with the reason, as unreadable. Raises InputError where these are too many."""
        self.unreadable.update(unreadable)
        if len(self.unreadable) > self._allowed:
            raise InputError(
                f"{self.dataset.source}: more than {self._allowed} of {len(self.dataset)} images cannot be read; "
                f"the first: {next(iter(self.unreadable.values()))}"
            )


class _Order:
    """Which images each batch of an epoch has. Any process can tell, so that a request for a batch is two numbers."""

    def __init__(self, count: int, batch_size: int, seed: int, shuffle: bool, share: tuple[int, int]) -> None:
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.share = slice(share[0], None, share[1])
        self.batches = count // batch_size if shuffle else -(-count // batch_size)
        self._epoch, self._images = -1, np.arange(count)

    def rows(self, epoch: int, batch: int) -> list[int]:
        """The images of this process's share of a batch."""
        if self.shuffle and epoch != self._epoch:
            self._epoch, self._images = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self._images[batch * self.batch_size : (batch + 1) * self.batch_size][self.share].tolist()


@dataclass
class _Fetch:
    """Reads and prepares the samples of one batch; what runs in a worker process."""

    dataset: Dataset
    pipeline: Pipeline
    preprocess: Preprocess | None
    order: _Order
    allowed: int
    replace_unreadable: bool

    def __call__(self, key: tuple[int, int], count: int | None = None) -> tuple[Batch | None, dict[str, str]] | str:
        """The batch of an (epoch, number), or so many images of it, and what could not be read; or the text of an
        InputError."""
        unreadable: dict[str, str] = {}
        try:
            found = [self._sample(key[0], index, unreadable) for index in self.order.rows(*key)[:count]]
            samples = [sample for sample in found if sample is not None]
            return (_collate(samples, self.preprocess) if samples else None), unreadable
        except InputError as error:
            return str(error)

    def _sample(self, epoch: int, index: int, unreadable: dict[str, str]) -> Sample | None:
        """The sample, or the one in its place; None where there is none, or so many failed that the run ends here."""
        for step in range(len(self.dataset) if self.replace_unreadable else 1):
            if len(unreadable) > self.allowed:
                break
            stand_in = (index + step) % len(self.dataset)
            try:
                image, target = self.dataset[stand_in]
            except ImageError as error:
                unreadable[self.dataset.name(stand_in)] = str(error)
            else:
                if target is None and self.dataset.targets is not None:
                    name = self.dataset.name(stand_in)
                    raise InputError(f"{name} has no target, others have one: give one to every image or to none")
                return self.pipeline(Sample.original(image, target, stand_in), epoch)
        return None


def _collate(samples: list[Sample], preprocess: Preprocess | None) -> Batch:
    images = [sample.image for sample in samples]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        if preprocess is None:
            raise InputError(f"the transforms leave images of several sizes in one batch: {sorted(shapes)[:3]}")
        size = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
        images = [preprocess.padded(image, size) for image in images]
    if len({image.dtype for image in images}) > 1:
        images = [to_float(image) for image in images]
    return Batch(
        _stack(images),
        () if all(sample.target is None for sample in samples) else tuple(sample.target for sample in samples),
        torch.tensor([sample.index for sample in samples]),
        torch.stack([sample.affine for sample in samples]).float(),
        torch.tensor([sample.size for sample in samples]),
    )


def _stack(images: list[Tensor]) -> Tensor:
    """(B, 3, H, W), laid out in memory as the images are: to change that is for those who wait for no worker."""
    if images[0].stride(0) == 1:
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return torch.stack(images)
