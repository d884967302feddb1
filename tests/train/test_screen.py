"""What a person reads of an epoch."""

from typing import Any

from foveal.train.screen import epoch_line
from foveal.train.state import Progress


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
