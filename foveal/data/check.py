"""Check a data set before a network is trained on it: faults and suspects by file name."""

from os import PathLike
from typing import cast

from foveal.data.dataset import Dataset
from foveal.data.findings import Findings
from foveal.data.sources import survey
from foveal.data.suspects import LIMIT
from foveal.errors import InputError
from foveal.progress import SILENT, Silent
from foveal.task import Task


def check_source(
    source: str | PathLike[str], bar: Silent = SILENT, *, outside: bool = False, labels: int = LIMIT
) -> Findings:
    """`check` of the data at a source, with the faults of its layout. outside: as `load_dataset`."""
    return check_layout(source, bar, outside=outside, labels=labels)[1]


def check_layout(
    source: str | PathLike[str], bar: Silent = SILENT, *, outside: bool = False, labels: int = LIMIT
) -> tuple[Dataset | None, Findings]:
    """As `check_source`, with the data set; None where nothing can be used."""
    dataset, complaints = survey(source, outside=outside)
    found = Findings({}) if dataset is None else check(dataset, bar, labels)
    found.add(complaints)
    return dataset, found


def check(dataset: Dataset, bar: Silent = SILENT, labels: int = LIMIT) -> Findings:
    """Read every image and list the faults of images, targets and splits. labels: the most that are judged.

    Raises InputError for an unsupported task.
    """
    checked = Task.of(dataset).check
    if checked is None:
        raise InputError(f"{dataset.source}: data to {dataset.task} cannot be checked")
    return cast(Findings, checked(dataset, bar, labels))
