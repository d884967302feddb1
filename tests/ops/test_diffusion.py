"""Diffusion against the equations, in loops and by sampling; step by step against diffusers in tests/parity."""

import math
from itertools import pairwise

import pytest
import torch

from foveal.errors import InputError
from foveal.ops.diffusion import (
    BETAS,
    SOLVERS,
    ancestral,
    ancestral_step,
    chosen_times,
    clean_in,
    ddim_step,
    diffuse,
    dpm_step,
    kept,
    noise_in,
    posterior,
)

ONE = torch.ones((), dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_linear_schedule_is_the_papers_and_ends_alike_for_other_numbers_of_times() -> None:
    betas = BETAS["linear"](1000)
    assert betas.tolist() == pytest.approx([1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)])
    assert float(kept(betas)[-1]) == pytest.approx(4.0e-5, rel=0.02)
    assert float(kept(BETAS["linear"](100))[-1]) < 1e-4
    assert BETAS["linear"](4).max() <= 0.999


def test_cosine_schedule_is_the_equation() -> None:
    def f(t: float) -> float:
        return math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2

    a = kept(BETAS["cosine"](50))
    assert a[:-1].tolist() == pytest.approx([f(t + 1) / f(0) for t in range(49)], rel=1e-9)
    assert float(a[-1] / a[-2]) == pytest.approx(0.001)  # the last step is as large as one may be
    assert (a[1:] < a[:-1]).all()


@pytest.mark.parametrize("schedule", BETAS)
def test_many_small_steps_are_one_large_one(schedule: str) -> None:
    betas = BETAS[schedule](20)
    mean, variance = 1.0, 0.0
    for beta, a in zip(betas.tolist(), kept(betas).tolist(), strict=True):
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
        assert (mean, variance) == pytest.approx((a**0.5, 1 - a))


def test_noise_and_image_are_found_again() -> None:
    x0, noise, a = draws(3, 2, 4, 4), draws(3, 2, 4, 4, seed=1), torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    x = diffuse(x0, noise, a)
    assert torch.allclose(x[1], 0.5**0.5 * (x0[1] + noise[1]))
    assert torch.allclose(clean_in(x, noise, a), x0)
    assert torch.allclose(noise_in(x, x0, a), noise)
    assert diffuse(x0.float(), noise.float(), a).dtype == torch.float32


def test_the_posterior_is_bayes_rule() -> None:
    """Of one pixel: q(x_s | x_t, x_0) is q(x_t | x_s) q(x_s | x_0) over their integral, on a fine grid of x_s."""
    a, before, x0, x = ONE * 0.4, ONE * 0.7, ONE * 0.8, ONE * -0.3
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64)

    def log_normal(value, mean, variance):
        return -((value - mean) ** 2) / (2 * variance)

    step = a / before
    log = log_normal(x, step.sqrt() * grid, 1 - step) + log_normal(grid, before.sqrt() * x0, 1 - before)
    density = log.softmax(0)
    mean = (density * grid).sum()
    found, variance = posterior(x, x0, a, before)
    assert float(found) == pytest.approx(float(mean), rel=1e-6)
    assert float(variance) == pytest.approx(float((density * (grid - mean) ** 2).sum()), rel=1e-6)


@pytest.mark.parametrize("large", [False, True])
def test_drawn_steps_have_their_mean_and_variance(large: bool) -> None:
    a, before, x, clean = ONE * 0.4, ONE * 0.7, draws(1), draws(1, seed=1)
    drawn = ancestral_step(x, clean, a, before, draws(200_000, seed=2), large=large)
    mean, variance = posterior(x, clean, a, before)
    expected = 1 - a / before if large else variance
    assert float(drawn.mean() - mean) == pytest.approx(0, abs=0.01)
    assert float(drawn.var()) == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize("large", [False, True])
def test_the_last_step_draws_nothing(large: bool) -> None:
    x, clean, noise = draws(2, 3), draws(2, 3, seed=1), draws(2, 3, seed=2)
    for step in (ancestral_step(x, clean, ONE * 0.9, ONE, noise, large=large), ddim_step(x, clean, ONE * 0.9, ONE)):
        assert torch.allclose(step, clean)
    assert torch.allclose(dpm_step(x, clean, ONE * 0.9, ONE, (noise, ONE * 0.8)), clean)


def test_ddim_with_eta_one_is_the_drawn_step() -> None:
    x, clean, noise = draws(2, 3), draws(2, 3, seed=1), draws(2, 3, seed=2)
    for a, before in ((0.4, 0.7), (0.01, 0.5), (0.98, 0.99)):
        one, other = ONE * a, ONE * before
        expected = ancestral_step(x, clean, one, other, noise)
        assert torch.allclose(ddim_step(x, clean, one, other, noise, eta=1.0), expected)
        assert not torch.allclose(ddim_step(x, clean, one, other, noise, eta=0.5), expected)


def test_dpm_without_memory_is_ddim() -> None:
    x, clean = draws(2, 3), draws(2, 3, seed=1)
    for a, before in ((0.4, 0.7), (1e-5, 0.5), (0.98, 0.99)):
        assert torch.allclose(dpm_step(x, clean, ONE * a, ONE * before), ddim_step(x, clean, ONE * a, ONE * before))


def test_dpm_with_noise_and_without_memory_is_the_drawn_step() -> None:
    x, clean, noise = draws(2, 3), draws(2, 3, seed=1), draws(2, 3, seed=2)
    for a, before in ((0.4, 0.7), (1e-5, 0.5), (0.98, 1.0)):
        one, other = ONE * a, ONE * before
        expected = ancestral_step(x, clean, one, other, noise)
        assert torch.allclose(dpm_step(x, clean, one, other, None, noise), expected)


def path(x: torch.Tensor, times: list[int], a: torch.Tensor, solver: str, deviation: float) -> torch.Tensor:
    """From x at the first of these times to the last, where images are normal numbers of this deviation, so that the
    best guess of x_0 is known: E[x_0 | x_t]."""
    earlier = None
    for time, then in pairwise(times):
        at, before = a[time], a[then]
        clean = at.sqrt() * deviation**2 / (at * deviation**2 + 1 - at) * x
        x = ddim_step(x, clean, at, before) if solver == "ddim" else dpm_step(x, clean, at, before, earlier)
        earlier = clean, at
    return x


def test_solvers_follow_the_equation_whose_solution_is_known() -> None:
    """Of normal images the path keeps x in units of its deviation; the second order is far nearer in as many steps."""
    a, deviation, x = kept(BETAS["linear"](1000)), 0.3, draws(5)
    start, end = 900, 100
    exact = x * ((a[end] * deviation**2 + 1 - a[end]) / (a[start] * deviation**2 + 1 - a[start])).sqrt()
    errors = {}
    for solver in ("ddim", "dpm"):
        for steps in (10, 20, 40):
            times = torch.linspace(start, end, steps + 1).round().long().tolist()
            errors[solver, steps] = float((path(x, times, a, solver, deviation) - exact).norm() / exact.norm())
    assert errors["dpm", 20] < errors["ddim", 20] / 4
    assert 1.6 < errors["ddim", 20] / errors["ddim", 40] < 2.4  # the first order halves, the second quarters
    assert 3.2 < errors["dpm", 20] / errors["dpm", 40] < 5


def test_ddim_can_be_walked_back() -> None:
    a, x = kept(BETAS["cosine"](400)), draws(6)
    times = list(range(380, 0, -1))
    there = path(x, times, a, "ddim", 0.5)
    again = path(there, times[::-1], a, "ddim", 0.5)
    assert float((again - x).norm() / x.norm()) < 0.02


def test_chosen_times() -> None:
    assert chosen_times(10, 10).tolist() == list(range(9, -1, -1))
    assert chosen_times(1000, 4).tolist() == [999, 749, 499, 249]
    assert chosen_times(250, 1).tolist() == [249]
    for steps in range(1, 251):
        times = chosen_times(250, steps)
        assert len(set(times.tolist())) == steps
        assert times[0] == 249
        assert (times >= 0).all()


@pytest.mark.parametrize("before", [1.0, 0.6, 0.0])
def test_steps_from_the_image_itself(before: float) -> None:
    """Without noise x is x_0, so the noise in it is zero; DDIM then only scales it, to any later time."""
    x = draws(2, 3)
    assert torch.equal(noise_in(x, x, ONE), torch.zeros_like(x))
    assert torch.allclose(ddim_step(x, x, ONE, ONE * before), before**0.5 * x)
    assert torch.allclose(dpm_step(x, x, ONE, ONE * before), before**0.5 * x)
    assert torch.allclose(diffuse(x, draws(2, 3, seed=1), ONE), x)


@pytest.mark.parametrize("a", [1.0, 0.5, 0.0])
def test_a_step_between_times_with_one_a_leaves_x_as_it_is(a: float) -> None:
    x, noise = draws(2, 3), draws(2, 3, seed=2)
    clean = x if a == 1 else draws(2, 3, seed=1)
    at = ONE * a
    earlier = draws(2, 3, seed=3), at / 2
    for step in (
        ancestral_step(x, clean, at, at, noise),
        ancestral_step(x, clean, at, at, noise, large=True),
        ddim_step(x, clean, at, at),
        ddim_step(x, clean, at, at, noise, eta=1.0),
        dpm_step(x, clean, at, at, earlier),
        dpm_step(x, clean, at, at, earlier, noise),
    ):
        assert torch.allclose(step, x)


@pytest.mark.parametrize("before", [1.0, 0.6])
def test_steps_from_nothing_but_noise(before: float) -> None:
    """At a = 0, x is the noise: a drawn step forgets it, the others keep it."""
    x, clean, noise, zero, then = draws(2, 3), draws(2, 3, seed=1), draws(2, 3, seed=2), ONE * 0, ONE * before
    assert torch.allclose(
        ancestral_step(x, clean, zero, then, noise), before**0.5 * clean + (1 - before) ** 0.5 * noise
    )
    for step in (ddim_step(x, clean, zero, then), dpm_step(x, clean, zero, then)):
        assert torch.allclose(step, before**0.5 * clean + (1 - before) ** 0.5 * x)
    # The step before began without any image, infinitely far away: it says nothing about how x_0 changes.
    second = dpm_step(x, clean, then / 2, then, (noise, zero))
    assert torch.allclose(second, ddim_step(x, clean, then / 2, then))


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_the_ends_are_limits(distance: float) -> None:
    x, noise = draws(2, 3), draws(2, 3, seed=1)
    near = diffuse(x, noise, ONE - distance)
    found = ddim_step(near, near, ONE - distance, ONE * 0.6)
    assert (found - ddim_step(x, x, ONE, ONE * 0.6)).abs().max() < 5 * distance**0.5


def test_times_that_a_step_cannot_go_to() -> None:
    x = draws(2, 3)
    for step in (ancestral_step, ddim_step):
        with pytest.raises(InputError, match="earlier time"):
            step(x, x, ONE * 0.6, ONE * 0.5, x, **({"eta": 1.0} if step is ddim_step else {}))
    with pytest.raises(InputError, match="above 0"):
        clean_in(x, x, ONE * 0)


def estimate(x: torch.Tensor, time: int) -> torch.Tensor:
    """An estimate of x_0 that depends on both."""
    return 0.7 * torch.tanh(x + 0.01 * time)


def chain(solver: str, large: bool = False) -> list[torch.Tensor]:
    """x after each step, by the steps of each solver in a loop."""
    a, times = kept(BETAS["cosine"](30)), chosen_times(30, 7)
    draw = torch.Generator().manual_seed(1)
    x, earlier, found = draws(2, 3, 4), None, []
    for number, time in enumerate(times.tolist()):
        now, before = a[time], a[times[number + 1]] if number < 6 else ONE
        clean = estimate(x, time)
        noise = torch.randn(2, 3, 4, dtype=torch.float64, generator=draw) if solver in ("ddpm", "dpm_sde") else None
        if solver == "ddpm":
            x = ancestral_step(x, clean, now, before, noise, large=large)
        elif solver == "ddim":
            x = ddim_step(x, clean, now, before)
        else:
            x = dpm_step(x, clean, now, before, earlier, noise)
        earlier = clean, now
        found.append(x)
    return found


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_chain_their_steps(solver: str) -> None:
    draw = torch.Generator().manual_seed(1)

    def noise() -> torch.Tensor:
        return torch.randn(2, 3, 4, dtype=torch.float64, generator=draw)

    arguments = estimate, draws(2, 3, 4), kept(BETAS["cosine"](30)), chosen_times(30, 7), noise
    found = list(SOLVERS[solver](*arguments))
    assert all(torch.equal(x, wanted) for x, wanted in zip(found, chain(solver), strict=True))
    if solver == "ddpm":
        draw.manual_seed(1)
        large = list(ancestral(*arguments, large=True))
        assert all(torch.equal(x, wanted) for x, wanted in zip(large, chain(solver, large=True), strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_end_in_what_a_perfect_estimate_says(solver: str) -> None:
    x0 = draws(2, 3, 4, seed=8)
    a, times = kept(BETAS["linear"](40)), chosen_times(40, 9)
    *_, last = SOLVERS[solver](lambda x, time: x0, draws(2, 3, 4), a, times, lambda: draws(2, 3, 4, seed=2))
    torch.testing.assert_close(last, x0, rtol=1e-9, atol=1e-9)
