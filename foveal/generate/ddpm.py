"""DDPM: denoising diffusion (diffusion.py) by a U-Net (unet.py): Ho, Jain and Abbeel 2020, "Denoising diffusion
probabilistic models", arXiv:2006.11239. Where it is conditional, the U-Net is given the class of the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.errors import InputError
from foveal.generate.condition import ClassCondition, Condition
from foveal.generate.diffusion import Diffusion, DiffusionSpec, Solver
from foveal.generate.generator import Trace
from foveal.generate.unet import Convention, UNet
from foveal.nn.init import Init
from foveal.system import Preprocess


@dataclass(frozen=True)
class DDPMSpec(DiffusionSpec):
    """
    width, multiples, blocks, attention, head_width, groups, dropout, convention: of the network, see unet.py.
    """

    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    head_width: int | None = None
    groups: int = 32
    dropout: float = 0.1
    convention: Convention = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        side = 2 ** (len(self.multiples) - 1)
        if any(length % side for length in self.preprocess.size):
            height, width = self.preprocess.size
            raise InputError(
                f"images must have sides that are multiples of {side}, which {len(self.multiples)} levels halve "
                f"{len(self.multiples) - 1} times, not {height} x {width}"
            )


class DDPM(Diffusion):
    """Images are (B, 3, H, W) of the size in `preprocess`, or any whose sides the network's levels can halve."""

    spec: DDPMSpec
    network: UNet

    def __init__(self, spec: DDPMSpec) -> None:
        super().__init__(spec)
        self.network = UNet(
            self.shape[0],
            condition=partial(ClassCondition, len(self.labels)) if self.labels else Condition,
            width=spec.width,
            multiples=spec.multiples,
            blocks=spec.blocks,
            attention=spec.attention,
            head_width=spec.head_width,
            groups=spec.groups,
            dropout=spec.dropout,
            convention=spec.convention,
        )

    @property
    def condition(self) -> Condition:
        return self.network.classes

    def initialise(self, how: Init) -> None:
        super().initialise(how)
        self.network.zero_ends()

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: str | Sequence[str] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        solver: Solver | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """n new images (n, 3, H, W) in [0, 1]; see `Diffusion.solve` for steps, guidance, solver and errors.

        generator, labels, trace: as of every Generator.
        """
        rows = self.asked(n, labels)
        return self.solve(n, rows, generator=generator, steps=steps, guidance=guidance, solver=solver, trace=trace)


HALVES = (0.5, 0.5, 0.5)
# Appendix B of the paper: 800,000 steps of 128 images, of which the first 5,000 warm up.
CIFAR: dict[str, Any] = {"epochs": 2048, "batch_size": 128, "optimizer": "adam", "lr": 2e-4, "schedule": "constant"}
CIFAR |= {"warmup": 12.8, "clip": 1.0, "ema": 0.9999, "flip": True}
CIFAR10 = DDPMSpec(CIFAR_10, Preprocess((32, 32), "squash", 1.0, HALVES, HALVES), CIFAR)

VARIANTS = {
    "ddpm_cifar10": CIFAR10,
    "ddpm_nano": replace(
        CIFAR10,
        labels=DIGITS,
        preprocess=Preprocess((8, 8), "squash", 1.0, (0.5,), (0.5,), grey=True),
        recipe={"epochs": 60, "batch_size": 64, "lr": 2e-3, "ema": 0.995, "warmup": 2.0},
        timesteps=250,
        noise_schedule="cosine",
        variance="small",
        width=32,
        multiples=(1, 2),
        blocks=1,
        attention=(2,),
        groups=8,
        dropout=0.0,
    ),
}
