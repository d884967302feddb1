import numpy as np
import torch
from scipy.linalg import sqrtm

from foveal.metrics import frechet_distance
from foveal.metrics.samples import precision_recall


def draw(seed: int, count: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(5, 5, generator=torch.Generator().manual_seed(7))
    return torch.randn(count, 5, generator=generator) @ mix + shift


def test_frechet_distance_by_the_matrix_root() -> None:
    real, made = draw(0, 300), 1.3 * draw(1, 200, 0.5)
    means = [features.double().numpy().mean(0) for features in (real, made)]
    one, other = (np.cov(features.double().numpy(), rowvar=False) for features in (real, made))
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert abs(frechet_distance(real, made) / wanted - 1) < 1e-9


def test_frechet_distance_is_torchmetrics() -> None:
    fid = __import__("pytest").importorskip("torchmetrics.image.fid")
    real, made = draw(0, 300), draw(1, 200, 0.5)
    moments = [(f.double().mean(0), f.double().T.cov()) for f in (real, made)]
    wanted = float(fid._compute_fid(*moments[0], *moments[1]))
    assert abs(frechet_distance(real, made) / wanted - 1) < 1e-6


def test_frechet_distance_of_few_and_of_equal_features() -> None:
    assert abs(frechet_distance(draw(0, 50), draw(0, 50))) < 1e-9
    assert frechet_distance(draw(0, 3), draw(1, 3, 9.0)) > 0  # covariances without an inverse


def test_frechet_distance_of_fewer_than_there_are_features() -> None:
    """By the eigenvalues of C C', nearly all of which are zero."""
    real, made = draw(0, 4), draw(1, 3, 0.5)
    one, other = (np.cov(features.double().numpy(), rowvar=False) for features in (real, made))
    cross = np.sqrt(np.linalg.eigvals(one @ other).real.clip(min=0)).sum()
    apart = float((real.double().mean(0) - made.double().mean(0)).square().sum())
    wanted = apart + np.trace(one) + np.trace(other) - 2 * cross
    assert abs(frechet_distance(real, made) / wanted - 1) < 1e-6


def test_precision_and_recall_by_loops() -> None:
    real, made = draw(0, 40), draw(1, 30, 0.8)

    def covered(support: torch.Tensor, points: torch.Tensor) -> float:
        inside = 0
        for point in points:
            for centre in support:
                radius = sorted(float((centre - other).norm()) for other in support)[3]
                if float((centre - point).norm()) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, made) == (covered(real, made), covered(made, real))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
