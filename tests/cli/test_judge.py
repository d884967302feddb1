"""The judge of a system that makes images, given by a file: the usual FID."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import foveal
from foveal.build import describe
from foveal.data.sources import load_dataset
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.train.evaluate import evaluation_loader
from tests.parity.compare import randomise
from tests.parity.test_inception import fid_network

Run = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The checkpoint of a system that makes images, and three images beside it."""
    torch.manual_seed(0)
    system = foveal.create("gan_nano")
    checkpoint.save(tmp_path / "gan.safetensors", describe(system), system.state_dict())
    (tmp_path / "images" / "test" / "any").mkdir(parents=True)
    for n in range(3):
        pixels = torch.randint(0, 256, (30, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / "test" / "any" / f"{n}.png")
    return tmp_path / "gan.safetensors"


def distance(real: Tensor, made: Tensor) -> float:
    """Between few: of rows X, Y less their means, over (n - 1)^0.5, tr (C C')^0.5 is the nuclear norm of X Y^T."""
    x, y = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (real.double(), made.double()))
    apart = (real.double().mean(0) - made.double().mean(0)).square().sum()
    return float(apart + x.square().sum() + y.square().sum() - 2 * torch.linalg.matrix_norm(x @ y.T, "nuc"))


def test_fid_by_a_published_file(made: Path, works: Run) -> None:
    """Beside torchvision's modules, changed to those of the usual FID, on images enlarged to 299 x 299 in [-1, 1]."""
    network = randomise(fid_network(classes=1008))
    file, data = made.parent / "pt_inception.pth", made.parent / "images"
    torch.save(network.state_dict(), file)
    words = ("evaluate", made, "--data", data, "--judge", "inception_v3_fid", "--judge-weights", file)
    found = works(*words, "--device", "cpu", "--json").document()
    file.unlink()
    assert found["images"] == 3
    network.fc = nn.Identity()
    system = foveal.load(made)
    (batch,) = evaluation_loader(system, load_dataset(str(data), "generate"), 64, 0).epoch()

    def features(images: Tensor) -> Tensor:
        return network(2 * nn.functional.interpolate(images, size=(299, 299), mode="bilinear") - 1)

    with torch.no_grad():
        sampled = system.sample(3, generator=torch.Generator().manual_seed(0))
        real, fake = features(batch.float().images), features(sampled)
    # The features of both sets are almost equal, and processors round them differently: by half a unit in the last
    # place of their length, beside a difference of about the root of the distance.
    expected = distance(real, fake)
    rounding = torch.finfo(torch.float32).eps * float(real.norm(dim=1).mean()) / expected**0.5
    assert rounding < 1e-3
    assert found["metrics"]["frechet"] == pytest.approx(expected, rel=rounding)


def test_what_does_not_fit(made: Path, call: Run) -> None:
    words = ("evaluate", made, "--data", made.parent / "images")
    for more, said in (
        (("--judge-weights", made), "--judge-weights has no effect alone: add --judge NAME"),
        (("--judge", "inception_v3_fid"), "no trained weights here: add --judge-weights FILE"),
        (("--judge", made, "--judge-weights", made), "is a run, which has its own weights: leave out --judge-weights"),
    ):
        answer = call(*words, *more)
        assert answer.code == 2
        assert said in answer.err


def test_a_judge_that_is_no_classifier(made: Path, call: Run) -> None:
    detector = foveal.create("retinanet_nano", labels=("a",))
    checkpoint.save(made.parent / "detector.safetensors", describe(detector), detector.state_dict())
    words = ("evaluate", made, "--data", made.parent / "images", "--judge")
    for judge in (made.parent / "detector.safetensors", made):
        answer = call(*words, judge)
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert "take a classifier, or a run of one" in answer.err
    data = load_dataset(str(made.parent / "images"), "generate")
    with pytest.raises(InputError, match="judge Linear is no system: take a classifier"):
        foveal.evaluate(foveal.load(made), data, judge=nn.Linear(1, 1))  # type: ignore[arg-type]
