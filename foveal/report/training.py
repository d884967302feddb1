"""Training with a report at its end: what `foveal.train` is, and the command."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

from foveal.build import load
from foveal.data.dataset import Dataset
from foveal.data.foreign import as_dataset
from foveal.errors import InputError
from foveal.filesystem import own_folder
from foveal.progress import Bar
from foveal.report.draw import save_pictures
from foveal.report.html import write_report
from foveal.system import System
from foveal.train import loop
from foveal.train.config import TrainConfig
from foveal.train.origin import origin
from foveal.train.record import resumed
from foveal.train.run import Run
from foveal.train.stopping import Interrupted


def train(system: System, dataset: Any, config: TrainConfig | None = None) -> Run:
    """Train a system on the train split, choose the best epoch by the val split, leave a run directory with a report.

    dataset: one of `load_dataset`; or a torch Dataset of pairs (image, number of its class), split by `draw_splits`.

    A system with its own `fit` learns by that, in one epoch; the others by the gradient of their `loss`.
    With `refit` there follows what a run would be from the same start, on the train and val splits as one train split,
    set to as many epochs as were best; it leaves the weights of its last epoch, which no split is left to judge.
    On return the system has its best weights, and `report` of the run is its report.html, unless that could not be
    written, which one line on stderr tells. Ctrl-C ends the step, saves the state and raises Interrupted.
    A line on stderr and in run.json warns of a result at chance, of a training loss that rose, and of a fine-tuned
    classifier that is worse than nearest neighbours on the features of its starting weights.
    A run that was stopped or has failed after its first epoch leaves a report too, which says so; the exception has
    the `run`.

    Under torchrun the processes share each batch, whose size stays that of all of them, and the first one writes.

    Raises InputError for data or settings that do not fit, before the first step.
    """
    if not isinstance(system, System):
        how = "foveal.create makes one by its name" if isinstance(system, str) else "derive yours from it (README.md)"
        raise InputError(f"system is a foveal.system.System, not a {type(system).__name__}: {how}")
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is a foveal.TrainConfig, not a {type(config).__name__}: write TrainConfig(epochs=3)")
    dataset = resumed(as_dataset(dataset, system.labels), config)
    system.class_ids = dict(dataset.ids_of_classes)
    system.trained_on = origin(dataset)
    try:
        run = loop.train(system, dataset, config)
    except (InputError, Interrupted) as end:
        if config.report and end.run and _has_part(end.run):
            if not config.quiet:
                tell("writing the report of what was reached; Ctrl-C leaves it out")
            with suppress(KeyboardInterrupt):
                leave_report(end.run, dataset)
        raise
    if run.ranks.first:
        for line in run.record["warnings"]:
            tell(f"foveal: warning: {line}")
    if config.report:
        leave_report(run, dataset, system)
    return run


def _has_part(run: Run) -> bool:
    """Whether a run that did not come to its end has something to tell, and the time to: of several processes torchrun
    ends all soon after one."""
    return run.ranks.size == 1 and (run.directory / "best.safetensors").is_file()


def leave_report(run: Run, dataset: Dataset, system: System | None = None) -> None:
    """Write the report of a run, and pictures of what its system has learned; where that fails, one line says so.

    system: the run's, with its best weights; default, one made of what the run has saved.
    """
    if not run.ranks.first:
        return
    with Bar("writing the report", quiet=run.record["config"]["quiet"], every=None):
        _leave_report(run, dataset, system)


def _leave_report(run: Run, dataset: Dataset, system: System | None) -> None:
    try:
        best = _saved(run) if system is None else system
        own_folder(run.directory, "pictures")
        run.note_pictures([path.name for path in save_pictures(run.directory, best.pictures())])
        run.report = write_report(run.directory, dataset, best)
    except Exception as error:  # whatever it is: what was learned is safe, so this run has not failed
        reason = str(error) if isinstance(error, InputError) else repr(error)
        tell(f"foveal: no report: {' '.join(reason.split())}")


def _saved(run: Run) -> System:
    """The system with the best weights so far, beside the run's own, which keeps those of its last step."""
    known = run.system.name is not None
    return load(run.directory, system=None if known else deepcopy(run.system)).to(run.system.device)


def tell(line: str) -> None:
    """A line on stderr."""
    Bar("").say(line)
