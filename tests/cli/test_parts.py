"""Systems that are made of other systems, from the command line."""

from collections.abc import Callable
from pathlib import Path

import foveal
from tests.cli.conftest import Answer

QUIET = ("--quiet", "--plan", "eager", "--workers", 0)


def test_an_ensemble_and_neighbours_by_its_features(
    works: Callable[..., Answer], fails: Callable[..., str], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    data, linear, both = ("--data", shared_images), tmp_path / "linear", tmp_path / "both"
    works("train", "linear_softmax", *data, "--out", linear, "--epochs", 3, "--keep", 2, *QUIET)
    kept = sorted(linear.glob("epoch-*.safetensors"))
    assert len(kept) == 2
    words = ("train", "ensemble", *data, "--members", *kept, shared_run, "--out", both)
    works(*words, "--weighting", "greedy", "--quiet")
    assert [member.name for member in foveal.load(both).members] == ["linear_softmax", "linear_softmax", "lenet"]
    works(*words, "--weighting", "greedy", "--quiet", "--resume")
    assert "cannot go on with weighting None" in fails(*words, "--quiet", "--resume")

    assert "members lenet: it runs with linear_softmax, linear_softmax, lenet" in fails(
        *words[:5], shared_run, *words[-2:], "--weighting", "greedy", "--quiet", "--resume"
    )
    works("train", "knn", *data, "--features", linear, "--k", 3, "--out", tmp_path / "knn", "--quiet")
    assert foveal.load(tmp_path / "knn").extractor.name == "linear_softmax"
    works("evaluate", tmp_path / "knn", *data)
    works("predict", both, shared_images / "one/1.png")


def test_what_stands_for_no_system(fails: Callable[..., str], shared_images: Path, tmp_path: Path) -> None:
    words = ("train", "ensemble", "--data", shared_images, "--out", tmp_path / "run", "--members")
    assert "nowhere is neither a run or checkpoint nor a system" in fails(*words, "nowhere")
    assert "vgg_nano has no trained weights here: name a run" in fails(*words, "vgg_nano")
    assert "an ensemble needs members" in fails(*words[:-1])
    assert not (tmp_path / "run").exists()


def test_help_names_the_settings(works: Callable[..., Answer]) -> None:
    assert "--members" in works("train", "ensemble", "--help").out
    assert "--features" in works("train", "knn", "--help").out
