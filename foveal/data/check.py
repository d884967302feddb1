"""What is wrong with a data set, or looks as if it were, by file name: told before a network learns it."""

from os import PathLike
from typing import cast

from foveal.data.dataset import Dataset
from foveal.data.findings import Findings
from foveal.data.sources import survey
from foveal.errors import InputError
from foveal.progress import SILENT, Silent
from foveal.task import Task


def check_source(source: str | PathLike[str], bar: Silent = SILENT, *, outside: bool = False) -> Findings:
    """`check` of the data at a source, with all that is wrong with how it is laid out. outside: as `load_dataset`."""
    dataset, complaints = survey(source, outside=outside)
    found = Findings({}) if dataset is None else check(dataset, bar)
    found.add(complaints)
    return found


def check(dataset: Dataset, bar: Silent = SILENT) -> Findings:
    """Read every image once and say what is wrong with images, targets and splits. Raises InputError for data to
    do what nothing is known of."""
    checked = Task.of(dataset).check
    if checked is None:
        raise InputError(f"{dataset.source}: data to {dataset.task} cannot be checked")
    return cast(Findings, checked(dataset, bar))
