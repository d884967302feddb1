"""Notes on how image files are stored: fewer bits in use than there are, ends that are missing."""

import contextlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from foveal.data.dataset import Dataset, ImageFiles
from foveal.data.image import ImageError, Traits, image_traits

SAMPLED = 16  # images; to read all of them costs as much as an epoch, which `foveal check` is for
HALF = 2**15  # of 16 bits


def sampled_notes(dataset: Dataset) -> list[str]:
    """Notes on a few images from all over a data set; nothing where it is in memory."""
    if not isinstance(dataset.images, ImageFiles):
        return []
    found = {}
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLED, dtype=int)).tolist():
        with contextlib.suppress(ImageError, OSError):  # the loader leaves such an image out and reports it
            found[dataset.name(index)] = image_traits(dataset.name(index))
    checked = "" if len(found) == len(dataset) else f" (of {len(dataset)}; foveal check reads all)"
    return traits_notes(found, checked)


def traits_notes(traits: Mapping[str, Traits], checked: str = "") -> list[str]:
    """Notes on image files. traits: by name. checked: which images these are."""
    notes = []
    peaks = {name: one.peak for name, one in traits.items() if one.peak is not None}
    # One factor for all files keeps their brightness comparable; which one is right, the camera's manual says.
    if peaks and (top := max(peaks.values())) < HALF:
        notes.append(
            f"{len(peaks)} of {len(traits)} images{checked} have 16 bits a channel, but no value above {top}, so that "
            f"they become almost black: of 255 levels at most {top >> 8}; scale the values of all files to 65535"
        )
    defects: dict[str, list[str]] = defaultdict(list)
    for name, one in traits.items():
        if one.defect:
            defects[one.defect].append(name)
    for defect, names in defects.items():
        notes.append(
            f"{len(names)} of {len(traits)} images{checked} have {defect}, though every pixel is there: {names[0]}"
        )
    return notes
