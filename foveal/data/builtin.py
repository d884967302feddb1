"""Data sets that come with foveal, so that everything can be tried without a download."""

from collections.abc import Callable

import numpy as np
import torch

from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.data.scenes import make_scenes
from foveal.data.splits import split_by_content
from foveal.structures import Label


def digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 grey (Alpaydin and Kaynak 1998, UCI repository; from scikit-learn)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 levels of ink, 0 to 16, become 0 to 255.
    grey = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    images = ImageArray(grey[:, None].expand(-1, 3, -1, -1).contiguous(), "digits")
    labels = tuple(str(digit) for digit in bunch.target_names)
    splits = split_by_content(images, range(len(images)), test=True)
    return Dataset("digits", Label.task, labels, images, LabelColumn(bunch.target), splits)


# From the task that is asked for, None where any will do.
BUILT_IN: dict[str, Callable[[str | None], Dataset]] = {
    "digits": lambda task: digits(),
    "scenes": lambda task: make_scenes(digits(), task),
}
