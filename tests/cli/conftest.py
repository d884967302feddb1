"""A command line in this process, and small folders of images for it to work on."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.cli import main
from foveal.data.builtin import digits

CLASSES = ("zero", "one", "two")


@dataclass(frozen=True)
class Answer:
    """What a command line left: exit code, standard output, standard error with Python's warnings after it."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """The one JSON document that standard output is."""
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run one command line."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            for kind in (UserWarning, RuntimeWarning, FutureWarning):
                warnings.simplefilter("always", kind)
            code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(code, out, err + "".join(f"{warning.message}\n" for warning in caught))

    return call


@pytest.fixture
def works(call: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run one command line that has to succeed, in plain text."""

    def works(*words: object) -> Answer:
        answer = call(*words)
        assert answer.code == 0, answer.err
        assert "\x1b" not in answer.out + answer.err
        return answer

    return works


@pytest.fixture
def fails(call: Callable[..., Answer]) -> Callable[..., str]:
    """Run one command line that has to end with 2 and with one line on standard error; the line."""

    def fails(*words: object) -> str:
        answer = call(*words)
        assert answer.code == 2, (answer.out, answer.err)
        assert answer.out == ""
        assert answer.err.count("\n") == 1, answer.err
        assert answer.err.endswith("\n")
        assert answer.err.startswith("foveal: ")
        assert "Traceback" not in answer.err
        return answer.err

    return fails


def write_digits(root: Path, each: int = 20) -> Path:
    """The first zeros, ones and twos, in a folder for each; PNG and JPEG in turn."""
    dataset = digits()
    values = dataset.targets.values  # type: ignore[union-attr]
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in (values == number).nonzero()[0][:each].tolist():
            picture = Image.fromarray(dataset.image(i).permute(1, 2, 0).numpy())
            picture.save(root / name / (f"{i}.png" if i % 2 else f"{i}.jpg"), quality=95)
    return root


@pytest.fixture(scope="session")
def shared_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that no test changes."""
    return write_digits(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture
def images(shared_images: Path, tmp_path: Path) -> Path:
    """A folder of images of the test's own."""
    return Path(shutil.copytree(shared_images, tmp_path / "images"))


@pytest.fixture(scope="session")
def shared_run(shared_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = ["--epochs", "4", "--batch-size", "8", "--workers", "0", "--plan", "eager", "--quiet"]
    assert main(["train", "lenet", "--data", str(shared_images), "--out", str(run), *settings]) == 0
    return run


@pytest.fixture
def run(shared_run: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(shared_run, tmp_path / "run"))


def splits(root: Path, target: Path) -> Path:
    """The folder `root` of classes as folders train and val of classes, in `target`."""
    for folder in sorted(root.iterdir()):
        for number, path in enumerate(sorted(folder.iterdir())):
            place = target / ("val" if number % 4 == 0 else "train") / folder.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return target
