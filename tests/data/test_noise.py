"""The classifier that judges labels, and its model of noise, on digits with planted errors."""

import numpy as np
import pytest
import torch

from foveal.data.builtin import digits
from foveal.data.noise import FOLDS, LEAST, cross_validated, fold_of
from foveal.system import resize


@pytest.fixture(scope="module")
def six() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (360, 768) and labels (360,) of sixty images each of six digits."""
    data = digits()
    labels = data.targets.values  # type: ignore[union-attr]
    rows = np.concatenate([np.flatnonzero(labels == label)[:60] for label in range(6)])
    pixels = [resize(data.image(int(row)), (16, 16)).numpy().reshape(-1) for row in rows]
    return np.stack(pixels), labels[rows]


def test_planted_errors_are_probable_errors(six: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, labels = six
    draw = np.random.default_rng(0)
    wrong = draw.permutation(len(labels))[:36]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + draw.integers(1, 6, len(wrong))) % 6
    scored = cross_validated(pixels, noisy, 6, np.arange(len(labels)))
    suspects = np.flatnonzero(scored.wrong > 0.5)
    hits = len(np.intersect1d(suspects, wrong))
    assert hits / len(suspects) > 0.9
    assert hits / len(wrong) > 0.9
    assert scored.rate == pytest.approx(0.1, abs=0.03)
    corrected = scored.probabilities.argmax(1)[np.intersect1d(suspects, wrong)]
    assert (corrected == labels[np.intersect1d(suspects, wrong)]).mean() > 0.9


def test_clean_labels_are_hardly_suspect(six: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, labels = six
    scored = cross_validated(pixels, labels, 6, np.arange(len(labels)))
    assert (scored.wrong > 0.5).sum() <= 2
    assert LEAST <= scored.rate < 0.01
    assert scored.accuracy > 0.97


def test_the_probability_of_an_error_is_that_of_the_model(six: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, labels = six
    scored = cross_validated(pixels, labels, 6, np.arange(len(labels)))
    for row in range(0, 360, 37):
        right = (1 - scored.rate) * scored.probabilities[row, labels[row]]
        others = [scored.probabilities[row, c] * scored.rate / 5 for c in range(6) if c != labels[row]]
        assert scored.wrong[row] == pytest.approx(sum(others) / (right + sum(others)), rel=1e-6, abs=1e-12)


def test_copies_share_a_fold_and_classes_are_spread() -> None:
    labels = np.repeat([0, 1], [40, 12])
    groups = np.arange(52)
    groups[[3, 9, 45]] = 3
    folds = fold_of(labels, groups)
    assert len(set(folds[[3, 9, 45]].tolist())) == 1
    single = np.setdiff1d(np.arange(52), [3, 9, 45])
    for label in (0, 1):
        counts = np.bincount(folds[single][labels[single] == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 2


def test_images_without_detail_and_gradients_that_are_off() -> None:
    labels = np.tile([0, 1], 20)
    with torch.inference_mode(False), torch.no_grad():
        scored = cross_validated(np.full((40, 768), 7, np.uint8), labels, 2, np.arange(40))
    assert np.isfinite(scored.wrong).all()
    assert scored.wrong.max() <= 0.5
