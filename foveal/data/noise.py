"""Label errors by a cross-validated classifier and a model of label noise.

A classifier is trained on all folds but one and scores the images of that one, so no image is scored by a classifier
that was trained on its label. With its probabilities q_c = softmax(scores / T)_c of the true class, K classes, and a
share e of labels drawn at random from the other classes,

    P(label) = (1 - e) q_label + e (1 - q_label) / (K - 1)
    P(wrong | label) = e (1 - q_label) / (K - 1) / P(label)

T and e maximise the mean of log P(label), so they need no clean labels: on clean data e is near 0, and an image that is
merely hard is no suspect. The out-of-fold scheme is that of confident learning (Northcutt et al. 2021,
arXiv:1911.00068), whose thresholds count hard images of clean data as errors.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FOLDS = 5
KERNELS = 1000  # centres of the kernel features
PENALTIES = (3.0, 0.3)  # on the squared weights, beside the sum of the loss over all images
STEPS = 60  # of L-BFGS
TEMPERATURES = (0.125, 0.25, 0.5, 1.0, 2.0)
LEAST = 0.005  # share of wrong labels that is assumed of any data
RATES = (0.003, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Scored:
    """Out-of-fold judgement of N labels by a classifier of K classes.

    accuracy:      the share of labels that are the most probable class.
    recall:        (K,) the same for the images with each label.
    rate:          the estimated share of wrong labels, e above.
    probabilities: (N, K) of the true class, q above.
    wrong:         (N,) the probability that the label is wrong.
    """

    accuracy: float
    recall: np.ndarray
    rate: float
    probabilities: np.ndarray
    wrong: np.ndarray


def cross_validated(features: np.ndarray, labels: np.ndarray, classes: int, groups: np.ndarray) -> Scored:
    """Judge labels (N,) below `classes` by features (N, D). groups: (N,); images of one group share a fold, as copies
    would otherwise confirm each other's labels. Every class needs a label."""
    vectors = kernel_features(features)
    truth, folds = torch.from_numpy(labels), torch.from_numpy(fold_of(labels, groups))
    best: tuple[float, np.ndarray] | None = None
    for penalty in PENALTIES:
        scores = torch.zeros(len(labels), classes)
        for fold in range(FOLDS):
            inside, outside = folds != fold, folds == fold
            weights, bias = _fit(vectors[inside], truth[inside], classes, penalty / len(labels))
            scores[outside] = vectors[outside] @ weights + bias
        array = scores.double().numpy()
        loss = _noise(array, labels)[0]
        if best is None or loss < best[0]:
            best = loss, array
    assert best is not None
    _, temperature, rate = _noise(best[1], labels)
    probabilities = _softmax(best[1] / temperature)
    own = probabilities[np.arange(len(labels)), labels]
    random = rate * (1 - own) / (classes - 1)
    right = best[1].argmax(1) == labels
    recall = np.bincount(labels, right, classes) / np.bincount(labels, minlength=classes)
    wrong = random / ((1 - rate) * own + random + 1e-30)
    return Scored(float(right.mean()), recall, rate, probabilities, wrong)


def fold_of(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) fold of each image: those of one group in one fold, each class spread evenly, by a fixed seed."""
    draw = np.random.default_rng(0)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    folds = np.zeros(len(first), np.int64)
    for label in np.unique(labels[first]):
        rows = np.flatnonzero(labels[first] == label)
        folds[draw.permutation(rows)] = (np.arange(len(rows)) + draw.integers(FOLDS)) % FOLDS
    return folds[inverse.reshape(-1)]


def kernel_features(features: np.ndarray) -> Tensor:
    """(N, D) -> (N, M) float32: Gaussian kernels of width sqrt(2 D) standard deviations around M <= KERNELS of the
    images, whitened (Nystroem method), so that a linear classifier on them draws curved borders."""
    rows = torch.from_numpy(features.reshape(len(features), -1)).float()
    rows = rows - rows.mean(0)
    rows = rows / (rows.square().sum(1).mean().sqrt() + 1e-6)
    centres = rows[np.random.default_rng(0).permutation(len(rows))[:KERNELS]]
    values, vectors = torch.linalg.eigh(_kernel(centres, centres).double())
    kept = values > 1e-6 * values[-1]
    whitening = (vectors[:, kept] / values[kept].sqrt()).float()
    return torch.cat([_kernel(part, centres) @ whitening for part in rows.split(4096)])


def _kernel(one: Tensor, two: Tensor) -> Tensor:
    squares = one.square().sum(1)[:, None] + two.square().sum(1) - 2 * one @ two.T
    return torch.exp(-0.5 * squares.clamp(min=0))


def _fit(vectors: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (D, K) and bias (K,) of multinomial logistic regression with a penalty on the squared weights."""
    weights = torch.zeros(vectors.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(vectors @ weights + bias, labels) + penalty * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach(), bias.detach()


def _noise(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """The least mean of -log P(label), and the temperature and the rate of wrong labels that give it."""
    from scipy.optimize import minimize

    count = np.arange(len(labels))

    def loss(point: np.ndarray) -> float:
        rate = _rate(point[1])
        own = _softmax(scores / np.exp(point[0]))[count, labels]
        return float(-np.log((1 - rate) * own + rate * (1 - own) / (scores.shape[1] - 1) + 1e-12).mean())

    # From the best point of a grid, as the loss has a second minimum without noise.
    grid = [np.array([np.log(t), np.log(e / (1 - e))]) for t in TEMPERATURES for e in RATES]
    found = minimize(loss, min(grid, key=loss), method="Nelder-Mead", options={"xatol": 1e-2, "fatol": 1e-6})
    return float(found.fun), float(np.exp(found.x[0])), float(_rate(found.x[1]))


def _rate(logit: float) -> float:
    """A share of wrong labels above LEAST; without that bound a higher temperature explains a single wrong label as
    well as noise does."""
    return LEAST + (1 - LEAST) / (1 + np.exp(-np.clip(logit, -50, 50)))


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
