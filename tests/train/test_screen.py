"""The live line of a run, and the line that closes an epoch."""

from types import SimpleNamespace
from typing import Any

from foveal.progress import fitted
from foveal.train.config import TrainConfig
from foveal.train.screen import Screen, epoch_line
from foveal.train.state import Progress


class Loader:
    batch_size = 10
    dataset = range(30)

    def __len__(self) -> int:
        return 10


def live_line(screen: Screen) -> list[str]:
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
    assert live_line(screen)[1] == "15.0 s left"
    loader: Any = Loader()
    screen.begin(loader)  # 30 images at three times the speed, after each epoch and for the report
    assert live_line(screen)[1] == "18.0 s left"
    screen.validation = 4.0
    assert live_line(screen)[1] == "27.0 s left"
    screen.report = False
    assert live_line(screen)[1] == "23.0 s left"


def test_the_line_of_an_epoch_fits_a_terminal_and_loses_the_least() -> None:
    screen = Screen(TrainConfig(quiet=True))
    screen.live = True
    parts = live_line(screen)
    assert fitted(parts, 80) == f"{parts[0]}  15.0 s left  loss 0.5  10 images/s  25% waiting for data"
    assert fitted(parts, 60) == f"{parts[0]}  15.0 s left  loss 0.5  10 images/s"
    screen.stage("measuring", 4)
    assert screen.parts()[0].startswith("measuring")


def line(train: dict[str, float], val: dict[str, float], **more: Any) -> str:
    record = {"train": train, "val": val, "images_per_second": 1234.5, "waiting": 0.02, "best": False, **more}
    return epoch_line(record, Progress("train", 20, 3))


def test_the_loss_is_called_loss() -> None:
    assert line({"class": 1.7234, "loss": 1.7234}, {"accuracy": 0.5}, best=True) == (
        "epoch 3/20  train loss 1.723  val accuracy 0.5  1,234 images/s  best so far"
    )


def test_five_figures_at_most() -> None:
    val = dict.fromkeys(("mAP", "mAP50", "mAP75", "mAPs", "mAPm", "AR1", "AR10"), 0.5)
    shown = line({"class": 1.0, "box": 2.0, "center": 0.5, "loss": 3.5}, val)
    assert shown == "epoch 3/20  train loss 3.5  val mAP 0.5  mAP50 0.5  mAP75 0.5  1,234 images/s"
    players = {"critic_real": 1.0, "critic_loss": 2.0, "generator_real": 1.0, "generator_loss": 0.5}
    assert line(players, dict.fromkeys("abcdef", 1.0)) == (
        "epoch 3/20  train critic_loss 2  generator_loss 0.5  val a 1  b 1  1,234 images/s"
    )


def test_a_run_that_waits_for_data_says_so() -> None:
    shown = line({"loss": 1.0}, {"accuracy": 0.5}, waiting=0.61)
    assert shown == "epoch 3/20  train loss 1  val accuracy 0.5  waiting for data 61%"


def test_figures_over_almost_nothing_are_marked() -> None:
    shown = line({"loss": 1.0}, {"mAP": 0.41, "mAP50": 0.6}, few={"mAP": "3 objects"})
    assert "val mAP 0.41 (3 objects)  mAP50 0.6  " in shown
