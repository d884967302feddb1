"""The steps of diffusion against the schedulers of diffusers, with given noise and the same answers of a network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foveal.ops.diffusion import (
    BETAS,
    ancestral_step,
    chosen_times,
    clean_in,
    ddim_step,
    diffuse,
    dpm_step,
    kept,
)
from foveal.ops.positions import time_code

from .compare import by, oracle, relative_error

TIMES = 60
NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
ONE = torch.ones((), dtype=torch.float64)
SHAPE = (2, 3, 4, 4)


def answer(x: torch.Tensor, time: int) -> torch.Tensor:
    """What stands for a network: noise that depends on both."""
    return 0.7 * torch.tanh(x + 0.01 * time) + 0.2 * x.flip(3)


def scheduler(kind: str, schedule: str, **settings):
    """diffusers' scheduler with our a_t in float64, where it has float32."""
    made = getattr(oracle("diffusers"), kind)(
        num_train_timesteps=TIMES, trained_betas=BETAS[schedule](TIMES).numpy(), **settings
    )
    made.alphas_cumprod = kept(BETAS[schedule](TIMES))
    made.final_alpha_cumprod = made.one = ONE
    return made


@pytest.fixture
def told(record_property):
    """Asserts that the largest of some errors is small enough, and records it for the table of parity."""

    def tell(what, kind, errors, tolerance):
        assert max(errors) < tolerance, errors
        record_property("step", (what, by("diffusers", kind), max(errors)))

    return tell


def noises(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, dtype=torch.float64, generator=draw) for _ in range(count)]


@pytest.mark.parametrize("schedule", BETAS)
def test_schedules(schedule, told):
    theirs = oracle("diffusers").DDPMScheduler(beta_schedule=NAMES[schedule])
    betas = BETAS[schedule](1000)
    pairs = (betas, theirs.betas), (kept(betas), theirs.alphas_cumprod)
    told("schedule, in float32", "DDPMScheduler", [relative_error(x.float(), y) for x, y in pairs], 1e-5)


@pytest.mark.parametrize("schedule", BETAS)
def test_noise_is_added_alike(schedule, told):
    x0, noise = noises(2)
    times = torch.tensor([3, 59])
    expected = scheduler("DDPMScheduler", schedule).add_noise(x0, noise, times)
    error = relative_error(diffuse(x0, noise, kept(BETAS[schedule](TIMES))[times]), expected)
    told("noise added", "DDPMScheduler", [error], 1e-13)


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("steps", [TIMES, 10])
def test_drawn_steps(schedule, large, steps, monkeypatch, told):
    theirs = scheduler(
        "DDPMScheduler", schedule, variance_type="fixed_large" if large else "fixed_small", timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    times, a = chosen_times(TIMES, steps), kept(BETAS[schedule](TIMES))
    assert theirs.timesteps.tolist() == times.tolist()
    given, errors = noises(steps + 1), []
    ours, expected = given[0], given[0]
    for number, time in enumerate(times.tolist()):
        # Where the last of fewer steps is not at time 0, diffusers adds noise to it; we never do.
        noise = given[number + 1] if number + 1 < steps else torch.zeros(SHAPE)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, noise=noise, **__: noise)
        expected = theirs.step(answer(expected, time), time, expected).prev_sample
        before = a[times[number + 1]] if number + 1 < steps else ONE
        clean = clean_in(ours, answer(ours, time), a[time]).clamp(-1, 1)
        ours = ancestral_step(ours, clean, a[time], before, given[number + 1], large=large)
        errors.append(relative_error(ours, expected))
    told("chain of DDPM", "DDPMScheduler", errors, 1e-9)


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clipped", [False, True])
def test_ddim_steps(schedule, eta, clipped, told):
    theirs = scheduler("DDIMScheduler", schedule, clip_sample=clipped, timestep_spacing="trailing")
    theirs.set_timesteps(12)
    times, a = chosen_times(TIMES, 12), kept(BETAS[schedule](TIMES))
    assert theirs.timesteps.tolist() == times.tolist()
    given, errors = noises(13), []
    ours, expected = given[0], given[0]
    for number, time in enumerate(times.tolist()):
        noise = given[number + 1]
        # What is within the range of pixels tells another noise, and diffusers takes that only where it is told to.
        expected = theirs.step(
            answer(expected, time), time, expected, eta, use_clipped_model_output=True, variance_noise=noise
        ).prev_sample
        before = a[times[number + 1]] if number + 1 < 12 else ONE
        clean = clean_in(ours, answer(ours, time), a[time])
        clean = clean.clamp(-1, 1) if clipped else clean
        ours = ddim_step(ours, clean, a[time], before, noise if eta else None, eta=eta)
        errors.append(relative_error(ours, expected))
    told("chain of DDIM", "DDIMScheduler", errors, 1e-9)


def dpm(schedule, drawn, **settings):
    kind = "sde-dpmsolver++" if drawn else "dpmsolver++"
    theirs = scheduler(
        "DPMSolverMultistepScheduler", schedule, timestep_spacing="trailing", algorithm_type=kind, **settings
    )
    theirs.set_timesteps(12)
    return theirs


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_dpm_chain(schedule, clipped, drawn, told):
    """In float32, to which diffusers brings every step of this one."""
    theirs = dpm(schedule, drawn, thresholding=clipped, sample_max_value=1.0)
    times, a = chosen_times(TIMES, 12), kept(BETAS[schedule](TIMES))
    assert theirs.timesteps.tolist() == times.tolist()
    given = [noise.float() for noise in noises(13)]
    ours = expected = given[0]
    earlier, errors = None, []
    for number, time in enumerate(times.tolist()):
        noise = given[number + 1] if drawn else None
        expected = theirs.step(answer(expected, time), time, expected, variance_noise=noise).prev_sample
        before = a[times[number + 1]] if number + 1 < 12 else ONE
        clean = clean_in(ours, answer(ours, time), a[time])
        clean = clean.clamp(-1, 1) if clipped else clean
        ours = dpm_step(ours, clean, a[time], before, earlier, noise)
        earlier = clean, a[time]
        errors.append(relative_error(ours, expected))
    told("chain of DPM-Solver++, in float32", "DPMSolverMultistepScheduler", errors, 2e-4)


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("drawn", [False, True])
def test_dpm_updates(schedule, drawn, told):
    """In float64: its two formulas, each for itself."""
    theirs = dpm(schedule, drawn)
    times, a = chosen_times(TIMES, 12), kept(BETAS[schedule](TIMES))
    theirs.sigmas = torch.tensor(np.append((((1 - a) / a) ** 0.5)[times].numpy(), 0.0))
    x, clean, previous, noise = noises(4)
    noise, errors = noise if drawn else None, []
    for number in range(1, 11):
        theirs._step_index = number
        at, before, past = a[times[number]], a[times[number + 1]], a[times[number - 1]]
        first = theirs.dpm_solver_first_order_update(clean, sample=x, noise=noise)
        second = theirs.multistep_dpm_solver_second_order_update([previous, clean], sample=x, noise=noise)
        errors.append(relative_error(dpm_step(x, clean, at, before, None, noise), first))
        errors.append(relative_error(dpm_step(x, clean, at, before, (previous, past), noise), second))
        assert relative_error(first, second) > 1e-3
    told("step of DPM-Solver++", "DPMSolverMultistepScheduler", errors, 1e-10)


@pytest.mark.parametrize("case", [SimpleNamespace(flip=False, shift=1), SimpleNamespace(flip=True, shift=0)])
def test_codes_of_times_are_bitwise_theirs(case):
    embedding = oracle("diffusers.models.embeddings").get_timestep_embedding
    times = torch.arange(0, 1000, 7)
    expected = embedding(times, 32, flip_sin_to_cos=case.flip, downscale_freq_shift=case.shift)
    ours = time_code(times.float(), 32, shift=case.shift)
    assert torch.equal(ours.roll(16, -1) if case.flip else ours, expected)
