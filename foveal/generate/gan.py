"""GAN: Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio 2014, "Generative adversarial
networks", arXiv:1406.2661.

    min_G max_D  E log s(D(x)) + E log(1 - s(D(G(z)))),  z ~ N(0, I)       equation 1 of the paper

Two players: the discriminator D scores how real an image looks, the generator G makes images of noise. They are
optimised in turn, within each step of training, by opposite objectives (losses/adversarial.py), of which neither tells
how good the images are. Where both are as good as they can be, images of G are distributed as the real ones are.

Conditional, the class y is known to both (Mirza and Osindero 2014, arXiv:1411.1784): G sees [z, embedding of y], and D
adds to its score of the last features h the product e_y . h (Miyato and Koyama 2018, arXiv:1802.05637).

Here both players are fully connected. Departs from the paper: D has leaky relus instead of maxout units, noise is
normal instead of uniform, and G learns by the non-saturating objective, which the paper advises, unless told otherwise.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.classify.labels import DIGITS
from foveal.errors import InputError, check_drop
from foveal.generate.generator import Generator, GeneratorSpec
from foveal.losses.adversarial import OBJECTIVES, Objective, gradient_penalty, r1_penalty
from foveal.structures import Batch
from foveal.system import Player, Preprocess, evaluating

CHUNK = 256  # images that are made together
SLOPE = 0.2  # of leaky relus below zero


@dataclass(frozen=True)
class AdversarialSpec(GeneratorSpec):
    """
    latent:         how many numbers an image is made of, normal noise.
    objective:      what the players minimise, as losses/adversarial.py has it.
    penalty:        on the slope of the discriminator: "none"; "r1", which wants it flat at real images; "gradient",
                    which wants a slope of one between real and made ones (WGAN-GP).
    penalty_weight: of the penalty in the discriminator's loss; by default 10, as in the papers of both.
    generator_every: the generator is updated in every so many-th step, the discriminator in each. Gulrajani et al. 2017
                    (WGAN-GP) take 5.
    """

    latent: int = 100
    objective: Objective = "nonsaturating"
    penalty: Literal["none", "r1", "gradient"] = "none"
    penalty_weight: float | None = None
    generator_every: int = 1

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise InputError(f"latent must be at least 1, not {self.latent}")
        if self.generator_every < 1:
            raise InputError(f"generator_every must be at least 1, not {self.generator_every}")
        if self.objective == "wasserstein" and self.penalty == "none":
            raise InputError("wasserstein bounds no score: it needs a penalty, such as gradient")
        if self.penalty_weight is not None:
            if self.penalty == "none":
                raise InputError("penalty_weight has no effect without a penalty")
            if not 0 < self.penalty_weight < float("inf"):
                raise InputError(f"penalty_weight must be above 0, not {self.penalty_weight}")


class Maker(nn.Module):
    """The generator: z (B, latent), and where classes (B,) are known these, -> normalised images (B, C, H, W).

    body: from (B, inputs), where inputs is what `Maker.inputs` says.
    """

    def __init__(self, body: nn.Module, latent: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, latent) if classes else None
        self.body = body

    @staticmethod
    def inputs(latent: int, classes: int) -> int:
        """How many numbers the body gets: those of z, and as many of the class."""
        return 2 * latent if classes else latent

    def forward(self, z: Tensor, classes: Tensor | None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(classes)], 1)
        return self.body(z)


class Judge(nn.Module):
    """The discriminator: normalised images (B, C, H, W), and their classes (B,) if there are any, -> scores (B,).

    body:  from images to features h.
    score: from features to a score, (B, 1) or (B, 1, 1, 1).
    width: how many features there are.
    """

    def __init__(self, body: nn.Module, score: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body, self.score = body, score
        self.embedding = nn.Embedding(classes, width) if classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        h = self.body(x)
        scores = self.score(h).flatten()
        if self.embedding is not None and classes is not None:
            scores = scores + (self.embedding(classes) * h.flatten(1)).sum(1)  # e_y . h
        return scores


class Adversarial(Generator):
    """What GANs share; a subclass builds the players."""

    spec: AdversarialSpec

    def __init__(self, spec: AdversarialSpec) -> None:
        super().__init__(spec)
        self.generator = self.build_generator(Maker.inputs(spec.latent, len(self.labels)))
        self.discriminator = self.build_discriminator()

    def build_generator(self, inputs: int) -> Maker:
        """The generator, whose body gets so many numbers."""
        raise NotImplementedError

    def build_discriminator(self) -> Judge:
        """The discriminator."""
        raise NotImplementedError

    @property
    def players(self) -> dict[str, Player]:
        return {
            "discriminator": Player(self.discriminator),
            "generator": Player(self.generator, every=self.spec.generator_every),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of the discriminator, without what it makes of the class."""
        if images.shape[2:] != self.preprocess.size:
            raise InputError(f"images of {tuple(images.shape[2:])} pixels, not of {self.preprocess.size}")
        return self.discriminator(self.normalize(images))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """What the discriminator minimises, or the generator if it is that player's turn."""
        terms, classes = OBJECTIVES[self.spec.objective], self.classes(batch)
        z = self.noise(len(batch), self.spec.latent, generator=None)
        if player == "generator":
            return {"fool": terms.fool(self.discriminator(self.generator(z, classes), classes))}
        with torch.no_grad():
            fake = self.generator(z, classes)
        real = self.normalize(batch.images)

        def score(x: Tensor) -> Tensor:
            return self.discriminator(x, classes)

        losses = {"real": terms.real(score(real)), "fake": terms.fake(score(fake))}
        weight = 10.0 if self.spec.penalty_weight is None else self.spec.penalty_weight
        if self.spec.penalty == "r1":
            losses["penalty"] = weight * r1_penalty(score, real)
        elif self.spec.penalty == "gradient":
            share = torch.rand(len(batch), 1, 1, 1).to(real)
            losses["penalty"] = weight * gradient_penalty(score, real, fake, share)
        return losses

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
    ) -> Tensor:
        classes, z = self.asked(n, labels), self.noise(n, self.spec.latent, generator=generator)
        with evaluating(self):
            return self._made(z, classes)

    def render(self, z: Tensor, labels: str | Sequence[str] | None = None) -> Tensor:
        """Points (B, latent), normal where images are new -> images (B, 3, H, W) in [0, 1], of classes as `sample` has
        them."""
        if z.ndim != 2 or z.shape[1] != self.spec.latent:
            raise InputError(f"points of the latent space are (B, {self.spec.latent}), not {tuple(z.shape)}")
        return self._made(z, self.asked(len(z), labels))

    def _made(self, z: Tensor, classes: Tensor | None) -> Tensor:
        parts = z.split(CHUNK)
        of = [None] * len(parts) if classes is None else classes.split(CHUNK)
        return torch.cat([self.as_images(self.generator(*part)) for part in zip(parts, of, strict=True)])

    def optional(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """A file may hold one of the players alone; the other begins anew."""
        absent = [player for player in self.players if not any(name.startswith(f"{player}.") for name in weights)]
        if len(absent) != 1:
            return ()
        return tuple(name for name in self.state_dict() if name.startswith(f"{absent[0]}."))


@dataclass(frozen=True)
class GANSpec(AdversarialSpec):
    """
    hidden:  widths of the generator's layers; those of the discriminator are the same, the other way round.
    dropout: probability, after each hidden layer of the discriminator.
    """

    hidden: tuple[int, ...] = (256, 512, 1024)
    dropout: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden must be widths of one layer or more, not {self.hidden}")
        check_drop("dropout", self.dropout)


class GAN(Adversarial):
    """Images are (B, 3, H, W) of the one size in `preprocess`, all of whose pixels are one row."""

    spec: GANSpec

    def build_generator(self, inputs: int) -> Maker:
        layers = OrderedDict[str, nn.Module]()
        for i, (a, b) in enumerate(pairwise((inputs, *self.spec.hidden)), 1):
            layers[f"fc{i}"], layers[f"act{i}"] = nn.Linear(a, b), nn.LeakyReLU(SLOPE)
        pixels = torch.Size(self.shape)
        layers["output"], layers["tanh"] = nn.Linear(self.spec.hidden[-1], pixels.numel()), nn.Tanh()
        layers["image"] = nn.Unflatten(1, pixels)
        return Maker(nn.Sequential(layers), self.spec.latent, len(self.labels))

    def build_discriminator(self) -> Judge:
        layers = OrderedDict[str, nn.Module](row=nn.Flatten())
        widths = torch.Size(self.shape).numel(), *reversed(self.spec.hidden)
        for i, (a, b) in enumerate(pairwise(widths), 1):
            layers[f"fc{i}"], layers[f"act{i}"] = nn.Linear(a, b), nn.LeakyReLU(SLOPE)
            layers[f"drop{i}"] = nn.Dropout(self.spec.dropout)
        return Judge(nn.Sequential(layers), nn.Linear(widths[-1], 1), widths[-1], len(self.labels))


def grey(size: int) -> Preprocess:
    """Grey images of so many pixels, normalised to between -1 and 1, as a tanh gives them."""
    return Preprocess((size, size), "squash", 1.0, (0.5,), (0.5,), grey=True)


# Of the means that adam keeps, that of gradients is to forget soon: the other player has moved on (arXiv:1511.06434).
RECIPE: dict[str, Any] = {"optimizer": "adam", "betas": (0.5, 0.999), "lr": 2e-4, "schedule": "constant"}

VARIANTS = {
    "gan": GANSpec(DIGITS, grey(28), {**RECIPE, "epochs": 100, "batch_size": 64}),
    "gan_nano": GANSpec(
        DIGITS,
        grey(8),
        {**RECIPE, "epochs": 200, "lr": 1e-3, "batch_size": 64, "ema": 0.995},
        latent=16,
        hidden=(128, 256),
    ),
}
