"""Small data sets to classify, and what is read of them."""

import os
from pathlib import Path

import pytest
from PIL import Image

from foveal.data.dataset import Dataset
from foveal.data.sources import load_dataset
from foveal.errors import InputError


def write(root: Path, *names: str) -> None:
    """A small image, unlike any other, for each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (1, 4), name.encode().ljust(12, b"\0")[-12:]).save(path)


def rows(dataset: Dataset, root: Path) -> dict[str, tuple[str, str]]:
    """path below root -> (label, split)."""
    found = {}
    for split in dataset.split_counts():
        view = dataset.select(split)
        for i in range(len(view)):
            label = dataset.labels[int(view.target(i).label)]  # type: ignore[union-attr]
            found[os.path.relpath(view.name(i), root)] = label, split
            assert view.image(i).shape == (3, 4, 1)
    assert len(found) == len(dataset)
    return found


def error(source: Path | str, *words: str) -> None:
    """`source` is refused with one line in which each of the words stands."""
    with pytest.raises(InputError) as caught:
        load_dataset(source)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def notes(source: Path | str, capsys: pytest.CaptureFixture[str], task: str | None = None) -> tuple[Dataset, str]:
    """The data set, and the lines on stderr about how it was read."""
    capsys.readouterr()
    dataset = load_dataset(source, task)
    return dataset, capsys.readouterr().err
