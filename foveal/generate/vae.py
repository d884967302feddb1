"""Variational autoencoders: Kingma and Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

An image x is thought to be made of a hidden code z. The decoder gives p(x|z), with the prior p(z) = N(0, I); the
encoder q(z|x) = N(m(x), diag(v(x))) stands for the posterior, which nobody can compute. Both learn to raise the bound

    ln p(x) >= E_q [ln p(x|z)] - D(q(z|x) || p(z))                                equation 3 of the paper
    z = m + v^(1/2) e,  e ~ N(0, I)                                               so that the mean over q has a gradient
    D = 1/2 sum_d (m_d^2 + v_d - 1 - ln v_d)                                      appendix B

whose terms, with other signs and per dimension of the image, are the losses "reconstruction" and "kl". With K codes
instead of one the bound is nearer (Burda, Grosse and Salakhutdinov 2015, arXiv:1509.00519); it is what `log_likelihood`
gives:

    ln p(x) >= E ln 1/K sum_k w_k,  w_k = p(x|z_k) p(z_k) / q(z_k|x)

Encoder and decoder are each a linear layer and two more beside each other, for mean and scale ("linear"); or
convolutions, in the decoder transposed ones ("convolutional"). Conditional, both also see the class, as a row of zeros
and a one (Sohn, Lee and Yan 2015, "Learning structured output representation using deep conditional generative
models"); where the class of an image is not told, it is the one under which the bound is highest.

Departs from the paper: relu in place of tanh; pixels are 8-bit levels, whose distribution sums to one, so that bits per
dimension of all systems compare; and a made image shows the middle of p(x|z), not a draw from it, which adds noise.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.generate.generator import LEVELS, Generator, GeneratorSpec
from foveal.losses.distributions import level_log_probability, normal_kl
from foveal.losses.likelihood import bernoulli_log_probability, logistic_log_probability
from foveal.nn.halving import Doubling, Halving, halved
from foveal.structures import Batch
from foveal.system import Preprocess, evaluating

CHUNK = 256  # images that are made together
NARROWEST = -7.0  # ln of the smallest scale of a pixel, in halves of the range; keeps what never changes in bounds


@dataclass(frozen=True)
class VAESpec(GeneratorSpec):
    """
    body:       "linear" or "convolutional".
    latent:     how many numbers a code has.
    hidden:     width of the linear body.
    width:      channels before the first halving of the convolutional body; each halving doubles them.
    stages:     how often that body halves its maps.
    pixels:     p(x|z) of a channel of a pixel: a "logistic" or "normal" distribution with a mean and a scale of its
                own, cut into levels; or "bernoulli", that the pixel is white, whose loss is the cross-entropy with its
                grey value.
    beta:       weight of the kl term (Higgins et al. 2017).
    importance: K, how many codes `log_likelihood` draws for an image.
    """

    body: Literal["linear", "convolutional"] = "convolutional"
    latent: int = 128
    hidden: int = 400
    width: int = 32
    stages: int = 4
    pixels: Literal["logistic", "normal", "bernoulli"] = "logistic"
    beta: float = 1.0
    importance: int = 16

    def __post_init__(self) -> None:
        for name in ("latent", "hidden", "width", "stages", "importance"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.beta < float("inf"):
            raise InputError(f"beta must be at least 0, not {self.beta}")


class Encoder(nn.Module):
    """Normalised images (B, C, H, W) and rows of classes (B, K) -> mean and log-variance of the code, (B, latent)."""

    def __init__(self, spec: VAESpec, classes: int) -> None:
        super().__init__()
        channels, (height, width) = spec.preprocess.channels, spec.preprocess.size
        self.linear = spec.body == "linear"
        self.body: nn.Module
        if self.linear:
            inputs, features = channels * height * width + classes, spec.hidden
            self.body = nn.Sequential(OrderedDict(fc=nn.Linear(inputs, features), relu=nn.ReLU()))
        else:
            rows, columns = halved(spec.preprocess.size, spec.stages, "a VAE")
            self.body = Halving(channels + classes, spec.width, spec.stages)
            features = spec.width * 2**spec.stages * rows * columns
        self.mean = nn.Linear(features, spec.latent)
        self.log_variance = nn.Linear(features, spec.latent)

    def forward(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([x.flatten(1), classes], 1) if self.linear else with_classes(x, classes)
        h = self.body(x).flatten(1)
        return self.mean(h), self.log_variance(h)


class Decoder(nn.Module):
    """Codes (B, latent) and rows of classes (B, K) -> parameters (B, P, C, H, W) of each pixel, P one or two."""

    def __init__(self, spec: VAESpec, classes: int) -> None:
        super().__init__()
        shape = spec.preprocess.channels, *spec.preprocess.size
        parameters = 1 if spec.pixels == "bernoulli" else 2
        self.body: nn.Module
        if spec.body == "linear":
            self.body = nn.Sequential(OrderedDict(fc=nn.Linear(spec.latent + classes, spec.hidden), relu=nn.ReLU()))
            # With two parameters these are the two layers beside each other, as one matrix.
            self.output: nn.Module = nn.Linear(spec.hidden, parameters * math.prod(shape))
        else:
            rows, columns = halved(spec.preprocess.size, spec.stages, "a VAE")
            maps = spec.width * 2**spec.stages
            layers = {"fc": nn.Linear(spec.latent + classes, maps * rows * columns), "relu": nn.ReLU()}
            self.body = nn.Sequential(OrderedDict(layers, maps=nn.Unflatten(1, (maps, rows, columns))))
            self.output = Doubling(parameters * shape[0], spec.width, spec.stages)
        self.shape = parameters, *shape

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        return self.output(self.body(torch.cat([z, classes], 1))).view(-1, *self.shape)


def with_classes(x: Tensor, classes: Tensor) -> Tensor:
    """(B, C, H, W) and (B, K) -> (B, C + K, H, W), each class an even map."""
    return torch.cat([x, classes[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class VAE(Generator):
    """Images are (B, 3, H, W) of the one size in `preprocess`."""

    spec: VAESpec

    def __init__(self, spec: VAESpec) -> None:
        super().__init__(spec)
        self.encoder = Encoder(spec, len(self.labels))
        self.decoder = Decoder(spec, len(self.labels))

    def forward(self, images: Tensor) -> Tensor:
        """(B, P, C, H, W): the parameters of each pixel (`Decoder`), for the mean code; no class is told."""
        rows = self.rows(None, len(images))
        return self.decoder(self.posterior(images, rows)[0], rows)

    def rows(self, classes: Tensor | None, count: int) -> Tensor:
        """Classes (B,) as rows (B, K) of zeros and a one; all zeros where none is told."""
        if classes is None:
            return self.pixel_mean.new_zeros(count, len(self.labels))
        return one_hot(classes, len(self.labels)).to(self.pixel_mean)

    def posterior(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latent) of q(z|x)."""
        if tuple(images.shape[2:]) != self.preprocess.size:
            raise InputError(f"images of {tuple(images.shape[2:])} pixels, not of {self.preprocess.size}")
        return self.encoder(self.normalize(images), rows)

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """Both in nats per dimension of an image; beta is in "kl"."""
        rows = self.rows(self.classes(batch), len(batch))
        mean, log_variance = self.posterior(batch.images, rows)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        parameters, levels = self.decoder(z, rows), self.levels(batch.images)
        if self.spec.pixels == "bernoulli":
            reconstruction = binary_cross_entropy_with_logits(parameters[:, 0], levels.to(z) / (LEVELS - 1))
        else:
            reconstruction = -self.log_probability(parameters, levels).mean()
        kl = kl_from_prior(mean, log_variance).sum() / levels.numel()
        return {"reconstruction": reconstruction, "kl": self.spec.beta * kl}

    def log_probability(self, parameters: Tensor, levels: Tensor) -> Tensor:
        """ln p(x|z) of each level (B, C, H, W), by the parameters (B, P, C, H, W)."""
        if self.spec.pixels == "bernoulli":
            return bernoulli_log_probability(levels, parameters[:, 0])
        half = (LEVELS - 1) / 2
        mean, log_scale = half * (1 + parameters[:, 0]), parameters[:, 1].clamp(min=NARROWEST) + math.log(half)
        if self.spec.pixels == "normal":
            return level_log_probability(levels, mean, log_scale.exp())
        return logistic_log_probability(levels, mean, log_scale)

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """(B,) in nats: the bound of Burda et al. on ln p(x), or on ln p(x|y) of a conditional system."""
        rows, levels = self.rows(self.classes(batch), len(batch)), self.levels(batch.images)
        mean, log_variance = self.posterior(batch.images, rows)
        weights = []
        for _ in range(self.spec.importance):
            noise = self.noise(*mean.shape, generator=generator)
            z = mean + (log_variance / 2).exp() * noise
            ratio = (noise.square() + log_variance - z.square()).sum(1) / 2  # ln p(z) - ln q(z|x)
            weights.append(self.log_probability(self.decoder(z, rows), levels).flatten(1).sum(1) + ratio)
        return torch.stack(weights).logsumexp(0) - math.log(self.spec.importance)

    def likeliest(self, images: Tensor) -> Tensor:
        """(B, K) rows of the class under which the bound is highest for each image, taken at the mean code."""
        bounds = []
        levels = self.levels(images)
        for index in range(len(self.labels)):
            rows = self.rows(torch.full((len(images),), index, device=self.device), len(images))
            mean, log_variance = self.posterior(images, rows)
            fit = self.log_probability(self.decoder(mean, rows), levels).flatten(1).sum(1)
            bounds.append(fit - kl_from_prior(mean, log_variance).sum(1))
        return self.rows(torch.stack(bounds).argmax(0) if bounds else None, len(images))

    def encode(self, images: Tensor) -> Tensor:
        """The mean code of each image."""
        with evaluating(self):
            return self.posterior(images, self.likeliest(images))[0]

    def reconstruct(self, images: Tensor) -> Tensor:
        with evaluating(self):
            rows = self.likeliest(images)
            return self._shown(self.decoder(self.posterior(images, rows)[0], rows))

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
    ) -> Tensor:
        asked = self.asked(n, labels)
        return self._made(self.noise(n, self.spec.latent, generator=generator), asked)

    def render(self, z: Tensor, labels: str | Sequence[str] | None = None) -> Tensor:
        """Points (B, latent), normal where images are new -> images (B, 3, H, W) in [0, 1], of classes as `sample` has
        them."""
        if z.ndim != 2 or z.shape[1] != self.spec.latent:
            raise InputError(f"points of the latent space are (B, {self.spec.latent}), not {tuple(z.shape)}")
        return self._made(z, self.asked(len(z), labels))

    def _made(self, z: Tensor, classes: Tensor | None) -> Tensor:
        parts = z.split(CHUNK), self.rows(classes, len(z)).split(CHUNK)
        with evaluating(self):
            return torch.cat([self._shown(self.decoder(*part)) for part in zip(*parts, strict=True)])

    def _shown(self, parameters: Tensor) -> Tensor:
        """The middle of p(x|z): (B, P, C, H, W) -> (B, 3, H, W) in [0, 1]."""
        middle = parameters[:, 0]
        middle = middle.sigmoid() if self.spec.pixels == "bernoulli" else (1 + middle) / 2
        return middle.clamp(0, 1).expand(-1, 3, -1, -1)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Those of the convolutional encoder, told of no class."""
        if not isinstance(self.encoder.body, Halving):
            return super().maps(x)
        return self.encoder.body.maps(with_classes(x, self.rows(None, len(x))))


def kl_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """D(q(z|x) || N(0, I)) of each number of the code, in nats."""
    return normal_kl(mean, log_variance.exp(), torch.zeros_like(mean), torch.ones_like(mean))


def grey(size: int) -> Preprocess:
    return Preprocess((size, size), "squash", 1.0, (0.0,), (1.0,), grey=True)


HALVES = (0.5, 0.5, 0.5)
ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 1e-3}
NANO = VAESpec(
    DIGITS,
    replace(grey(8), mean=(0.5,), std=(0.5,)),
    {**ADAM, "lr": 2e-3, "epochs": 100, "batch_size": 64, "ema": 0.995},
    latent=12,
)

VARIANTS = {
    # As pytorch/examples has it for MNIST, at the rate that it has.
    "vae_fc": VAESpec(
        DIGITS,
        grey(28),
        {**ADAM, "epochs": 50, "batch_size": 128, "schedule": "constant"},
        body="linear",
        latent=20,
        pixels="bernoulli",
    ),
    "vae": VAESpec((), Preprocess((64, 64), "crop", 1.0, HALVES, HALVES), {**ADAM, "epochs": 100, "batch_size": 64}),
    "vae_fc_nano": replace(NANO, recipe={**NANO.recipe, "epochs": 80}, body="linear", hidden=256),
    "vae_nano": replace(NANO, width=16, stages=2),
}
