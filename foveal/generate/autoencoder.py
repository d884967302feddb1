"""Autoencoders: Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks".

An encoder makes a short code of an image, a decoder with transposed convolutions the image of the code:

    minimise |x - d(e(x'))|^2 / (number of pixels),   x' = x + noise * n,  n ~ N(0, I)

With noise it has to know what images look like, not only how to copy them (Vincent, Larochelle, Bengio and Manzagol
2008, "Extracting and composing robust features with denoising autoencoders"). What it has learned serves others: its
encoder is a backbone (classify/probe.py). It has no distribution of codes, so it cannot make new images.

Departs from the papers: convolutions, trained as a whole; noise is normal, where Vincent et al. set pixels to zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from foveal.errors import InputError
from foveal.generate.generator import Generator, GeneratorSpec
from foveal.nn.halving import Doubling, Halving, halved
from foveal.structures import Batch
from foveal.system import Preprocess, evaluating


@dataclass(frozen=True)
class AutoencoderSpec(GeneratorSpec):
    """
    latent: how many numbers a code has.
    width:  channels before the first halving; each halving doubles them.
    stages: how often the maps are halved.
    noise:  deviation of what is added to pixels in [0, 1] as it learns, which it has to take away; 0 for none.
    """

    latent: int = 128
    width: int = 32
    stages: int = 4
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("latent", "width", "stages"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise must be at least 0, not {self.noise}")
        if self.conditional:
            raise InputError("conditional has no effect on an autoencoder: it learns from images alone")


class Autoencoder(Generator):
    """Images are (B, 3, H, W) of the one size in `preprocess`; `maps` takes any."""

    spec: AutoencoderSpec

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__(spec)
        channels = spec.preprocess.channels
        rows, columns = halved(spec.preprocess.size, spec.stages, "an autoencoder")
        maps = spec.width * 2**spec.stages
        self.encoder = Halving(channels, spec.width, spec.stages)
        self.code = nn.Linear(maps * rows * columns, spec.latent)
        self.decoder = nn.Sequential(
            nn.Linear(spec.latent, maps * rows * columns),
            nn.ReLU(),
            nn.Unflatten(1, (maps, rows, columns)),
            Doubling(channels, spec.width, spec.stages),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W): the pixels of the decoder, normalised."""
        return self.decoder(self._coded(self.normalize(images)))

    def _coded(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.preprocess.size:
            raise InputError(f"images of {tuple(x.shape[2:])} pixels, not of {self.preprocess.size}")
        return self.code(self.encoder(x).flatten(1))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """The mean squared error of pixels in [0, 1]."""
        x = self.normalize(batch.images)
        shown = x + self.spec.noise * torch.randn_like(x) / self.pixel_std if self.spec.noise else x
        difference = (self.decoder(self._coded(shown)) - x) * self.pixel_std
        return {"reconstruction": mse_loss(difference, torch.zeros_like(difference))}

    def reconstruct(self, images: Tensor) -> Tensor:
        with evaluating(self):
            return self.as_images(self(images))

    def encode(self, images: Tensor) -> Tensor:
        """The code (B, latent) of each image; where codes lie is not known, so they need not be normal."""
        with evaluating(self):
            return self._coded(self.normalize(images))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        return self.encoder.maps(x)


HALVES = (0.5, 0.5, 0.5)
RECIPE: dict[str, Any] = {"lr": 1e-3, "batch_size": 64}

VARIANTS = {
    "autoencoder": AutoencoderSpec(
        (), Preprocess((64, 64), "crop", 1.0, HALVES, HALVES), {**RECIPE, "epochs": 100}, noise=0.1
    ),
    "autoencoder_nano": AutoencoderSpec(
        (),
        Preprocess((8, 8), "squash", 1.0, (0.5,), (0.5,), grey=True),
        {**RECIPE, "lr": 2e-3, "epochs": 60},
        latent=16,
        width=16,
        stages=2,
    ),
}
