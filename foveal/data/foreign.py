"""What is not foveal's own, as foveal's: images of other libraries, and torch Datasets."""

import io
import operator
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from foveal.data.dataset import Dataset, LabelColumn
from foveal.data.image import ImageError, read_image
from foveal.data.splits import draw_splits
from foveal.errors import InputError
from foveal.structures import Label

TAKES = "a data set of foveal.load_dataset, or a torch Dataset of pairs (image, number of its class)"
SLACK = 0.01  # by which interpolation may leave [0, 1]


def as_images(values: Any) -> list[Tensor]:
    """One image, or several in a list or in one tensor or array, each as `as_image` has it."""
    several = isinstance(values, list | tuple) or (isinstance(values, Tensor | np.ndarray) and values.ndim == 4)
    return [as_image(value) for value in (values if several else [values])]


def as_image(value: Any) -> Tensor:
    """An image as (3, H, W), uint8 or float32 in [0, 1]: from a path, a PIL image, an array (H, W, 3) or (H, W) uint8,
    or a tensor (3, H, W), uint8 or float in [0, 1]. Raises InputError for anything else, ImageError for a bad file."""
    if isinstance(value, str | PathLike):
        return read_image(value)
    if isinstance(value, Image.Image):
        return _from_pillow(value)
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] != 3):
            raise InputError(f"an array is an image if it is (H, W, 3) uint8, not {value.shape} {value.dtype}")
        rows = torch.from_numpy(value.copy())
        value = rows.permute(2, 0, 1) if rows.ndim == 3 else rows.expand(3, -1, -1)
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise InputError(f"an image is a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), not {kind}")
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if len(shape) != 3 or shape[0] != 3 or not (value.dtype == torch.uint8 or value.is_floating_point()):
        raise InputError(f"a tensor is an image if it is (3, H, W), uint8 or float in [0, 1], not {shape} {dtype}")
    if not value.numel():
        raise InputError(f"an image has at least one pixel, and this one is {shape[1]} x {shape[2]}")
    if value.dtype == torch.uint8:
        return value
    low, high = (float(end) for end in value.aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN neither
        raise InputError(
            f"a float image lies in [0, 1], and this one from {low:.3g} to {high:.3g}: divide it by 255, or leave its "
            "normalisation to the system"
        )
    return value.float()


def _from_pillow(image: Image.Image) -> Tensor:
    """Upright; palettes, transparency and 16 bits as the reader of files has them."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        if image.mode == "RGB":
            return torch.tensor(np.asarray(image)).permute(2, 0, 1)
        file = io.BytesIO()
        image.save(file, "TIFF" if image.mode == "F" else "PNG")
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read a PIL image of mode {image.mode}: {error}") from None
    return read_image(file.getvalue())


class Items:
    """The images of a torch Dataset, read when they are needed."""

    def __init__(self, pairs: Any, title: str) -> None:
        self.pairs, self.title = pairs, title

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        try:
            return as_image(self.pairs[index][0])
        except InputError as error:
            raise InputError(f"{self.name(index)}: {error}") from None

    def name(self, index: int) -> str:
        return f"{self.title}/{index}"

    def content(self, index: int) -> bytes:
        return self[index].contiguous().numpy().tobytes()


def as_dataset(given: Any, labels: Sequence[str] = ()) -> Dataset:
    """A data set as it is; a torch Dataset of (image, class number) pairs as one to classify.

    labels: class names, where the torch Dataset has none as `classes`. Its classes are read from `targets`, if it has
            them, else from all its pairs. Class and content of each image decide on its split.
    Raises InputError for anything else.
    """
    if isinstance(given, Dataset):
        return given
    title = type(given).__name__
    lists = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    if not lists or isinstance(given, str | bytes | dict | type):
        raise InputError(f"dataset is {TAKES}, not {title}")
    targets = getattr(given, "targets", None)
    try:
        if targets is None or len(targets) != len(given):
            targets = [given[index][1] for index in range(len(given))]
        numbers = [operator.index(target) for target in targets]
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"{title}: dataset is {TAKES}, not of other items ({error})") from None
    names = tuple(map(str, getattr(given, "classes", None) or labels or range(max(numbers, default=0) + 1)))
    if not numbers or min(numbers) < 0 or max(numbers) >= len(names):
        raise InputError(f"{title}: its classes are numbers from 0 to {len(names) - 1}, one for each of its names")
    images = Items(given, title)
    shown = np.arange(len(numbers)), np.array(numbers)
    splits, drawn = draw_splits(images, range(len(images)), shown, test=True)
    return Dataset(title, Label.task, names, images, LabelColumn(torch.tensor(numbers)), splits, drawn=drawn)
