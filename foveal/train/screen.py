"""Progress of a training run on stderr: a live line in a terminal, and a plain line an epoch everywhere."""

import time
from collections.abc import Mapping
from typing import Any

from foveal.data.loader import Loader
from foveal.errors import one_line
from foveal.progress import Bar
from foveal.train.config import TrainConfig
from foveal.train.state import Progress
from foveal.wording import duration

FIGURES = 5  # of an epoch, in one line
NOUNS = {"train": "epoch", "refit": "refit epoch"}


class Meter:
    """How fast an epoch goes, from its beginning or its resumption."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.started, self.waited = loader, time.perf_counter(), loader.waited
        self.images = 0

    def read(self) -> dict[str, float]:
        """Seconds so far, images per second, and the share of the time spent waiting for data."""
        seconds = time.perf_counter() - self.started
        waiting = (self.loader.waited - self.waited) / seconds
        return {"seconds": seconds, "images_per_second": self.images / seconds, "waiting": waiting}


class Screen(Bar):
    """Progress of one run."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__("measuring the first steps", quiet=config.quiet, every=None)
        self.report = config.report
        self.images, self.validation = 0, 0.0
        self._line: list[str] | None = None
        self._due_at = self._stepped = 0.0

    def begin(self, val_loader: Loader | None) -> None:
        """A phase that measures these images after each epoch."""
        self.images, self.validation = len(val_loader.dataset) if val_loader else 0, 0.0

    def stage(self, title: str, total: float | None = None) -> None:
        self._line = None
        super().stage(title, total)

    def parts(self) -> list[str]:
        return super().parts() if self._line is None else self._line

    def step(self, progress: Progress, meter: Meter) -> None:
        """Bring the live line up to date, at most ten times a second."""
        self._stepped = time.monotonic()
        if not self._due():
            return
        speed, batches = meter.read(), len(meter.loader)
        steps = ((progress.epochs - progress.epoch) * batches - progress.batch) * meter.loader.batch_size
        left = steps / speed["images_per_second"] + self._measuring(progress, speed["images_per_second"])
        self._line = [
            f"{NOUNS[progress.phase]} {progress.epoch + 1}/{progress.epochs} {self.gauge(progress.batch / batches)}",
            f"{duration(left)} left",
            numbers(losses(progress.means())),
            f"{speed['images_per_second']:,.0f} images/s",
            f"{speed['waiting']:.0%} waiting for data",
        ]

    def _measuring(self, progress: Progress, images_per_second: float) -> float:
        """Seconds that validation and the report still take; the report measures the validation images once more.

        Before the first validation an image counts a third of one of training, since it has no backward pass."""
        once = self.validation or self.images / (3 * images_per_second)
        return (progress.epochs - progress.epoch + self.report) * once

    def fitting(self, number: int, meter: Meter) -> None:
        """The same, in a pass over the images of a system that learns by a rule of its own."""
        if self._due():
            speed = meter.read()
            self._line = [
                f"pass {number}",
                f"{duration(speed['seconds'])} so far",
                f"{speed['images_per_second']:,.0f} images/s",
                f"{speed['waiting']:.0%} waiting for data",
            ]

    def _due(self) -> bool:
        """Whether there is a live line, and it is old."""
        now = time.monotonic()
        if not self.live or now < self._due_at:
            return False
        self._due_at = now + 0.1
        return True

    def epoch(self, record: Mapping[str, Any], progress: Progress) -> None:
        """The line that closes an epoch."""
        if record["val"] and self._stepped:
            self.validation = time.monotonic() - self._stepped
        self.say(epoch_line(record, progress))


def epoch_line(record: Mapping[str, Any], progress: Progress) -> str:
    """At most five figures of an epoch: the loss in training, the first ones on the val split, and the speed or, where
    a quarter of the time is spent waiting for data, that share. metrics.jsonl has all of them."""
    train = losses(record["train"])
    val = dict(list(record["val"].items())[: FIGURES - 1 - len(train)])
    parts = [f"{NOUNS[progress.phase]} {progress.epoch}/{progress.epochs}", f"train {numbers(train)}"]
    if val:
        parts.append(f"val {numbers(val, record.get('few', {}))}")
    waiting = record["waiting"]
    parts.append(
        f"waiting for data {waiting:.0%}" if waiting >= 0.25 else f"{record['images_per_second']:,.0f} images/s"
    )
    if record["best"] and progress.phase == "train":
        parts.append("best so far")
    return "  ".join(parts)


def losses(terms: Mapping[str, float]) -> dict[str, float]:
    """The whole loss, or that of each player, without the terms that it is the sum of."""
    whole = {name: value for name, value in terms.items() if name.split("_")[-1] == "loss"}
    return dict(list((whole or dict(terms)).items())[: FIGURES - 2])


def numbers(values: Mapping[str, float], few: Mapping[str, str] | None = None) -> str:
    """Names and values for a line of text. few: name -> what a figure rests on, where that is almost nothing."""
    notes = {name: f" ({text})" for name, text in (few or {}).items()}
    return "  ".join(f"{one_line(name)} {value:.4g}{notes.get(name, '')}" for name, value in values.items())
