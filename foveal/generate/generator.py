"""What all systems that make images share: the classes they are asked for, pixels and noise, and the verbs of some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.structures import Batch, Picture
from foveal.system import Spec, System

# Called as images take shape: the share of the work that is done, and (n, 3, H, W) in [0, 1], what they look like.
Trace = Callable[[float, Tensor], None]
LEVELS = 256  # values that a channel of a pixel can have


@dataclass(frozen=True)
class GeneratorSpec(Spec):
    """
    conditional: learn with each image its class, and make images of a class that is asked for; else classes are left
                 aside.
    """

    conditional: bool = False


class Generator(System):
    """A system that makes images, (n, 3, H, W) in [0, 1], of the size of its preprocessing.

    A subclass gives `sample`, and those of the following verbs that it can: `log_likelihood`, `reconstruct`,
    `complete`, `render`. What can be asked of a sample, besides their number, are keyword arguments of its `sample`:

    labels:    class names, one an image, or one for all; of a conditional system alone, whose classes otherwise take
               turns.
    trace:     see Trace.
    steps, guidance, ...: of those that have such a thing.
    generator: where all that is random comes from, so that one seed gives the same images; it lives on the CPU.
    """

    learns_from = Picture
    spec: GeneratorSpec

    def __init__(self, spec: GeneratorSpec) -> None:
        if spec.conditional and not spec.labels:
            raise InputError("what makes images of a class needs class names: data with classes, or labels=...")
        super().__init__(spec if spec.conditional else replace(spec, labels=()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is made: one channel where the system sees grey."""
        return (self.preprocess.channels, *self.preprocess.size)

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """(B,) ln p(x), in nats, of the pixels of prepared images as 8-bit numbers, of one channel where the system
        sees grey; or a bound from below."""
        raise self._cannot("tell how probable an image is")

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], prepared -> the same, as the system remembers them."""
        raise self._cannot("reconstruct images")

    def complete(
        self, images: Tensor, known: Tensor, *, generator: torch.Generator | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Prepared images (B, 3, H, W) of which the pixels `known` (H, W) are kept and the others made anew."""
        raise self._cannot("complete images")

    def render(self, z: Tensor) -> Tensor:
        """Points (B, D) of the latent space, where those of new images are normal -> images (B, 3, H, W) in [0, 1]."""
        raise self._cannot("make images from points of a latent space")

    def encode(self, images: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) in [0, 1] -> where they lie in the latent space of `render`, (B, D)."""
        raise self._cannot("place images in a latent space")

    def code_usage(self, images: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) -> (K,) int64, for how many of their places each vector of a codebook stands."""
        raise self._cannot("tell which codes it uses: it has none")

    def as_images(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised, as `normalize` gives -> (B, 3, H, W) in [0, 1]."""
        return (x * self.pixel_std + self.pixel_mean).clamp(0, 1).expand(-1, 3, -1, -1)

    def levels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H, W) int64, 0 to 255."""
        return ((self.normalize(images) * self.pixel_std + self.pixel_mean) * (LEVELS - 1)).round().long()

    def classes(self, batch: Batch) -> Tensor | None:
        """(B,) int64, where the class of each image stands; None for a system that leaves classes aside."""
        if not self.labels:
            return None
        return torch.stack([target.label for target in batch.targets])

    def asked(self, n: int, labels: str | Sequence[str] | None) -> Tensor | None:
        """(n,) int64, where the classes stand that images are asked of; None for a system without classes."""
        if not self.labels:
            if labels is not None:
                raise self._cannot("be asked for a class: it was not trained with conditional")
            return None
        if labels is None:
            return torch.arange(n, device=self.device) % len(self.labels)
        names = [labels] * n if isinstance(labels, str) else list(labels)
        if len(names) != n:
            raise InputError(f"{len(names)} labels for {n} images: give one for each, or one for all")
        return torch.tensor([self.index(name) for name in names], device=self.device)

    def noise(self, *shape: int, generator: torch.Generator | None) -> Tensor:
        """Standard normal numbers, drawn on the CPU, so that a seed gives the same ones on every device."""
        return torch.randn(shape, generator=generator).to(self.pixel_mean)
