"""One thread in each process: the tests run side by side, and sums come out in one order."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tests that are not about reports leave none: it would take longer than many of these runs."""
    if request.path.parent.name not in ("report", "cli"):
        monkeypatch.setattr("foveal.report.training.leave_report", lambda *_: None)
