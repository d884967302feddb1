"""The data of a system that learns by a rule of its own: batches that it goes through as often as it likes."""

from collections.abc import Iterator

from foveal.data.loader import Loader
from foveal.structures import Batch
from foveal.train.run import Run
from foveal.train.screen import Meter, Screen
from foveal.train.stopping import StopRequests

KEPT = 2**28  # bytes of prepared images that stay in memory, so that they are read and prepared once


class Passes:
    """Float batches, the same in each pass. Where the run is to stop, the next one is refused: the state saved before
    the rule began is what a resumption begins with."""

    def __init__(self, loader: Loader, run: Run, screen: Screen, meter: Meter, stop: StopRequests) -> None:
        self.loader, self.run, self.screen, self.meter, self.stop = loader, run, screen, meter, stop
        self.kept: list[Batch] | None = None  # all batches, as bytes
        self.passes = 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        for batch in self._bytes() if self.kept is None else self.kept:
            if self.stop.requested:
                raise self.run.interrupt()
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
