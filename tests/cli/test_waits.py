"""Every verb shows what it is at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from foveal.progress import Bar
from tests.cli.conftest import Answer
from tests.generate.toys import Means


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """First word of the title and number of steps of each stage, as they begin."""
    begun: list[tuple[str, float | None]] = []
    begin = Bar.stage

    def stage(self: Bar, title: str, total: float | None = None) -> None:
        begun.append((title.partition(" ")[0], total))
        begin(self, title, total)

    monkeypatch.setattr(Bar, "stage", stage)
    return begun


def test_predict(works: Callable[..., Answer], stages: list[object], shared_run: Path, shared_images: Path) -> None:
    works("predict", shared_run, shared_images / "one")
    assert stages == [("loading", None), ("predicting", 20), ("writing", None)]


def test_evaluate(works: Callable[..., Answer], stages: list[object], shared_run: Path, shared_images: Path) -> None:
    works("evaluate", shared_run, "--data", shared_images, "--workers", "0", "--batch-size", "2")
    (loading, reading, (measuring, batches), computing) = stages  # type: ignore[misc]
    assert [loading, reading, measuring, computing] == [
        ("loading", None), ("reading", None), "measuring", ("computing", None)
    ]  # fmt: skip
    assert batches > 1


def test_check(call: Callable[..., Answer], stages: list[object], shared_images: Path) -> None:
    call("check", shared_images)
    assert stages == [("reading", None), ("looking", 60), ("comparing", None), ("judging", None)]


def test_train(works: Callable[..., Answer], stages: list[object], shared_images: Path, tmp_path: Path) -> None:
    words = ("--epochs", "1", "--workers", "0", "--plan", "eager", "--out", tmp_path / "run")
    works("train", "linear_softmax", "--data", shared_images, *words)
    titles = [title for title, _ in stages]  # type: ignore[misc]
    assert titles == ["reading", "measuring", "measuring", "computing", "writing"]


def test_sample(
    works: Callable[..., Answer], stages: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Means()
    monkeypatch.setattr("foveal.cli.sample.find_system", lambda *_, **__: system)
    works("sample", "toy", "--count", "2", "--out", tmp_path / "new.png")
    assert stages == [("loading", None), ("making", 1.0), ("writing", None)]
