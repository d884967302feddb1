"""Eigenimages: principal components, and the nearest neighbours among them. Sirovich and Kirby 1987; Turk and Pentland
1991, "Eigenfaces for Recognition".

    z = V (x - mean)        x: (D,) pixels or features, V: (n, D), its rows the directions in which images differ most

V are the first right singular vectors of the centred training images, the eigenvectors of their covariance; the
variance along each says how much of the difference between images it explains. What z compares is then as in
neighbors.py. Row i of V is itself a picture: what is brighter and what is darker along this direction.

Departs from Turk and Pentland: k neighbours vote, where they take the nearest class mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.classify.classifier import filter_pictures
from foveal.classify.labels import DIGITS
from foveal.classify.linear import PIXELS
from foveal.classify.neighbors import Neighbors, NeighborsSpec
from foveal.errors import InputError
from foveal.nn.fitted import Fitted
from foveal.structures import Batch


@dataclass(frozen=True)
class PCASpec(NeighborsSpec):
    """components: how many numbers remain of an image."""

    components: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1:
            raise InputError(f"components must be at least 1, not {self.components}")


class PCA(Neighbors):
    """Nearest neighbours in the space of the first principal components.

    `basis` holds mean (D,), components (n, D), and the variance and share of the whole variance (n,) of each.
    """

    spec: PCASpec

    def __init__(self, spec: PCASpec) -> None:
        super().__init__(spec)
        self.basis = Fitted(mean="D", components="F D", variance="F", share="F")

    def fitted_limits(self) -> dict[str, int | range]:
        limits = super().fitted_limits()
        return {**limits, "D": limits["F"], "F": self.spec.components}

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, n): the principal components."""
        return self.project(self.vectors(images))

    def project(self, vectors: Tensor) -> Tensor:
        """(B, D) -> (B, n)."""
        if self.basis.empty:
            raise self._cannot("answer yet: it knows no images; train it first")
        return (vectors - self.basis.get_buffer("mean")) @ self.basis.get_buffer("components").T

    def fit(self, data: Iterable[Batch]) -> None:
        from sklearn.decomposition import PCA as Decomposition

        vectors, classes = self.collect(data)
        if self.spec.components > min(vectors.shape):
            raise InputError(
                f"{self.spec.components} components are more than {vectors.shape[0]} training images of "
                f"{vectors.shape[1]} numbers have"
            )
        found = Decomposition(self.spec.components, svd_solver="full").fit(vectors.double().cpu().numpy())
        self.basis.keep(
            mean=torch.from_numpy(found.mean_).to(vectors),
            components=torch.from_numpy(found.components_).to(vectors),
            variance=torch.from_numpy(found.explained_variance_).to(vectors),
            share=torch.from_numpy(found.explained_variance_ratio_).to(vectors),
        )
        self.remember(self.project(vectors), classes)

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The mean image and the components of pixels, each with the share of the variance that it explains."""
        if self.extractor is not None or self.basis.empty:
            return {}
        shape = (-1, self.preprocess.channels, *self.preprocess.size)
        mean = self.basis.get_buffer("mean").view(shape) * self.pixel_std + self.pixel_mean
        captions = tuple(f"{100 * share:.1f} %" for share in self.basis.get_buffer("share").tolist())
        (eigenimages, _), *_ = filter_pictures(self.basis.get_buffer("components").view(shape)).values()
        return {
            "mean image": (mean.float().clamp(0, 1).expand(-1, 3, -1, -1), ("mean",)),
            "eigenimages": (eigenimages, captions),
        }


VARIANTS = {"pca": PCASpec(DIGITS, PIXELS)}
