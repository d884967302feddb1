"""What makes new images of the codes that a VQ-VAE remembers images by: van den Oord, Vinyals and Kavukcuoglu 2017,
arXiv:1711.00937, section 3.3.

    p(codes) = prod over i of p(code_i | codes before it)      by a gated PixelCNN, for which codes are names

A trained VQ-VAE (vqvae.py) turns images into grids of codes, and stays as it is; what is learned is how probable each
code is by those above and at the left, and by the class of the image where that is given. New grids are drawn code by
code, and the VQ-VAE's decoder shows them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.generate.autoregressive import draw
from foveal.generate.gated_pixelcnn import GatedNetwork
from foveal.generate.generator import Generator, GeneratorSpec, Trace
from foveal.generate.pixelcnn import check_network
from foveal.generate.vqvae import VQVAE
from foveal.nn.frozen import Frozen
from foveal.structures import Batch
from foveal.system import Player, System, evaluating, resize, shown


@dataclass(frozen=True)
class VQVAEPriorSpec(GeneratorSpec):
    """
    codes:     the trained VQ-VAE whose codes are learned: a run, a checkpoint, or the system itself.
    embedding: learned features by which the network sees a code.
    width:     features of each stack of the network, as of the others in gated_pixelcnn.py.
    layers:    how many, the first one among them.
    kernel:    side of the convolutions; that of the first layer is `first`.
    first:     side of the first layer's.
    head:      features of the last layer but one.
    """

    codes: System | None = None
    embedding: int = 64
    width: int = 128
    layers: int = 12
    kernel: int = 3
    first: int = 7
    head: int = 256

    def __post_init__(self) -> None:
        check_network(self.width, self.layers, self.kernel, self.first, self.head)
        if self.embedding < 1:
            raise InputError(f"embedding must be at least 1, not {self.embedding}")


class VQVAEPrior(Generator):
    """Images are (B, 3, H, W) of the size in `preprocess`, by default that of the VQ-VAE, of which `codes` is a copy
    that learns nothing."""

    spec: VQVAEPriorSpec
    codes: Frozen[VQVAE]

    def __init__(self, spec: VQVAEPriorSpec) -> None:
        super().__init__(spec)
        if not isinstance(spec.codes, VQVAE):
            given = "" if spec.codes is None else f", not {spec.codes.name or type(spec.codes).__name__}"
            raise InputError(f"a prior over codes needs a trained VQ-VAE as codes: a run or a checkpoint{given}")
        self.codes = Frozen(spec.codes)
        self.network = GatedNetwork(
            1,
            spec.codes.spec.codes,
            width=spec.width,
            layers=spec.layers,
            kernel=spec.kernel,
            first=spec.first,
            head=spec.head,
            classes=len(self.labels),
            embedding=spec.embedding,
        )

    @property
    def players(self) -> dict[str, Player]:
        return {"system": Player(self.network)}

    def quantize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> codes (B, 1, h, w) int64."""
        with torch.no_grad():
            return self.codes.module.quantize(shown(images, self.codes.module))[:, None]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w) of each code by those before it, without knowing the class."""
        return self.network(self.quantize(images))[:, :, 0]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """nll: -ln p(codes) over their number, nats."""
        codes = self.quantize(batch.images)
        return {"nll": cross_entropy(self.network(codes, self.classes(batch)), codes)}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        classes, grid = self.asked(n, labels), self.codes.module.spec.grid
        numbers = torch.rand(n, 1, *grid, generator=generator, dtype=torch.float64)
        with evaluating(self):
            return self._decoded(draw(self.network, numbers, classes, trace=self._seen(trace)))

    def _decoded(self, codes: Tensor) -> Tensor:
        """(n, 1, h, w), those of -1 not known yet -> (n, 3, H, W) in [0, 1]."""
        return resize(self.codes.module.decode_codes(codes[:, 0]), self.preprocess.size)

    def _seen(self, trace: Trace | None) -> Callable[[float, Tensor], None] | None:
        """What shows grids of which a share of the rows is drawn."""
        if trace is None:
            return None

        def see(done: float, codes: Tensor) -> None:
            codes = codes.clone()
            codes[:, :, round(done * codes.shape[2]) :] = -1
            trace(done, self._decoded(codes))

        return see


RECIPE: dict[str, Any] = {"optimizer": "adam", "lr": 1e-3}

VARIANTS = {
    "vqvae_prior": VQVAEPriorSpec((), recipe={**RECIPE, "lr": 3e-4, "batch_size": 128, "epochs": 100}),
    "vqvae_prior_nano": VQVAEPriorSpec(
        DIGITS,
        recipe={**RECIPE, "epochs": 40, "ema": 0.99, "shift": 0.0625},
        embedding=32,
        width=48,
        layers=4,
        first=5,
        head=64,
    ),
}
