"""What a person sees while a run goes on: a live line in a terminal, a plain line an epoch elsewhere. All on stderr."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from foveal.data.loader import Loader
from foveal.errors import one_line
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


class Screen:
    """Progress of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.console = Console(stderr=True, quiet=config.quiet, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, transient=True, auto_refresh=False)
        self.drawn = 0.0

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(one_line(line), markup=False)

    def step(self, progress: Progress, meter: Meter) -> None:
        """Draw the live line anew, at most ten times a second."""
        if not self._due():
            return
        speed, batches = meter.read(), len(meter.loader)
        left = ((progress.epochs - progress.epoch) * batches - progress.batch) * meter.loader.batch_size
        bar = "━" * round(10 * progress.batch / batches)
        line = Text(f"{NOUNS[progress.phase]} {progress.epoch + 1}/{progress.epochs} ", "bold")
        line.append(f"{bar:<10}", "not bold cyan")
        line.append(
            f" {duration(left / speed['images_per_second'])} left  {speed['images_per_second']:,.0f} images/s  "
            f"{speed['waiting']:.0%} waiting for data  {numbers(losses(progress.means()))}",
            "not bold",
        )
        self.live.update(line, refresh=True)

    def fitting(self, number: int, meter: Meter) -> None:
        """The same, in a pass over the images of a system that learns by a rule of its own."""
        if self._due():
            speed = meter.read()
            self.live.update(
                Text(f"pass {number}", "bold").append(
                    f"  {duration(speed['seconds'])} so far  {speed['images_per_second']:,.0f} images/s  "
                    f"{speed['waiting']:.0%} waiting for data",
                    "not bold",
                ),
                refresh=True,
            )

    def _due(self) -> bool:
        """Whether there is a live line, and it is old."""
        now = time.monotonic()
        if not self.live.is_started or now - self.drawn < 0.1:
            return False
        self.drawn = now
        return True

    def epoch(self, record: Mapping[str, Any], progress: Progress) -> None:
        """The line that closes an epoch."""
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
