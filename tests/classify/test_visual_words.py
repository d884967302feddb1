"""Bags of visual words beside NumPy, scikit-learn and loops."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import chi2_kernel as reference_kernel
from sklearn.svm import SVC, LinearSVC

import foveal
from foveal.classify.visual_words import (
    chi2_kernel,
    glyphs,
    gradient_histograms,
    histograms,
    learn_chi2,
    learn_linear,
    nearest_words,
    regions,
)
from foveal.train.config import TrainConfig
from tests.toys import small_digits

VARIANTS = ("visual_words_patches", "visual_words_hog")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("levels", [1, 2])
def test_histograms_of_given_words_count_the_nearest(name: str, levels: int) -> None:
    torch.manual_seed(0)
    system = foveal.create(name, levels=levels, stride=3).double()
    images = torch.rand(3, 3, 24, 24).double()
    found = system.describe(images)
    words = torch.randn(7, found.shape[1]).double()
    system.codebook.keep(words=words)
    counted = system.encode(images)
    assert counted.shape == (3, 7 * (1 if levels == 1 else 5))
    for image in range(3):
        rows = found[image].flatten(1).T.numpy()
        index = cdist(rows, words.numpy()).argmin(1)
        whole = np.bincount(index, minlength=7) / len(index)
        np.testing.assert_allclose(counted[image, :7], whole, atol=1e-6)
        if levels == 2:
            grid = index.reshape(found.shape[2:])
            top, left = -(-grid.shape[0] // 2), -(-grid.shape[1] // 2)  # what cannot be halved is larger at first
            quarter = np.bincount(grid[top:, :left].ravel(), minlength=7)
            np.testing.assert_allclose(counted[image, 21:28], quarter / quarter.sum(), atol=1e-6)


def test_patches_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    system = foveal.create("visual_words_patches", patch=4, stride=3).double()
    image = torch.rand(1, 3, 24, 24).double()
    image[:, :, :6, :6] = 0.5  # flat
    found = system.describe(image)[0]
    grey = (image[0] * torch.tensor([0.299, 0.587, 0.114]).double().view(3, 1, 1)).sum(0)
    assert found.shape == (16, 7, 7)
    for i in range(7):
        for j in range(7):
            patch = grey[3 * i : 3 * i + 4, 3 * j : 3 * j + 4].flatten()
            patch = patch - patch.mean()
            expected = patch / patch.norm() if patch.norm() > 0.04 else torch.zeros(16)
            torch.testing.assert_close(found[:, i, j], expected.to(found), atol=1e-6, rtol=1e-5)
    assert not found[:, 0, 0].any()


def test_gradient_histograms_are_those_of_a_loop() -> None:
    grey = torch.rand(1, 1, 9, 11, generator=torch.Generator().manual_seed(0)).double()
    found = gradient_histograms(grey, 4, 2)[0]
    g = np.pad(grey[0, 0].numpy(), 1, mode="edge")
    assert found.shape == (32, 3, 4)
    for i in range(3):
        for j in range(4):
            descriptor = np.zeros((4, 8))
            for y in range(4):
                for x in range(4):
                    row, column = 2 * i + y + 1, 2 * j + x + 1
                    gx = (g[row, column + 1] - g[row, column - 1]) / 2
                    gy = (g[row + 1, column] - g[row - 1, column]) / 2
                    place = math.atan2(gy, gx) % math.pi / math.pi * 8
                    low, part = int(place) % 8, place - int(place)
                    cell = 2 * (y // 2) + x // 2
                    descriptor[cell, low] += math.hypot(gx, gy) * (1 - part)
                    descriptor[cell, (low + 1) % 8] += math.hypot(gx, gy) * part
            expected = descriptor.ravel() / np.linalg.norm(descriptor)
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-9)


def test_nearest_and_regions() -> None:
    x, words = torch.randn(50, 6), torch.randn(9, 6)
    assert torch.equal(nearest_words(x, words), torch.cdist(x, words).argmin(1))
    parts = list(regions(torch.arange(32).view(2, 4, 4), 3))
    assert [part.shape[1] for part in parts] == [16] + [4] * 4 + [1] * 16
    assert parts[1][0].tolist() == [0, 1, 4, 5]
    assert histograms(torch.tensor([[0, 2, 2, 1]]), 4).tolist() == [[0.25, 0.25, 0.5, 0.0]]


def shares(count: int, width: int, seed: int) -> torch.Tensor:
    drawn = torch.rand(count, width, generator=torch.Generator().manual_seed(seed)).double()
    drawn = drawn * (drawn > 0.4)  # with zeros in common
    return drawn / drawn.sum(1, keepdim=True)


def test_the_kernel_equals_scikit_learns() -> None:
    x, y = shares(20, 12, 0), shares(15, 12, 1)
    expected = reference_kernel(x.numpy(), y.numpy(), gamma=1.7)
    np.testing.assert_allclose(chi2_kernel(x, y, 1.7).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_machines_decide_as_scikit_learns(classes: int) -> None:
    seen, new = shares(80, 12, 2), shares(30, 12, 3)
    labels = torch.arange(80) % classes
    seen[:, :4] += 0.3 * torch.nn.functional.one_hot(labels, 4)

    found = learn_linear(seen, labels, classes, 1.0, seed=0)
    scale = float(1 / seen.std(0).norm())
    reference: Any = LinearSVC(C=1.0, random_state=0, max_iter=5000).fit((seen * scale).numpy(), labels.numpy())
    decided = reference.decision_function((new * scale).numpy())
    scores = (new @ found["weight"].double().T + found["bias"].double()).numpy()
    np.testing.assert_allclose(scores if classes > 2 else scores[:, 1], decided, atol=2e-3 if classes == 2 else 1e-4)

    found = learn_chi2(seen, labels, classes, 10.0, seed=0)
    likeness = chi2_kernel(new, found["supports"], found["gamma"])
    scores = (likeness @ found["weight"].double().T + found["bias"].double()).numpy()
    gamma = float(found["gamma"])
    for c in range(classes):
        machine = SVC(C=10.0, kernel=lambda a, b: reference_kernel(a, b, gamma=gamma))
        machine.fit(seen.numpy(), (labels == c).numpy())
        np.testing.assert_allclose(scores[:, c], machine.decision_function(new.numpy()), atol=1e-4)


@pytest.fixture(scope="module", params=VARIANTS)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    system = foveal.create(request.param, words=60, stride=2, sample=5000)
    config = TrainConfig(out=str(tmp_path_factory.mktemp("runs") / "run"), quiet=True)
    run = foveal.train(system, small_digits(600), config)
    assert run.record["result"]["accuracy"] > 0.85
    return system, run.directory


def test_it_comes_back_from_its_run(learned: Any) -> None:
    system, directory = learned
    images = small_digits(20)
    batch = system.preprocess.batch([images.image(i) for i in range(20)])
    assert torch.equal(foveal.load(directory)(batch.images), system(batch.images))


def test_words_can_be_seen(learned: Any) -> None:
    system, _ = learned
    ((title, (pictures, captions)),) = system.pictures().items()
    side = 42 if system.name == "visual_words_hog" else 6
    assert (title, pictures.shape) == ("visual words", (59, 3, side, side))
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert len(captions) == 59
    shares = [float(caption.rstrip("%")) for caption in captions]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 101


def test_it_is_explained_by_occlusion_alone(learned: Any) -> None:
    system, _ = learned
    image = small_digits(20).image(3)
    assert foveal.explain(system, image, "occlusion").map.abs().max() > 0
    with pytest.raises(foveal.InputError, match="have no gradient; occlusion needs none"):
        foveal.explain(system, image, "saliency")
    with pytest.raises(foveal.InputError, match="cannot be explained by the activations of a layer"):
        foveal.explain(system, image, "gradcam")


def test_a_glyph_is_a_line_along_the_edge() -> None:
    upright = torch.zeros(1, 32)
    upright[0, 0] = 1  # the gradient of the upper left quarter points to the right, so its edge is upright
    drawn = glyphs(upright)[0, 0]
    assert drawn.shape == (42, 42)
    assert drawn[2:19, 10].eq(1).all()
    assert drawn[:, 13:].eq(0).all()
    assert drawn[21:].eq(0).all()


def test_too_few_patches(tmp_path: Path) -> None:
    system = foveal.create("visual_words_patches", sample=100)
    with pytest.raises(foveal.InputError, match="are too few for 200 words"):
        foveal.train(system, small_digits(60), TrainConfig(out=str(tmp_path / "run"), quiet=True))


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("visual_words_patches", {"words": 1}, "words are at least 2"),
        ("visual_words_patches", {"patch": 1}, "at least 2"),
        ("visual_words_hog", {"patch": 7}, "even, not 7"),
        ("visual_words_hog", {"image_size": 8}, "10 x 10 pixels or more"),
        ("visual_words_hog", {"machine": "chi"}, "did you mean chi2"),
    ],
)
def test_settings_that_cannot_be(name: str, fields: dict, told: str) -> None:
    with pytest.raises(foveal.InputError, match=told):
        foveal.create(name, **fields)
