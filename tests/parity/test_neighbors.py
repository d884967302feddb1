"""Nearest neighbours and principal components beside scikit-learn's, on the digits."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

import foveal
from foveal.ops.nearest import nearest
from foveal.structures import Batch, Label

METRICS = {"l2": "euclidean", "l1": "manhattan", "cosine": "cosine"}


def digits(system: Any, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepared images in float64, of numbers whose sums are exact, so that equal distances are; and their classes."""
    data = foveal.load_dataset("digits", split=split)
    images = torch.stack([system.preprocess.apply(data.image(i)) for i in range(len(data))])
    return images.double() / 256, torch.stack([data.target(i).label for i in range(len(data))])  # type: ignore


def fitted(name: str, **fields: Any) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A system that knows the training digits, these as vectors, their classes, and the test digits as images."""
    system = foveal.create(name, image_size=8, **fields).double()
    (images, classes), (test, _) = digits(system, "train"), digits(system, "test")
    system.fit([Batch(images, tuple(map(Label, classes)), *[torch.zeros(0)] * 3)])
    return system, system.vectors(images), classes, test


@pytest.mark.parametrize("k", [1, 4, 5])
@pytest.mark.parametrize("weighting", ["uniform", "distance"])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbors(metric: Any, weighting: str, k: int) -> None:
    system, points, classes, images = fitted("knn", distance=metric, weighting=weighting, k=k)
    vectors = system.vectors(images).numpy()
    oracle = KNeighborsClassifier(k, weights=weighting, metric=METRICS[metric], algorithm="brute")
    oracle.fit(points.numpy(), classes.numpy())
    distances, indices = (found.numpy() for found in nearest(system.vectors(images), points, k + 1, metric))
    theirs, which = oracle.kneighbors(vectors)
    np.testing.assert_allclose(distances[:, :k], theirs, atol=1e-12)
    # Of points at one distance scikit-learn names any, and we the first.
    apart = np.diff(distances) > 1e-9  # (B, k)
    clear = apart[:, -1]  # where the k nearest are the same whoever is asked
    assert clear.mean() > 0.8
    assert np.array_equal(np.sort(indices[clear, :k]), np.sort(which[clear]))
    assert np.array_equal(indices[apart.all(1), :k], which[apart.all(1)])
    assert (np.diff(indices)[np.diff(distances) == 0] > 0).all()
    scores = system(images)
    assert np.array_equal(scores.argmax(1).numpy()[clear], oracle.predict(vectors)[clear])
    np.testing.assert_allclose(scores.softmax(1).numpy()[clear], oracle.predict_proba(vectors)[clear], atol=1e-13)
    # In float32, as it is used, the answers are no others.
    assert torch.equal(system.float()(images.float()).argmax(1), scores.argmax(1))


@pytest.mark.parametrize("components", [2, 20])
def test_components(components: int) -> None:
    system, vectors, classes, images = fitted("pca", components=components)
    oracle = make_pipeline(PCA(components, svd_solver="full"), KNeighborsClassifier(5)).fit(vectors, classes)
    test = system.vectors(images).numpy()
    np.testing.assert_allclose(system.features(images).numpy(), oracle[0].transform(test), atol=1e-12)
    scores = system(images)
    assert np.array_equal(scores.argmax(1).numpy(), oracle.predict(test))
    np.testing.assert_allclose(scores.softmax(1).numpy(), oracle.predict_proba(test), atol=1e-12)
    assert system.basis.share.tolist() == oracle[0].explained_variance_ratio_.tolist()
