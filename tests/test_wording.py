"""Counts and times as a person writes them."""

import pytest

from foveal.wording import counted, duration


@pytest.mark.parametrize(
    ("words", "text"),
    [((0, "image"), "0 images"), ((1, "class", "classes"), "1 class"), ((1200, "batch", "batches"), "1,200 batches")],
)
def test_counted(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.00034, "0.34 ms"),
        (0.0099999, "10 ms"),
        (0.035, "35 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (2.37, "2.4 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (3599.7, "1 h 0 min"),
        (3725, "1 h 2 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
