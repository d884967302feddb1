"""`pytest tests/parity --parity-table FILE` writes what the tests measured as a table."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.weights import translate

from .compare import compare_logits_and_gradients, randomise, row

HIDDEN = ("labels", "image_size")  # of no interest in a row

COLUMNS = ("variant", "oracle", "layout", "parameters", "logits", "gradients")
HEAD = f"""# Parity

Each line is one test on the CPU in float64 (torch {torch.__version__.split("+")[0]}): the same random weights, norm
statistics and affine terms, in the oracle and, through foveal's importer of the named layout, in foveal's system; the
same images, which classifiers see at 64 x 64 pixels unless another size is named. `logits` is the relative error
|ours - theirs| / |theirs| of what the network says; of a detector it is the largest among its outputs and the terms of
its loss, of a VAE that of its loss. `gradients` is the largest such error among the gradients of all parameters and, of
a classifier or a diffusion model, of the images. A test fails above 1e-9; those of RetinaNet v2 and FCOS fail above
1e-7, because the oracle adds 1e-7 square pixels to the denominators of its GIoU. Parameters are those of the test,
mostly with 5 classes; narrow and tiny systems have all parts of the variant, with fewer channels and layers.

Made by `pytest tests/parity --parity-table docs/parity.md`.

| {" | ".join(COLUMNS)} |
|---|---|---|--:|--:|--:|
"""
STEP_COLUMNS = ("step", "oracle", "cases", "error")
STEP_HEAD = f"""
## Steps

What systems do that has no weights to import: the steps of diffusion, with given noise and the same answers of a
network, and codes. The largest relative error of all cases, such as schedules and numbers of steps.

| {" | ".join(STEP_COLUMNS)} |
|---|---|--:|--:|
"""


def cell(value: str | int | float) -> str:
    return f"{value:.1e}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


class ParityTable:
    """Gathers what tests recorded under "parity" and "step", from all workers, and writes it at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.steps: dict[tuple[str, str], list[float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.rows += [value for name, value in report.user_properties if name == "parity"]
            for what, by, error in (value for name, value in report.user_properties if name == "step"):
                self.steps.setdefault((what, by), []).append(error)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = sorted(" | ".join(cell(row[column]) for column in COLUMNS) for row in self.rows)
        steps = [f"{what} | {by} | {len(e)} | {cell(max(e))}" for (what, by), e in sorted(self.steps.items())]
        tables = "".join(f"| {line} |\n" for line in lines), "".join(f"| {line} |\n" for line in steps)
        self.path.write_text(HEAD + tables[0] + STEP_HEAD + tables[1], "utf-8")
        terminalreporter.write_line(f"{len(lines) + len(steps)} rows in {self.path}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-table", type=Path, help="write the table of parity to this file")


def pytest_configure(config: pytest.Config) -> None:
    if (path := config.getoption("--parity-table")) and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(ParityTable(path))


@pytest.fixture
def compare_by_file(tmp_path: Path, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Through a file: under the oracle's names, by the importer that has to recognise them as those of `layout`; or,
    with `names` (theirs -> ours), under our own, for packages whose names we do not read."""

    def compare(
        name: str,
        package: str,
        model: str,
        reference: nn.Module,
        *,
        size: int | tuple[int, int] = 64,
        layout: str = "",
        names: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        file = tmp_path / "weights.safetensors"
        state = randomise(reference).state_dict()
        file_names = names or {theirs: theirs for theirs in state}
        save_file({file_names[theirs]: tensor for theirs, tensor in state.items()}, file)
        system = create(name, weights=file, **fields)
        file.unlink()  # pytest keeps what tests leave behind, and the large ones have 500 MB
        if names is None:
            assert translate(system, state)[0] == layout

        def to_ours(theirs):
            return translate(system, {file_names[name]: tensor for name, tensor in theirs.items()})[1]

        figures = compare_logits_and_gradients(system, reference, to_ours, size=size)
        settings = [f"{field}={value}" for field, value in fields.items() if field not in HIDDEN]
        settings += [] if size == 64 else [f"{size} x {size}" if isinstance(size, int) else "{} x {}".format(*size)]
        variant = f"{name} ({', '.join(settings)})" if settings else name
        record_property("parity", row(variant, package, model, layout or "foveal, by order", figures))

    return compare
