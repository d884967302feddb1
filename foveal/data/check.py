"""What is wrong with a data set, or looks as if it were, by file name: told before a network learns it."""

from os import PathLike

from foveal.data import check_classify, check_detect
from foveal.data.dataset import Dataset
from foveal.data.findings import Findings
from foveal.data.sources import survey
from foveal.errors import InputError
from foveal.progress import SILENT, Silent


def check_source(source: str | PathLike[str], bar: Silent = SILENT, *, outside: bool = False) -> Findings:
    """`check` of the data at a source, with all that is wrong with how it is laid out. outside: as `load_dataset`."""
    dataset, complaints = survey(source, outside=outside)
    found = Findings({}) if dataset is None else check(dataset, bar)
    found.add(complaints)
    return found


def check(dataset: Dataset, bar: Silent = SILENT) -> Findings:
    """Read every image once and say what is wrong with images, targets and splits. Raises InputError for data to
    do what nothing is known of."""
    if dataset.task not in CHECKS:
        raise InputError(f"{dataset.source}: data to {dataset.task} cannot be checked")
    return CHECKS[dataset.task](dataset, bar)


CHECKS = {"classify": check_classify.check, "detect": check_detect.check}
