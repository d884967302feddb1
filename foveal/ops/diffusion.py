"""Diffusion: how noise takes the place of an image step by step, the steps back, and the solvers that chain them.

    q(x_t | x_0) = N(a_t^0.5 x_0, (1 - a_t) I),   a_t = (1 - beta_0) (1 - beta_1) ... (1 - beta_t)

Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equation 4, where a_t is written
with a bar; after Sohl-Dickstein et al. 2015, arXiv:1503.03585. Times count from 0, and before the first one a is 1.

A step goes from x at a time t to an earlier time s, which need not be the one before. It takes a_t and a_s, float64 and
of no dimension, and what is known or estimated of x_0, `clean`; tensors of images are (B, ...) of any type and shape.

A solver is a function of any `denoise(x, t)`, which estimates x_0 from x at the time t. It yields x after each step;
the last one goes to x_0:

    x:     (B, ...), standard normal noise.
    a:     (T,), as `kept` gives.
    times: falling, as `chosen_times` gives: the times at which `denoise` is evaluated.
    draw:  gives standard normal noise of the shape of x, for each step that is random.

At both ends the limit is taken. Without noise, a = 1, x is x_0, and the noise in it counts as zero; a step between two
times with the same a leaves x as it is. InputError for other shapes, and where nothing of x_0 is left, a = 0, and it is
to be computed from x_t.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.ops.checks import check

Denoise = Callable[[Tensor, int], Tensor]
Draw = Callable[[], Tensor]

LARGEST = 0.999  # share of the variance that one step may take away


def linear_betas(times: int) -> Tensor:
    """(times,) float64: from 0.0001 to 0.02 where there are 1000 times (Ho et al. 2020), and in proportion more where
    there are fewer, so that as little is left of the image in the end."""
    _check_times("linear_betas", times)
    scale = 1000 / times
    return torch.linspace(1e-4 * scale, 0.02 * scale, times, dtype=torch.float64).clamp(max=LARGEST)


def cosine_betas(times: int) -> Tensor:
    """(times,) float64, such that a_t = f(t + 1) / f(0), f(t) = cos(pi/2 (t / times + 0.008) / 1.008)^2: noise comes
    more slowly at the beginning and at the end. Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17."""
    _check_times("cosine_betas", times)
    u = torch.arange(times + 1, dtype=torch.float64) / times
    f = (math.pi / 2 * (u + 0.008) / 1.008).cos().square()
    return (1 - f[1:] / f[:-1]).clamp(max=LARGEST)


BETAS: dict[str, Callable[[int], Tensor]] = {"linear": linear_betas, "cosine": cosine_betas}


def kept(betas: Tensor) -> Tensor:
    """(T,) -> (T,): a_t, the share of the variance at each time that is still the image's."""
    check("kept", betas=(betas, "T floats"))
    return (1 - betas).cumprod(0)


def chosen_times(times: int, steps: int) -> Tensor:
    """(steps,) int64, falling, evenly from the last time on: where a chain of fewer steps than times looks.

    It begins where training ends, in nearly pure noise: Lin et al. 2023, arXiv:2305.08891, table 2, "trailing".
    InputError for more steps than times.
    """
    _check_times("chosen_times", times)
    if not 1 <= steps <= times:
        raise InputError(f"chosen_times takes 1 to {times} steps, as many as there are times, not {steps}")
    return (times - torch.arange(steps, dtype=torch.float64) * times / steps).round().long() - 1


def diffuse(x0: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """A draw of q(x_t | x_0) by standard normal noise; `a` is a_t, one number or (B,)."""
    _check_images("diffuse", x0, a, noise=noise)
    return _root(a, x0) * x0 + _root(1 - a, x0) * noise


def clean_in(x: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """x_0 by the noise that is in x_t: `diffuse` solved for it."""
    _check_images("clean_in", x, a, noise=noise)
    if bool((a <= 0).any()):
        raise InputError("clean_in cannot compute x_0 from noise alone: a must be above 0")
    return (x - _root(1 - a, x) * noise) / _root(a, x)


def noise_in(x: Tensor, clean: Tensor, a: Tensor) -> Tensor:
    """The noise that is in x_t, by x_0: `diffuse` solved for it; zero where a is 1."""
    _check_images("noise_in", x, a, clean=clean)
    return _quotient(x - _root(a, x) * clean, _root(1 - a, x), 0)


def posterior(x: Tensor, clean: Tensor, a: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, as x, and the variance, one number, of q(x_s | x_t, x_0): equations 6 and 7 of Ho et al.

    a, before: a_t and a_s. InputError where s is a later time, of which x_0 and x_t say too little.
    """
    _check_images("posterior", x, a, clean=clean)
    _check_order("posterior", a, before)
    alpha = _quotient(a, before, 1)
    beta = 1 - alpha
    ours, theirs = _quotient(before.sqrt() * beta, 1 - a, 1), _quotient(alpha.sqrt() * (1 - before), 1 - a, 0)
    return ours * clean + theirs * x, _quotient(1 - before, 1 - a, 0) * beta


def ancestral_step(
    x: Tensor, clean: Tensor, a: Tensor, before: Tensor, noise: Tensor, *, large: bool = False
) -> Tensor:
    """x_s = mean of the posterior + sigma noise: a draw of p(x_s | x_t), Ho et al., algorithm 2.

    large: sigma^2 is 1 - a_t / a_s, that of a step of the noise, and not the posterior's, which is right where there is
           one image only. The last step, to where `before` is 1, adds no noise.
    """
    _check_images("ancestral_step", x, a, clean=clean, noise=noise)
    mean, variance = posterior(x, clean, a, before)
    if large and before < 1:
        variance = 1 - _quotient(a, before, 1)
    return mean + variance.sqrt() * noise


def ddim_step(
    x: Tensor, clean: Tensor, a: Tensor, before: Tensor, noise: Tensor | None = None, *, eta: float = 0.0
) -> Tensor:
    """x_s = a_s^0.5 x_0 + (1 - a_s - sigma^2)^0.5 e + sigma noise, e the noise in x_t, and sigma^2 the share eta^2 of
    the posterior's variance: with eta 1 a draw of it. With 0 nothing is drawn, so that images are a function of the
    first noise, and s may also be a later time.

    Song, Meng and Ermon 2020, "Denoising diffusion implicit models", arXiv:2010.02502, equations 12 and 16.
    """
    _check_images("ddim_step", x, a, clean=clean, **({} if noise is None else {"noise": noise}))
    variance = torch.zeros_like(a)
    if eta:
        _check_order("ddim_step with eta", a, before)
        variance = eta**2 * _quotient(1 - before, 1 - a, 0) * (1 - _quotient(a, before, 1))
    there = before.sqrt() * clean + (1 - before - variance).sqrt() * noise_in(x, clean, a)
    return there if noise is None else there + variance.sqrt() * noise


def dpm_step(
    x: Tensor,
    clean: Tensor,
    a: Tensor,
    before: Tensor,
    earlier: tuple[Tensor, Tensor] | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """A step of DPM-Solver++(2M), which sees how x_0 changes on the way. Lu et al. 2022, arXiv:2211.01095, algorithm 2:

        x_s = ((1 - a_s) / (1 - a_t))^0.5 x_t - a_s^0.5 (e^-h - 1) D,   D = x_0 + (x_0 - x_0') / (2 r)
        h = l_s - l_t,   r = (l_t - l_t') / h,   l = ln(a / (1 - a)) / 2

    which is DDIM's step towards D. With noise it is that of the same paper's SDE-DPM-Solver++(2M): the drawn step
    towards D.

    earlier: x_0' and a_t' of the step before. Without it, and to where `before` is 1, D is x_0.
    """
    others = {"clean": clean, "earlier": None if earlier is None else earlier[0], "noise": noise}
    _check_images("dpm_step", x, a, **{name: other for name, other in others.items() if other is not None})
    if earlier is not None and before < 1 and before != a:
        h = _log_signal(before) - _log_signal(a)
        r = (_log_signal(a) - _log_signal(earlier[1])) / h
        clean = clean + (clean - earlier[0]) / (2 * r)
    return ddim_step(x, clean, a, before) if noise is None else ancestral_step(x, clean, a, before, noise)


def ancestral(
    denoise: Denoise, x: Tensor, a: Tensor, times: Tensor, draw: Draw, *, large: bool = False
) -> Iterator[Tensor]:
    """The chain of `ancestral_step`. large: see there."""
    for time, now, before in _course(a, times):
        clean = denoise(x, time)
        x = ancestral_step(x, clean, now, before, draw(), large=large)
        yield x


def ddim(denoise: Denoise, x: Tensor, a: Tensor, times: Tensor, draw: Draw) -> Iterator[Tensor]:
    """The chain of `ddim_step` without noise."""
    for time, now, before in _course(a, times):
        x = ddim_step(x, denoise(x, time), now, before)
        yield x


def dpm(denoise: Denoise, x: Tensor, a: Tensor, times: Tensor, draw: Draw, *, drawn: bool = False) -> Iterator[Tensor]:
    """The chain of `dpm_step`. drawn: with noise."""
    earlier = None
    for time, now, before in _course(a, times):
        clean = denoise(x, time)
        x = dpm_step(x, clean, now, before, earlier, draw() if drawn else None)
        earlier = clean, now
        yield x


SOLVERS: dict[str, Callable[..., Iterator[Tensor]]] = {
    "ddpm": ancestral,
    "ddim": ddim,
    "dpm": dpm,
    "dpm_sde": partial(dpm, drawn=True),
}


def _course(a: Tensor, times: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each time with its `a` and that of the next one, which is 1 after the last."""
    shares = torch.cat([a[times], a.new_ones(1)])
    yield from zip(times.tolist(), shares[:-1], shares[1:], strict=True)


def _log_signal(a: Tensor) -> Tensor:
    """Half the logarithm of the ratio of the image's variance to the noise's."""
    return (a / (1 - a)).log() / 2


def _quotient(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """part / whole, and `otherwise` where whole is zero."""
    return torch.where(whole == 0, otherwise, part / torch.where(whole == 0, 1, whole))


def _check_images(function: str, x: Tensor, a: Tensor, **others: Tensor) -> None:
    """InputError unless the others broadcast with x, and `a` is one number or one for each image."""
    check(function, x=(x, "..."), **{name: (tensor, "...") for name, tensor in others.items()})
    check(function, a=(a, "... floats"))
    if a.ndim and a.shape != x.shape[:1]:
        raise InputError(f"{function} takes one a or one for each of {len(x)} images, not {tuple(a.shape)}")


def _check_order(function: str, a: Tensor, before: Tensor) -> None:
    if bool(before < a):
        raise InputError(f"{function} goes to an earlier time, where a is higher, not from {a:.4g} to {before:.4g}")


def _check_times(function: str, times: int) -> None:
    if times < 1:
        raise InputError(f"{function} takes at least 1 time, not {times}")


def _root(value: Tensor, x: Tensor) -> Tensor:
    """The square root of one number, or of one an image, as a factor of x."""
    return value.sqrt().to(x).view(-1, *[1] * (x.ndim - 1))
