"""--match, --rename, --mean and --std beside --weights, in every verb that takes it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import foveal
from tests.cli.conftest import Answer

NAMES = {"stage1.conv": "a", "stage2.conv": "b", "classifier.c5": "c", "classifier.f6": "d", "classifier.output": "e"}


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """LeNet's weights for digits, under names of nobody."""
    state = foveal.create("lenet", weights="package").state_dict()
    renamed = {f"{NAMES[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in state.items()}
    torch.save({"model_state_dict": renamed, "epoch": 3}, tmp_path / "unknown.pt")
    return tmp_path / "unknown.pt"


def test_predict_by_order_and_by_rules(works: Callable[..., Answer], shared_images: Path, unknown: Path) -> None:
    image = shared_images / "two" / sorted(path.name for path in (shared_images / "two").iterdir())[0]
    expected = works("predict", "lenet", image, "--json").document()["predictions"]
    words = ("predict", "lenet", image, "--weights", unknown, "--json")
    by_order = works(*words, "--match", "order")
    assert by_order.document()["predictions"] == expected
    lines = [" ".join(line.split()) for line in by_order.err.splitlines()]
    assert lines[0] == "foveal: a.weight -> stage1.conv.weight (6, 1, 5, 5)"
    assert lines[10:] == [
        "foveal: 10 tensors are paired; every shape occurs once, so each pair is certain",
        "foveal: unknown.pt does not record its normalisation or other settings; used here: mean 0.5, std 0.5, "
        "subsampling average, activation scaled_tanh",
    ]
    rules = [word for ours, theirs in NAMES.items() for word in ("--rename", f"{theirs}={ours}")]
    by_rules = works(*words, *rules)
    assert by_rules.document()["predictions"] == expected
    assert by_rules.err.count("\n") == 1
    other = works(*words, "--match", "order", "--mean", "0.1", "--std", "0.3")
    assert other.document()["predictions"] != expected
    assert "used here: mean 0.1, std 0.3" in other.err


def test_evaluate_and_explain(works: Callable[..., Answer], unknown: Path, shared_images: Path, tmp_path: Path) -> None:
    match = ("--weights", unknown, "--match", "order")
    ours = works("evaluate", "lenet", "--data", "digits", "--json").document()["metrics"]
    assert works("evaluate", "lenet", "--data", "digits", *match, "--json").document()["metrics"] == ours
    image = next((shared_images / "one").iterdir())
    out = tmp_path / "why.png"
    works("explain", "lenet", image, *match, "--method", "saliency", "--steps", "2", "--out", out)
    assert out.is_file()


def test_train_keeps_the_normalisation(
    works: Callable[..., Answer], unknown: Path, shared_images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("--epochs", "1", "--plan", "eager", "--quiet", "--no-report", "--out", run, "--lr", "1e-9")
    loaded = ("--weights", unknown, "--match", "order", "--mean", "0.1307", "--std", "0.3081")
    answer = works("train", "lenet", "--data", "digits", *loaded, *words)
    assert "c.weight" in answer.err
    record = json.loads((run / "run.json").read_text())
    assert (record["preprocess"]["mean"], record["preprocess"]["std"]) == ([0.1307], [0.3081])
    assert record["started_from"].startswith("unknown.pt (paired by order)")
    system = foveal.load(run)
    assert system.preprocess.mean == (0.1307,)
    assert (system.pixel_mean.item(), system.pixel_std.item()) == pytest.approx((0.1307, 0.3081))
    works("predict", run, next((shared_images / "one").iterdir()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--match", "order"), "--match has no effect without --weights"),
        (("--rename", "a=b"), "--rename has no effect without --weights"),
        (("--mean", "0.5"), "--mean has no effect without --weights: a run has its own normalisation"),
        (("--std", "0.5"), "--std has no effect without --weights"),
        (("--weights", "FILE", "--rename", "a"), "--rename takes OLD=NEW, such as net.conv1=conv1, not 'a'"),
        (("--weights", "FILE", "--rename", "a=b", "--rename", "a=c"), "--rename a= is given twice"),
        (("--weights", "FILE", "--rename", "z=b"), "the rule z=b changes no name in FILE, which has a.weight"),
        (("--weights", "FILE", "--match", "order", "--mean", "127"), "those of bytes are divided by 255: 0.4980"),
        (("--weights", "FILE"), "its shapes fit in order: try --match order, or --rename OLD=NEW"),
    ],
)
def test_flags_without_effect_and_wrong_ones(
    fails: Callable[..., str], shared_images: Path, unknown: Path, words: tuple[str, ...], said: str
) -> None:
    image = next((shared_images / "one").iterdir())
    words = tuple(word.replace("FILE", str(unknown)) for word in words)
    assert said.replace("FILE", str(unknown)) in fails("predict", "lenet", image, *words)


@pytest.mark.parametrize("flag", [("--match", "order"), ("--rename", "a=b")])
def test_train_without_weights(fails: Callable[..., str], flag: tuple[str, ...], tmp_path: Path) -> None:
    line = fails("train", "lenet", "--data", "digits", *flag, "--out", tmp_path / "run")
    assert f"{flag[0]} has no effect without --weights" in line
