"""How near made images come to real ones, by the features (N, D) that some network has of both."""

import torch
from torch import Tensor


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)): the squared Wasserstein distance of two normal distributions that have
    the means m and covariances C of the features, (N, D) and (M, D).

    Heusel et al. 2017, "GANs trained by a two time-scale update rule", arXiv:1706.08500, with features of Inception.
    Few images make it larger than it is: compare figures of equal numbers of images only.
    """
    (mean, x), (other_mean, y) = (_centred(features) for features in (real, made))
    if max(len(x), len(y)) < x.shape[1]:
        # C = X^T X and C' = Y^T Y: the eigenvalues of C C' that are not zero are those of X Y^T (X Y^T)^T, which is
        # smaller, and of no rounding where C has no inverse.
        cross = torch.linalg.svdvals(x @ y.T).sum()
    else:
        # The eigenvalues of C C' are those of C^(1/2) C' C^(1/2), which is symmetric.
        values, vectors = torch.linalg.eigh(x.T @ x)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ (y.T @ y) @ root).clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum() + x.square().sum() + y.square().sum() - 2 * cross)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,), and rows (N, D) whose products are the covariance."""
    features = features.double()
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision: which share of the made images (M, D) lies among the real ones (N, D), no farther from one of them
    than its k-th nearest real neighbour is. Recall: the same with the sides exchanged, which share of the real ones
    could have been made.

    Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", arXiv:1904.06991.
    """
    return _covered(real, made, k), _covered(made, real, k)


def _covered(support: Tensor, points: Tensor, k: int) -> float:
    """The share of the points (M, D) that lie among those of the support (N, D)."""
    support, points = support.double(), points.double()
    k = min(k, len(support) - 1)
    # The nearest of all is the point itself.
    radius = torch.cat([torch.cdist(rows, support).kthvalue(k + 1, dim=1).values for rows in support.split(1024)])
    inside = [(torch.cdist(rows, support) <= radius).any(1) for rows in points.split(1024)]
    return float(torch.cat(inside).double().mean())
