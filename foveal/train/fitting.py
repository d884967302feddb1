"""The data of a system that learns by a rule of its own: batches that it goes through as often as it likes."""

from collections.abc import Iterator

from foveal.data.loader import Loader
from foveal.structures import Batch
from foveal.train.screen import Meter, Screen

KEPT = 2**28  # bytes of prepared images that stay in memory, so that they are read and prepared once


class Passes:
    """Float batches, the same in each pass."""

    def __init__(self, loader: Loader, screen: Screen, meter: Meter) -> None:
        self.loader, self.screen, self.meter = loader, screen, meter
        self.kept: list[Batch] | None = None  # all batches, as bytes
        self.passes = 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        for batch in self._bytes() if self.kept is None else self.kept:
            yield batch.float()
            self.meter.images += len(batch)
            self.screen.fitting(self.passes, self.meter)

    def _bytes(self) -> Iterator[Batch]:
        """One epoch from the loader, which is kept if it is small."""
        kept, size = [], 0
        for batch in self.loader.epoch():
            size += batch.images.nbytes
            if size <= KEPT:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= KEPT:
            self.kept = kept
