"""Denoising diffusion: Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.

Noise takes the place of an image in T steps (ops/diffusion.py), and a network (unet.py) learns which noise it was:

    loss = E |e - e_net(a_t^0.5 x_0 + (1 - a_t)^0.5 e, t)|^2        e standard normal      equation 14

An image is made the other way round, from noise: at each time the network's answer tells what x_0 looks like, which is
kept within the range of pixels, and a step goes towards it. The step is drawn (`ddpm`), or is that of an equation that
makes images as probable (`ddim`, Song et al. 2020, arXiv:2010.02502). Where steps are few it helps to see how x_0
changes from one to the next, of the equation (`dpm`) or of drawn steps (`dpm_sde`): Lu et al. 2022, arXiv:2211.01095.

Where the system is conditional the network is told the class, but sometimes not, so that it can be asked for both; what
the class changes can then be exaggerated: Ho and Salimans 2022, "Classifier-free diffusion guidance", arXiv:2207.12598.

    e = e_none + g (e_class - e_none),   g = 1 + w in that paper's words

Departs from the paper: the times of a batch are spread evenly over all T from a random start, and not drawn one by one,
which makes losses less random (the low-discrepancy sampler of Kingma, Salimans, Poole and Ho 2021, arXiv:2107.00630).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from foveal.classify.labels import CIFAR_10, DIGITS
from foveal.errors import InputError, check_drop, nearest
from foveal.generate.generator import LEVELS, Generator, GeneratorSpec, Trace
from foveal.generate.unet import Convention, UNet
from foveal.losses.distributions import level_log_probability, normal_kl
from foveal.nn.init import Init
from foveal.ops.diffusion import (
    BETAS,
    ancestral_step,
    chosen_times,
    clean_in,
    ddim_step,
    diffuse,
    dpm_step,
    kept,
    posterior,
)
from foveal.structures import Batch
from foveal.system import Preprocess, evaluating

Solver = Literal["ddpm", "ddim", "dpm", "dpm_sde"]
PIXELS = 2**18  # that the network sees together when it makes or measures images


@dataclass(frozen=True)
class DDPMSpec(GeneratorSpec):
    """
    timesteps:      T.
    noise_schedule: how fast noise comes, see ops/diffusion.py.
    variance:       of a step of "ddpm": that of the posterior, "small", or of a step of the noise, "large".
    drop_class:     share of the images whose class the network is not told while it learns; without them, 0, nothing
                    can be guided.
    width, multiples, blocks, attention, head_width, groups, dropout, convention: of the network, see unet.py.
    """

    timesteps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    variance: Literal["small", "large"] = "large"
    drop_class: float = 0.1
    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    head_width: int | None = None
    groups: int = 32
    dropout: float = 0.1
    convention: Convention = "paper"

    def __post_init__(self) -> None:
        if self.timesteps < 2:
            raise InputError(f"timesteps must be at least 2, not {self.timesteps}")
        check_drop("drop_class", self.drop_class)
        side = 2 ** (len(self.multiples) - 1)
        if any(length % side for length in self.preprocess.size):
            height, width = self.preprocess.size
            raise InputError(
                f"images must have sides that are multiples of {side}, which {len(self.multiples)} levels halve "
                f"{len(self.multiples) - 1} times, not {height} x {width}"
            )


class DDPM(Generator):
    """Images are (B, 3, H, W) of the size in `preprocess`, or any whose sides the network's levels can halve.

    a: (T,) float64 on the CPU, the share of the variance at each time that is the image's.
    """

    spec: DDPMSpec

    def __init__(self, spec: DDPMSpec) -> None:
        super().__init__(spec)
        self.a = kept(BETAS[spec.noise_schedule](spec.timesteps))
        self.network = UNet(
            self.shape[0],
            classes=len(self.labels) + 1 if self.labels else 0,  # the last row is that of no class
            width=spec.width,
            multiples=spec.multiples,
            blocks=spec.blocks,
            attention=spec.attention,
            head_width=spec.head_width,
            groups=spec.groups,
            dropout=spec.dropout,
            convention=spec.convention,
        )

    def initialise(self, how: Init) -> None:
        super().initialise(how)
        self.network.zero_ends()

    def forward(self, images: Tensor, time: int = 0) -> Tensor:
        """The noise (B, C, H, W) that the network sees in images (B, 3, H, W) if they are those of this time, without
        knowing their class."""
        return self._network(self.normalize(images), torch.full((len(images),), time), self._no_class(len(images)))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        x0 = self.normalize(batch.images)
        count = len(x0)
        even = (torch.rand(()) + torch.arange(count) / count) % 1  # times are drawn where their table is: on the CPU
        time = (even * self.spec.timesteps).long()
        classes, noise = self.classes(batch), torch.randn_like(x0)
        if classes is not None:
            untold = (torch.rand(count) < self.spec.drop_class).to(x0.device)
            classes = torch.where(untold, len(self.labels), classes)
        return {"noise": mse_loss(self._network(diffuse(x0, noise, self.a[time]), time, classes), noise)}

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
        """n new images (n, 3, H, W) in [0, 1].

        steps:    at how many times the network is asked, twice with guidance; default all T.
        guidance: g above; 1 is as it was learned, 0 leaves the class aside.
        solver:   "ddpm", "ddim", "dpm" or "dpm_sde", see above; default "ddpm" for all steps, "dpm_sde" for fewer.
        generator, labels, trace: as of every Generator.

        Raises InputError for more steps than times, for an unknown class, and for what only a conditional system has.
        """
        total = self.spec.timesteps
        steps = total if steps is None else steps
        if not 1 <= steps <= total:
            raise InputError(f"steps must be 1 to {total}, the times that this system knows, not {steps}")
        solver = solver or ("ddpm" if steps == total else "dpm_sde")
        if solver not in get_args(Solver):
            raise InputError(f"there is no solver {solver!r}{nearest(str(solver), get_args(Solver))}")
        if guidance is not None and not (self.labels and self.spec.drop_class):
            raise self._cannot("be guided: it was not trained with conditional, and a drop_class above 0")
        if guidance is not None and not math.isfinite(guidance):
            raise InputError(f"guidance must be a finite number, not {guidance}")
        classes = self.asked(n, labels)
        x, earlier = self.noise(n, *self.shape, generator=generator), None
        times = chosen_times(total, steps)
        a_s = torch.cat([self.a[times], torch.ones(1)])
        with evaluating(self):
            for step, time in enumerate(times.tolist()):
                a, before = a_s[step : step + 2]
                clean = self._clean(x, time, classes, guidance)
                match solver:
                    case "ddpm":
                        noise = self.noise(*x.shape, generator=generator)
                        x = ancestral_step(x, clean, a, before, noise, large=self.spec.variance == "large")
                    case "ddim":
                        x = ddim_step(x, clean, a, before)
                    case "dpm":
                        x = dpm_step(x, clean, a, before, earlier)
                    case "dpm_sde":
                        x = dpm_step(x, clean, a, before, earlier, self.noise(*x.shape, generator=generator))
                earlier = clean, a
                if trace:
                    trace((step + 1) / steps, self.as_images(x))
        return self.as_images(x)

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """A bound from below of ln p(x), (B,), from one draw of the noise for each of T times: equation 5 of the paper.

            -D(q(x_T | x_0) || N(0, I)) - sum over t > 0 of D(q(x_s | x_t, x_0) || p(x_s | x_t)) + ln p(x_0 | x_1)

        The last term is that of equation 13, with the smallest variance of a step that is not zero. A conditional
        system bounds ln p(x | class). The network is asked T times.
        """
        levels, classes = self.levels(batch.images), self.classes(batch)
        x0 = (levels / (LEVELS - 1) - self.pixel_mean) / self.pixel_std
        times, one = len(self.a), torch.ones(()).double()
        last = self.a[-1]
        bound = -normal_kl(last.sqrt() * x0, 1 - last, torch.zeros_like(x0), one).sum((1, 2, 3))
        with evaluating(self):
            for time in reversed(range(times)):
                a, before = self.a[time], self.a[time - 1] if time else one
                x = diffuse(x0, self.noise(*x0.shape, generator=generator), a)
                mean, variance = posterior(x, self._clean(x, time, classes), a, before)
                if time:
                    own = 1 - a / before if self.spec.variance == "large" else variance
                    bound -= normal_kl(posterior(x, x0, a, before)[0], variance, mean, own).sum((1, 2, 3))
        variance = posterior(x0, x0, self.a[1], self.a[0])[1]
        unit = self.pixel_std * (LEVELS - 1)  # levels in a unit of x
        seen = level_log_probability(levels, mean * unit + self.pixel_mean * (LEVELS - 1), variance.sqrt() * unit)
        return bound + seen.sum((1, 2, 3))

    def _network(self, x: Tensor, time: Tensor, classes: Tensor | None) -> Tensor:
        return self.network(x, time.to(x.device), classes)

    def _no_class(self, count: int) -> Tensor | None:
        return torch.full((count,), len(self.labels), device=self.device) if self.labels else None

    def _clean(self, x: Tensor, time: int, classes: Tensor | None, guidance: float | None = None) -> Tensor:
        """What the network takes x_0 for, by x (B, C, H, W) at a time, within the range of pixels."""
        at_once = max(1, PIXELS // x[0, 0].numel())
        noise = []
        for start in range(0, len(x), at_once):
            part = x[start : start + at_once]
            times = torch.full((len(part),), time)
            told = self._network(part, times, None if classes is None else classes[start : start + at_once])
            if guidance is not None:
                untold = self._network(part, times, self._no_class(len(part)))
                told = untold + guidance * (told - untold)
            noise.append(told)
        black, white = -self.pixel_mean / self.pixel_std, (1 - self.pixel_mean) / self.pixel_std
        return clean_in(x, torch.cat(noise), self.a[time]).clamp(black, white)


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
