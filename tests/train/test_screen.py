"""The live line of a run."""

from types import SimpleNamespace
from typing import Any

from foveal.progress import fitted
from foveal.train.config import TrainConfig
from foveal.train.screen import Screen
from foveal.train.state import Progress


class Loader:
    batch_size = 10
    dataset = range(30)

    def __len__(self) -> int:
        return 10


def line(screen: Screen) -> list[str]:
    """What the line says in the first of two epochs, at 10 images a second, with half of its batches done."""
    progress = Progress(epochs=2, batch=5, totals={"class": 1.0, "loss": 1.0, "steps": 2})
    speed = {"seconds": 5.0, "images_per_second": 10.0, "waiting": 0.25}
    meter: Any = SimpleNamespace(loader=Loader(), read=lambda: speed)
    screen._due_at = 0.0
    screen.step(progress, meter)
    return screen.parts()


def test_the_time_left_includes_validation_and_report() -> None:
    screen = Screen(TrainConfig(quiet=True))
    screen.live = True
    screen.begin(None)
    assert line(screen)[1] == "15.0 s left"
    loader: Any = Loader()
    screen.begin(loader)  # 30 images at three times the speed, after each epoch and for the report
    assert line(screen)[1] == "18.0 s left"
    screen.validation = 4.0
    assert line(screen)[1] == "27.0 s left"
    screen.report = False
    assert line(screen)[1] == "23.0 s left"


def test_the_line_of_an_epoch_fits_a_terminal_and_loses_the_least() -> None:
    screen = Screen(TrainConfig(quiet=True))
    screen.live = True
    parts = line(screen)
    assert fitted(parts, 80) == f"{parts[0]}  15.0 s left  class 0.5  10 images/s  25% waiting for data"
    assert fitted(parts, 60) == f"{parts[0]}  15.0 s left  class 0.5  10 images/s"
    screen.stage("measuring", 4)
    assert screen.parts()[0].startswith("measuring")
