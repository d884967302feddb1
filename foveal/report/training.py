"""Training with a report at its end: what `foveal.train` is, and the command."""

from rich.console import Console

from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.report.draw import save_pictures
from foveal.report.html import write_report
from foveal.system import System
from foveal.train import loop
from foveal.train.config import TrainConfig
from foveal.train.run import Run


def train(system: System, dataset: Dataset, config: TrainConfig | None = None) -> Run:
    """Train a system on the train split, choose the best epoch by the val split, leave a run directory with a report.

    A system with its own `fit` learns by that, in one epoch; the others by the gradient of their `loss`.
    With `refit` there follows what a run would be from the same start, on the train and val splits as one train split,
    set to as many epochs as were best; it leaves the weights of its last epoch, which no split is left to judge.
    On return the system has its best weights, and `report` of the run is its report.html, unless that could not be
    written, which one line on stderr tells. Ctrl-C ends the step, saves the state and raises Interrupted.

    Under torchrun the processes share each batch, whose size stays that of all of them, and the first one writes.

    Raises InputError for data or settings that do not fit, before the first step.
    """
    config = config or TrainConfig()
    run = loop.train(system, dataset, config)
    if config.report:
        leave_report(run, dataset, system)
    return run


def leave_report(run: Run, dataset: Dataset, system: System) -> None:
    """Write the report of a run, and pictures of what its system has learned; where that fails, one line says so."""
    if not run.ranks.first:
        return
    try:
        save_pictures(run.directory, system.pictures())
        run.report = write_report(run.directory, dataset, system)
    except Exception as error:  # whatever it is: what was learned is safe, so this run has not failed
        said = str(error) if isinstance(error, InputError) else repr(error)
        tell(f"foveal: no report: {' '.join(said.split())}")


def tell(line: str) -> None:
    """A line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(line, markup=False)
