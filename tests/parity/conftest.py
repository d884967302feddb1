"""`pytest tests/parity --parity-table FILE` writes what the tests measured as a table."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

COLUMNS = ("variant", "oracle", "layout", "parameters", "logits", "gradients")
HEAD = f"""# Parity

Each line is one test on the CPU in float64 (torch {torch.__version__.split("+")[0]}): the same random weights, norm
statistics and affine terms, in the oracle and, through foveal's importer of the named layout, in foveal's system; the
same two images. `logits` is the relative error |ours - theirs| / |theirs|; `gradients` is the largest such error among
the gradients of all parameters and of the images. A test fails above 1e-9. Parameters are those of the test, mostly
with 5 classes.

Made by `pytest tests/parity --parity-table docs/parity.md`.

| {" | ".join(COLUMNS)} |
|---|---|---|--:|--:|--:|
"""


def cell(value: str | int | float) -> str:
    return f"{value:.1e}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


class ParityTable:
    """Gathers what tests recorded under "parity", from all workers, and writes it at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.rows += [value for name, value in report.user_properties if name == "parity"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = [" | ".join(cell(row[column]) for column in COLUMNS) for row in self.rows]
        self.path.write_text(HEAD + "".join(f"| {line} |\n" for line in lines), "utf-8")
        terminalreporter.write_line(f"{len(lines)} rows in {self.path}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-table", type=Path, help="write the table of parity to this file")


def pytest_configure(config: pytest.Config) -> None:
    if (path := config.getoption("--parity-table")) and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(ParityTable(path))
