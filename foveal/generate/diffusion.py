"""Denoising diffusion: Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.

Noise replaces an image in T steps (ops/diffusion.py), and a network predicts which noise it was:

    loss = E |e - e_net(a_t^0.5 x_0 + (1 - a_t)^0.5 e, t)|^2        e standard normal      equation 14

Sampling goes the other way, from noise: at each time the network's prediction gives an estimate of x_0, which is
clipped to the range of pixels, and a solver of ops/diffusion.py steps towards it.

A network may be given a condition (condition.py), which is dropped for a share of the training images, so that the
network also predicts without it. Guidance exaggerates the effect of the condition: Ho and Salimans 2022,
"Classifier-free diffusion guidance", arXiv:2207.12598, where g is 1 + w:

    e = e_none + g (e_condition - e_none)

Departs from the paper: the times of a batch are spread evenly over all T from a random start, and not drawn one by one,
which makes losses less random (the low-discrepancy sampler of Kingma, Salimans, Poole and Ho 2021, arXiv:2107.00630).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from foveal.errors import InputError, check_drop, nearest
from foveal.generate.condition import Condition
from foveal.generate.generator import LEVELS, Generator, GeneratorSpec, Trace
from foveal.losses.distributions import level_log_probability, normal_kl
from foveal.ops.diffusion import BETAS, SOLVERS, chosen_times, clean_in, diffuse, kept, posterior
from foveal.structures import Batch
from foveal.system import evaluating

Solver = Literal["ddpm", "ddim", "dpm", "dpm_sde"]
PIXELS = 2**18  # that the network processes together when it samples or measures images


@dataclass(frozen=True)
class DiffusionSpec(GeneratorSpec):
    """
    timesteps:      T.
    noise_schedule: how fast noise comes, see ops/diffusion.py.
    variance:       of a step of "ddpm": that of the posterior, "small", or of a step of the noise, "large".
    drop_class:     share of the training images whose class the network is not given; with 0 there is no guidance.
    """

    timesteps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    variance: Literal["small", "large"] = "large"
    drop_class: float = 0.1

    def __post_init__(self) -> None:
        if self.timesteps < 2:
            raise InputError(f"timesteps must be at least 2, not {self.timesteps}")
        check_drop("drop_class", self.drop_class)


class Diffusion(Generator):
    """What diffusion models share; a subclass builds `network`, names its `condition` and gives `sample`.

    network: noisy images (B, C, H, W), times (B,) and rows of the condition -> the noise (B, C, H, W).
    a:       (T,) float64 on the CPU, the share of the variance at each time that is the image's.
    """

    spec: DiffusionSpec
    network: nn.Module

    def __init__(self, spec: DiffusionSpec) -> None:
        super().__init__(spec)
        self.a = kept(BETAS[spec.noise_schedule](spec.timesteps))

    @property
    def condition(self) -> Condition:
        """A layer of the network."""
        raise NotImplementedError

    def forward(self, images: Tensor, time: int = 0) -> Tensor:
        """The noise (B, C, H, W) that the network predicts in images (B, 3, H, W) if they are those of this time,
        without their condition."""
        return self._noise(self.normalize(images), torch.full((len(images),), time), self.condition.none(len(images)))

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """noise: the mean squared error of the predicted noise."""
        x0 = self.normalize(batch.images)
        count = len(x0)
        even = (torch.rand(()) + torch.arange(count) / count) % 1  # times are drawn where their table is: on the CPU
        time = (even * self.spec.timesteps).long()
        noise = torch.randn_like(x0)
        rows = self.condition.drop(self.condition.of(batch), self.spec.drop_class)
        return {"noise": mse_loss(self._noise(diffuse(x0, noise, self.a[time]), time, rows), noise)}

    def solve(
        self,
        n: int,
        rows: Tensor | None,
        *,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        solver: Solver | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """n new images (n, 3, H, W) in [0, 1].

        rows:     of the condition.
        steps:    number of times at which the network is evaluated, twice with guidance; default all T.
        guidance: g above; 1 is as it was trained, 0 ignores the condition.
        solver:   "ddpm", "ddim", "dpm" or "dpm_sde", of ops/diffusion.py; default "ddpm" for all steps, "dpm_sde" for
                  fewer.
        generator, trace: as of every Generator.

        Raises InputError for more steps than times, an unknown solver, and guidance of a system without a condition.
        """
        total = self.spec.timesteps
        steps = total if steps is None else steps
        if not 1 <= steps <= total:
            raise InputError(f"steps must be 1 to {total}, the times that this system knows, not {steps}")
        solver = solver or ("ddpm" if steps == total else "dpm_sde")
        if solver not in get_args(Solver):
            raise InputError(f"there is no solver {solver!r}{nearest(str(solver), get_args(Solver))}")
        if guidance is not None and (self.condition.none(1) is None or not self.spec.drop_class):
            raise self._cannot("be guided: it was not trained with conditional, and a drop_class above 0")
        if guidance is not None and not math.isfinite(guidance):
            raise InputError(f"guidance must be a finite number, not {guidance}")
        draw = partial(self.noise, n, *self.shape, generator=generator)
        denoise = partial(self.denoise, rows=rows, guidance=guidance)
        options = {"large": self.spec.variance == "large"} if solver == "ddpm" else {}
        x = draw()
        with evaluating(self):
            chain = SOLVERS[solver](denoise, x, self.a, chosen_times(total, steps), draw, **options)
            for step, x in enumerate(chain, 1):
                if trace:
                    trace(step / steps, self.as_images(x))
        return self.as_images(x)

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """A bound from below of ln p(x), (B,), from one draw of the noise for each of T times: equation 5 of the paper.

            -D(q(x_T | x_0) || N(0, I)) - sum over t > 0 of D(q(x_s | x_t, x_0) || p(x_s | x_t)) + ln p(x_0 | x_1)

        The last term is that of equation 13, with the smallest variance of a step that is not zero. A conditional
        system bounds ln p(x | condition). The network is evaluated T times.
        """
        levels, rows = self.levels(batch.images), self.condition.of(batch)
        x0 = (levels / (LEVELS - 1) - self.pixel_mean) / self.pixel_std
        times, one = len(self.a), torch.ones(()).double()
        last = self.a[-1]
        bound = -normal_kl(last.sqrt() * x0, 1 - last, torch.zeros_like(x0), one).sum((1, 2, 3))
        with evaluating(self):
            for time in reversed(range(times)):
                a, before = self.a[time], self.a[time - 1] if time else one
                x = diffuse(x0, self.noise(*x0.shape, generator=generator), a)
                mean, variance = posterior(x, self.denoise(x, time, rows), a, before)
                if time:
                    own = 1 - a / before if self.spec.variance == "large" else variance
                    bound -= normal_kl(posterior(x, x0, a, before)[0], variance, mean, own).sum((1, 2, 3))
        variance = posterior(x0, x0, self.a[1], self.a[0])[1]
        unit = self.pixel_std * (LEVELS - 1)  # levels in a unit of x
        seen = level_log_probability(levels, mean * unit + self.pixel_mean * (LEVELS - 1), variance.sqrt() * unit)
        return bound + seen.sum((1, 2, 3))

    def denoise(self, x: Tensor, time: int, rows: Tensor | None = None, guidance: float | None = None) -> Tensor:
        """The estimate of x_0 from x (B, C, H, W) at a time, within the range of pixels."""
        at_once = max(1, PIXELS // x[0, 0].numel())
        noise = []
        for start in range(0, len(x), at_once):
            part = x[start : start + at_once]
            times = torch.full((len(part),), time)
            predicted = self._noise(part, times, None if rows is None else rows[start : start + at_once])
            if guidance is not None:
                without = self._noise(part, times, self.condition.none(len(part)))
                predicted = without + guidance * (predicted - without)
            noise.append(predicted)
        black, white = -self.pixel_mean / self.pixel_std, (1 - self.pixel_mean) / self.pixel_std
        return clean_in(x, torch.cat(noise), self.a[time]).clamp(black, white)

    def _noise(self, x: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        return self.network(x, time.to(x.device), rows)
