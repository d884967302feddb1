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
            f"{speed['waiting']:.0%} waiting for data  {numbers(progress.means())}",
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
        val = f"val {numbers(record['val'])}  " if record["val"] or progress.phase == "train" else ""
        best = "  best so far" if record["best"] and progress.phase == "train" else ""
        self.say(
            f"{NOUNS[progress.phase]} {progress.epoch}/{progress.epochs}  train {numbers(record['train'])}  {val}"
            f"{record['images_per_second']:,.0f} images/s  waiting for data {record['waiting']:.0%}{best}"
        )


class Bar:
    """A live line with a bar for a work of known size, in a terminal; nothing elsewhere. On stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, transient=True, auto_refresh=False)
        self.drawn = self.started = time.monotonic()

    def __enter__(self) -> "Bar":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Draw the line again, at most ten times a second."""
        now = time.monotonic()
        if not done:
            self.started = now
        elif now - self.drawn < 0.1:
            return
        self.drawn = now
        if not self.live.is_started:
            return
        line = Text(f"{what} ", "bold").append(f"{'━' * round(10 * done / total):<10}", "not bold cyan")
        line.append(f" {done}/{total}", "not bold")
        if done:
            line.append(f"  {duration((now - self.started) * (total - done) / done)} left", "not bold")
        self.live.update(line, refresh=True)


def numbers(values: Mapping[str, float]) -> str:
    """Names and values for a line of text; a sum of one term is not said twice."""
    shown = {name: value for name, value in values.items() if not (name == "loss" and len(values) == 2)}
    return "  ".join(f"{one_line(name)} {value:.4g}" for name, value in (shown if len(shown) == 1 else values).items())


def duration(seconds: float) -> str:
    """1 h 2 min, 3 min 4 s or 5.6 s."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if seconds >= 60 else f"{seconds:.1f} s"
