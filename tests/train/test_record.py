"""What of a run's history a resumption keeps."""

import pytest

from foveal.train.record import is_before
from foveal.train.state import Progress


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ({"event": "epoch", "epoch": 2}, True),  # the last one that ended
        ({"event": "epoch", "epoch": 3}, False),
        ({"event": "skipped", "epoch": 3, "step": 9}, True),
        ({"event": "skipped", "epoch": 3, "step": 10}, False),  # which comes again
        ({"event": "epoch", "phase": "refit", "epoch": 1}, False),
    ],
)
def test_lines_of_before(line: dict, kept: bool) -> None:
    assert is_before(line, Progress("train", 5, epoch=2, step=10)) == kept
    assert is_before(line, Progress("refit", 2)) == ("phase" not in line)
