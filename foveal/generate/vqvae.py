"""VQ-VAE: van den Oord, Vinyals and Kavukcuoglu 2017, "Neural discrete representation learning", arXiv:1711.00937.

An encoder turns an image into a grid of vectors z(x), each of which is replaced by the nearest of the K vectors e of a
codebook; the decoder remembers the image from these alone, so that it is written as a grid of numbers 0 ... K - 1:

    k = argmin_j |z(x) - e_j|,   x' = decoder(e_k)                                     equations 1 and 2 of the paper
    L = |x - x'|^2 + |sg[z(x)] - e_k|^2 + beta |z(x) - sg[e_k]|^2                       equation 3, each as a mean

sg stops the gradient. The first term trains the decoder and, as if nothing had been replaced (straight through), the
encoder; the second moves codes to what they stand for; the third has the encoder stay near its codes.

With `code_decay` the codebook is no parameter, and the second term is left out: each code is the running mean of the
vectors that it stood for (appendix A.1), taken while training as a batch norm takes its statistics, with Laplace
smoothing:

    N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum of the n_k vectors,   e_k = m_k / N_k'
    N_k' = (N_k + eps) / (sum_j N_j + K eps) sum_j N_j

Departs from the paper: |x - x'|^2 is of pixels in units of `preprocess`; codes that stand for next to nothing can begin
anew at vectors of the batch (Dhariwal et al. 2020, arXiv:2005.00341). What makes new grids of codes, and so new images,
is in vqvae_prior.py.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from foveal.errors import InputError
from foveal.generate.generator import Generator, GeneratorSpec
from foveal.structures import Batch
from foveal.system import Preprocess

EPS = 1e-5  # of Laplace smoothing


@dataclass(frozen=True)
class VQVAESpec(GeneratorSpec):
    """
    codes:      how many vectors the codebook has, K.
    dimension:  numbers in each of them.
    halvings:   how often the encoder halves height and width.
    width:      channels of its maps, and of the decoder's.
    blocks:     residual blocks in each.
    residual:   channels in the middle of a block.
    commitment: weight of the third term of the loss, beta.
    code_decay: of the running means that codes are, g; None: codes are learned by gradient.
    revive:     codes that are used less than this share of even use begin anew; with code_decay.
    """

    conditional: ClassVar[bool] = False  # type: ignore[misc]  # codes know of no class
    codes: int = 512
    dimension: int = 64
    halvings: int = 2
    width: int = 256
    blocks: int = 2
    residual: int = 256
    commitment: float = 0.25
    code_decay: float | None = None
    revive: float = 0.0

    def __post_init__(self) -> None:
        if min(self.codes, self.dimension, self.halvings, self.width, self.residual) < 1 or self.blocks < 0:
            raise InputError("codes, dimension, halvings, width and residual must be at least 1, blocks at least 0")
        if not 0 <= self.commitment < float("inf"):
            raise InputError(f"commitment must be at least 0, not {self.commitment}")
        if self.code_decay is not None and not 0 < self.code_decay < 1:
            raise InputError(f"code_decay must be between 0 and 1, not {self.code_decay}")
        if not 0 <= self.revive < 1:
            raise InputError(f"revive must be at least 0 and below 1, not {self.revive}")
        if self.revive and self.code_decay is None:
            raise InputError("revive has no effect on codes that are learned by gradient: it needs code_decay")
        if any(side % 2**self.halvings for side in self.preprocess.size):
            raise InputError(f"images have to be multiples of {2**self.halvings} pixels, not {self.preprocess.size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        height, width = self.preprocess.size
        return height // 2**self.halvings, width // 2**self.halvings


class Codebook(nn.Module):
    """K vectors of D numbers, learned by gradient."""

    def __init__(self, codes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codes, dimension).uniform_(-1 / codes, 1 / codes))

    @property
    def vectors(self) -> Tensor:
        """(K, D)."""
        return self.weight

    def nearest(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, h, w) int64, the first of the nearest vectors to each place."""
        rows, vectors = z.detach().movedim(1, -1), self.vectors.detach()
        # |z - e|^2 = |z|^2 - 2 z e + |e|^2, whose first term is the same for all e.
        return (vectors.square().sum(1) - 2 * rows @ vectors.T).argmin(-1)

    def look_up(self, codes: Tensor) -> Tensor:
        """(B, h, w) -> (B, D, h, w)."""
        return embedding(codes, self.vectors).movedim(-1, 1)


class RunningCodebook(Codebook):
    """The same as running means of what each vector stood for; it learns by `take`.

    counts: (K,) N of the equations; sums: (K, D) m.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, dimension: int, decay: float, revive: float) -> None:
        nn.Module.__init__(self)
        self.decay, self.revive = decay, revive
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.randn(codes, dimension))

    @property
    def vectors(self) -> Tensor:
        total = self.counts.sum()
        smoothed = (self.counts + EPS) / (total + len(self.counts) * EPS) * total
        return self.sums / smoothed[:, None]

    @torch.no_grad()
    def take(self, z: Tensor, codes: Tensor) -> None:
        """Vectors (B, D, h, w), and by which codes (B, h, w) they were replaced, into the running means."""
        rows, codes = z.movedim(1, -1).flatten(0, -2).to(self.sums), codes.flatten()
        counts = torch.bincount(codes, minlength=len(self.counts)).to(self.counts)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rows)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        even = len(rows) / len(self.counts)
        dead = (self.counts < self.revive * even).nonzero()[:, 0]
        if len(dead):
            chosen = torch.randint(len(rows), (len(dead),)).to(dead)  # from torch's own state, on the CPU
            self.counts[dead] = even
            self.sums[dead] = even * rows[chosen]


class ResidualBlock(nn.Module):
    """x + conv2(relu(conv1(relu(x)))). (B, C, H, W) -> the same shape."""

    def __init__(self, width: int, residual: int) -> None:
        super().__init__()
        self.relu1, self.conv1 = nn.ReLU(), nn.Conv2d(width, residual, 3, padding=1)
        self.relu2, self.conv2 = nn.ReLU(), nn.Conv2d(residual, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu2(self.conv1(self.relu1(x))))


class VQVAE(Generator):
    """Images are (B, 3, H, W), with H and W multiples of 2^halvings. It remembers images, and makes none: see
    vqvae_prior.py."""

    spec: VQVAESpec

    def __init__(self, spec: VQVAESpec) -> None:
        super().__init__(spec)
        layers = OrderedDict[str, nn.Module]()
        channels = spec.preprocess.channels
        for i, (a, b) in enumerate(pairwise((channels, *(spec.width,) * spec.halvings)), 1):
            layers[f"conv{i}"], layers[f"relu{i}"] = nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()  # half the side
        for i in range(1, spec.blocks + 1):
            layers[f"block{i}"] = ResidualBlock(spec.width, spec.residual)
        layers["output"] = nn.Conv2d(spec.width, spec.dimension, 1)
        self.encoder = nn.Sequential(layers)
        if spec.code_decay is None:
            self.codebook = Codebook(spec.codes, spec.dimension)
        else:
            self.codebook = RunningCodebook(spec.codes, spec.dimension, spec.code_decay, spec.revive)
        layers = OrderedDict[str, nn.Module](input=nn.Conv2d(spec.dimension, spec.width, 3, padding=1))
        for i in range(1, spec.blocks + 1):
            layers[f"block{i}"] = ResidualBlock(spec.width, spec.residual)
        for i, (a, b) in enumerate(pairwise((*(spec.width,) * spec.halvings, channels)), 1):
            layers[f"relu{i}"], layers[f"conv{i}"] = nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)  # twice the side
        self.decoder = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same images (B, C, H, W) as they are remembered, normalised."""
        z = self.encoder(self._checked(images))
        return self.decoder(self.codebook.look_up(self.codebook.nearest(z)))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        x = self._checked(batch.images)
        z = self.encoder(x)  # (B, D, h, w)
        codes = self.codebook.nearest(z)
        e = self.codebook.look_up(codes)
        remembered = self.decoder(z + (e - z).detach())  # of the value e and the gradient of z
        losses = {"reconstruction": mse_loss(remembered, x)}
        if not isinstance(self.codebook, RunningCodebook):
            losses["codebook"] = mse_loss(e, z.detach())
        elif self.training:
            self.codebook.take(z, codes)
        return losses | {"commitment": self.spec.commitment * mse_loss(z, e.detach())}

    def quantize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> codes (B, h, w) int64."""
        return self.codebook.nearest(self.encoder(self._checked(images)))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> images (B, 3, H, W) in [0, 1]; those of -1, which are not known yet, as zeros."""
        e = self.codebook.look_up(codes.clamp(min=0)) * (codes >= 0)[:, None]
        return self.as_images(self.decoder(e))

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.as_images(self(images))

    def code_usage(self, images: Tensor) -> Tensor:
        return torch.bincount(self.quantize(images).flatten(), minlength=self.spec.codes)

    def _checked(self, images: Tensor) -> Tensor:
        """Normalised, after a look at their size."""
        if any(side % 2**self.spec.halvings for side in images.shape[2:]):
            multiple = 2**self.spec.halvings
            raise InputError(f"images of {tuple(images.shape[2:])} pixels, which are no multiples of {multiple}")
        return self.normalize(images)


HALVES = (0.5, 0.5, 0.5)

VARIANTS = {
    # Section 4.1 of the paper, for ImageNet; it does not tell the dimension, which is that of its authors' program.
    "vqvae": VQVAESpec(
        (),
        Preprocess((128, 128), "crop", 1.0, HALVES, (0.25, 0.25, 0.25)),
        {"optimizer": "adam", "lr": 2e-4, "batch_size": 128, "schedule": "constant", "epochs": 25},
    ),
    "vqvae_nano": VQVAESpec(
        (),
        Preprocess((8, 8), "squash", 1.0, (0.3,), (0.35,), grey=True),
        {"optimizer": "adam", "lr": 2e-3, "epochs": 40},
        codes=32,
        dimension=8,
        halvings=1,
        width=32,
        blocks=1,
        residual=32,
        code_decay=0.98,
        revive=0.03,
    ),
}
