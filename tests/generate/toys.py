"""A generator that is nearly nothing, for tests of what stands around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.generate.generator import Generator, GeneratorSpec, Trace
from foveal.structures import Batch
from foveal.system import Preprocess

GREY = Preprocess((8, 8), "squash", 1.0, (0.5,), (0.5,), grey=True)


@dataclass(frozen=True)
class MeansSpec(GeneratorSpec):
    latent: int = 2


class Means(Generator):
    """Learns the mean image, of each class where it is conditional; an image is that and noise, in some steps."""

    def __init__(self, labels: tuple[str, ...] = (), noise: float = 0.3) -> None:
        super().__init__(MeansSpec(labels, GREY, {"epochs": 3, "lr": 0.1}, bool(labels)))
        self.means = nn.Parameter(torch.zeros(max(1, len(labels)), *self.shape))
        self.spread = noise

    def forward(self, images: Tensor) -> Tensor:
        return self.normalize(images) - self.means[0]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        return {"error": (self.normalize(batch.images) - self._mean(self.classes(batch), len(batch))).square().mean()}

    def log_likelihood(self, batch: Batch, *, generator: Any = None) -> Tensor:
        return torch.full((len(batch),), -64 * torch.tensor(256.0).log().item())

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
        steps: int = 3,
        trace: Trace | None = None,
    ) -> Tensor:
        asked, x = self.asked(n, labels), self.spread * self.noise(n, *self.shape, generator=generator)
        for step in range(steps):
            if trace:
                trace((step + 1) / steps, self.as_images((step + 1) / steps * x))
        return self.as_images(x + self._mean(asked, n))

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.as_images(self._mean(None, len(images)))

    def render(self, z: Tensor, labels: str | Sequence[str] | None = None) -> Tensor:
        return self.as_images(z[:, :1, None, None] + self._mean(self.asked(len(z), labels), len(z)))

    def encode(self, images: Tensor) -> Tensor:
        return self.normalize(images).mean((1, 2, 3))[:, None].repeat(1, 2)

    def complete(self, images: Tensor, known: Tensor, **asked: Any) -> Tensor:
        return torch.where(known, images, self.as_images(self._mean(None, len(images))))

    def _mean(self, index: Tensor | None, n: int) -> Tensor:
        return self.means[:1].expand(n, -1, -1, -1) if index is None else self.means[index]
