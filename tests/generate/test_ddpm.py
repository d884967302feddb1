"""Diffusion: its bound and its guidance by the equations, its traps, that it learns, and that kills lose nothing."""

import math
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import foveal
from foveal.catalog import variant
from foveal.generate import diffusion
from foveal.generate.condition import ClassCondition
from foveal.generate.ddpm import DDPM
from foveal.ops.diffusion import SOLVERS, diffuse
from foveal.structures import Batch, Label
from tests.toys import small_digits
from tests.train.test_kill import compare

SMALL: dict[str, Any] = {"width": 8, "groups": 2, "blocks": 1, "attention": (), "timesteps": 6}


def build(conditional: bool = True, **fields: Any) -> DDPM:
    """A small one whose ends are not zero, so that time, class and image all have a say."""
    torch.manual_seed(0)
    system = foveal.create("ddpm_nano", labels=("a", "b", "c"), conditional=conditional, **(SMALL | fields))
    for parameter in system.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return system


def batch_of(count: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=draw).expand(-1, 3, -1, -1) / 255
    targets = tuple(Label(torch.tensor(i % 3)) for i in range(count))
    return Batch(images, targets, torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_bound_is_the_equation(size: str, conditional: bool) -> None:
    """Pixel by pixel, of torch's own normal distributions."""
    system = build(conditional, variance=size).double()
    batch = replace(batch_of(3), images=batch_of(3).images.double())
    x0 = 2 * batch.images[:, :1] - 1
    levels = (255 * batch.images[:, :1]).round()
    classes = torch.tensor([0, 1, 2]) if conditional else None
    draw, bars = seeded(3), [1.0, *system.a.tolist()]  # what is left of the variance after 0, 1 ... T steps
    one = torch.ones((), dtype=torch.float64)
    total = -kl_divergence(Normal(bars[-1] ** 0.5 * x0, (1 - bars[-1]) ** 0.5 * one), Normal(0 * one, one))
    for t in range(6, 0, -1):
        beta, now, then = 1 - bars[t] / bars[t - 1], bars[t], bars[t - 1]
        x = now**0.5 * x0 + (1 - now) ** 0.5 * torch.randn(3, 1, 8, 8, generator=draw).double()
        with torch.no_grad():
            noise = system.network(x, torch.full((3,), t - 1), classes)
        guess = ((x - (1 - now) ** 0.5 * noise) / now**0.5).clamp(-1, 1)

        def mean(clean, x=x, beta=beta, now=now, then=then):
            return then**0.5 * beta / (1 - now) * clean + (1 - beta) ** 0.5 * (1 - then) / (1 - now) * x

        variance = (1 - then) / (1 - now) * beta
        if t > 1:
            own = beta if size == "large" else variance
            total -= kl_divergence(Normal(mean(x0), variance**0.5 * one), Normal(mean(guess), own**0.5 * one))
        else:
            second = (1 - bars[1]) / (1 - bars[2]) * (1 - bars[2] / bars[1])
            pixel = Normal(127.5 * (mean(guess) + 1), 127.5 * second**0.5 * one)
            above = torch.where(levels == 255, 1.0, pixel.cdf(levels + 0.5))
            below = torch.where(levels == 0, 0.0, pixel.cdf(levels - 0.5))
            total += (above - below).clamp(min=1e-300).log()
    found = system.log_likelihood(batch, generator=seeded(3))
    # Where the mass is below what a difference of two shares can tell, ours goes on.
    told = (above - below > 1e-9).all((1, 2, 3))
    assert told.any()
    torch.testing.assert_close(found[told], total.sum((1, 2, 3))[told], rtol=1e-9, atol=0)


def test_the_bound_does_not_depend_on_what_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = build(), batch_of()
    whole = system.log_likelihood(batch, generator=seeded())
    assert whole.shape == (4,)
    assert torch.equal(whole, system.log_likelihood(batch, generator=seeded()))
    assert not torch.equal(whole, system.log_likelihood(batch, generator=seeded(1)))
    monkeypatch.setattr(diffusion, "PIXELS", 100)
    torch.testing.assert_close(system.log_likelihood(batch, generator=seeded()), whole)


class Watched(torch.nn.Module):
    """Stands for a network: keeps what it is asked, and answers by class and time alone."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        self.classes = ClassCondition(3, 4)

    def forward(self, x: torch.Tensor, time: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        self.asked.append((x, time, classes))
        said = time if classes is None else 0.1 * classes
        return 0 * x + said.to(x)[:, None, None, None]


def test_loss_is_of_the_noise_at_times_that_are_spread() -> None:
    system = build(timesteps=40, drop_class=0.0)
    system.network = Watched()
    torch.manual_seed(1)
    loss = system.loss(batch_of(20))["noise"]
    x, time, classes = system.network.asked[0]
    assert sorted((time // 2).tolist()) == list(range(20))  # one in each twentieth
    assert classes.tolist() == [i % 3 for i in range(20)]
    x0 = 2 * batch_of(20).images[:, :1] - 1
    noise = (x - system.a[time].sqrt().view(-1, 1, 1, 1) * x0) / (1 - system.a[time]).sqrt().view(-1, 1, 1, 1)
    expected = (noise - 0.1 * classes.view(-1, 1, 1, 1)).square().mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(diffuse(x0, noise.float(), system.a[time]), x)
    seen = set()
    for _ in range(60):
        system.loss(batch_of(1))
        seen.add(int(system.network.asked[-1][1]))
    assert len(seen) > 25
    assert max(seen) < 40


def test_classes_are_dropped_as_often_as_asked() -> None:
    system = build(drop_class=0.3)
    system.network = Watched()
    torch.manual_seed(2)
    system.loss(batch_of(3000))
    classes = system.network.asked[0][2]
    dropped = classes == 3
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert (classes == torch.arange(3000) % 3)[~dropped].all()


def test_guidance_is_the_equation() -> None:
    system = build()
    x = torch.randn(2, 1, 8, 8, generator=seeded(4))
    which, none = torch.tensor([0, 2]), torch.tensor([3, 3])
    times = torch.tensor([5, 5])
    with torch.no_grad():
        told, untold = (system.network(x, times, classes) for classes in (which, none))
    a = float(system.a[5])
    for g in (0.0, 1.0, 3.0):
        noise = untold + g * (told - untold)
        expected = ((x - (1 - a) ** 0.5 * noise) / a**0.5).clamp(-1, 1)
        with torch.no_grad():
            torch.testing.assert_close(system.denoise(x, 5, which, g), expected, rtol=1e-4, atol=1e-4)
    made = {g: system.sample(4, generator=seeded(), labels="b", guidance=g) for g in (None, 1.0, 3.0)}
    torch.testing.assert_close(made[None], made[1.0])
    assert not torch.allclose(made[None], made[3.0], atol=0.01)


def test_forward_is_the_network_without_class_at_a_time() -> None:
    system, images = build(), batch_of().images
    for time_ in (0, 4):
        expected = system.network(2 * images[:, :1] - 1, torch.full((4,), time_), torch.full((4,), 3))
        torch.testing.assert_close(system(images, time_), expected)
    assert not torch.allclose(system(images), system(images, 4), rtol=0.1)


# Means of three samples of `build` by the code in which the solvers were a method of DDPM: with and without classes, by
# all six steps and by four, the latter with guidance 2 where there are classes.
EARLIER = {
    (False, "ddpm", None): (0.610369, 0.519695, 0.590486),
    (False, "ddpm", 4): (0.603521, 0.514239, 0.623508),
    (False, "ddim", None): (0.584213, 0.52301, 0.524423),
    (False, "ddim", 4): (0.582149, 0.521603, 0.521967),
    (False, "dpm", None): (0.585013, 0.524428, 0.52573),
    (False, "dpm", 4): (0.582364, 0.522083, 0.522383),
    (False, "dpm_sde", None): (0.593941, 0.514541, 0.579375),
    (False, "dpm_sde", 4): (0.611473, 0.511471, 0.622683),
    (True, "ddpm", None): (0.494976, 0.432001, 0.565121),
    (True, "ddpm", 4): (0.458746, 0.39445, 0.597475),
    (True, "ddim", None): (0.512672, 0.508445, 0.485926),
    (True, "ddim", 4): (0.443312, 0.465028, 0.484313),
    (True, "dpm", None): (0.512738, 0.50789, 0.486435),
    (True, "dpm", 4): (0.443679, 0.465321, 0.485691),
    (True, "dpm_sde", None): (0.48546, 0.436691, 0.541379),
    (True, "dpm_sde", 4): (0.4724, 0.399442, 0.60175),
}


@pytest.mark.parametrize("conditional", [False, True])
def test_weights_and_samples_of_a_seed_are_those_of_earlier_versions(conditional: bool) -> None:
    system = build(conditional)
    for (classes, solver, steps), means in EARLIER.items():
        if classes == conditional:
            guidance = 2.0 if classes and steps else None
            made = system.sample(3, generator=seeded(), solver=solver, steps=steps, guidance=guidance)  # type: ignore[arg-type]
            assert made.flatten(1).mean(1).tolist() == pytest.approx(means, abs=2e-5), (solver, steps)


def test_solvers_have_names() -> None:
    assert get_args(diffusion.Solver) == tuple(SOLVERS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_are_the_seeds(solver: Any) -> None:
    system = build(dropout=0.5)
    settings: dict[str, Any] = {"steps": 4, "solver": solver}
    seen: list[tuple[float, torch.Tensor]] = []
    made = system.sample(3, generator=seeded(), trace=lambda done, images: seen.append((done, images)), **settings)
    assert [done for done, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert all(images.shape == (3, 3, 8, 8) and 0 <= images.min() <= images.max() <= 1 for _, images in seen)
    assert torch.equal(seen[-1][1], made)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert torch.equal(system.train().sample(3, generator=seeded(), **settings), made)
    assert system.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(system.sample(3, generator=seeded(1), **settings), made)


def test_what_is_not_drawn_is_a_function_of_the_first_noise() -> None:
    """More steps of the two equations come to one image, which drawn steps do not."""
    system = build(timesteps=200)
    made = {
        (solver, steps): system.sample(2, generator=seeded(), solver=solver, steps=steps)
        for solver, steps in (("ddim", 200), ("ddim", 100), ("dpm", 100), ("ddpm", 200))
    }

    def difference(one: Any, other: Any) -> float:
        return float((made[one] - made[other]).abs().mean())

    assert difference(("ddim", 200), ("dpm", 100)) < 0.02
    assert difference(("ddim", 200), ("ddim", 100)) < 0.02
    assert difference(("ddim", 200), ("ddpm", 200)) > 0.05


def test_the_solver_is_chosen_by_the_steps() -> None:
    system = build()
    for steps, solver in ((None, "ddpm"), (6, "ddpm"), (3, "dpm_sde")):
        chosen = system.sample(2, generator=seeded(), steps=steps)
        assert torch.equal(chosen, system.sample(2, generator=seeded(), steps=steps, solver=solver))


def test_bad_input() -> None:
    system = build()
    for arguments, text in [
        ({"steps": 7}, "steps must be 1 to 6, the times that this system knows, not 7"),
        ({"steps": 0}, "steps must be 1 to 6"),
        ({"solver": "dpmm"}, "no solver 'dpmm'; did you mean dpm"),
        ({"labels": "d"}, "unknown class 'd'"),
        ({"guidance": math.nan}, "guidance must be a finite number, not nan"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            system.sample(2, **arguments)
    for other in (build(conditional=False), build(drop_class=0.0)):
        with pytest.raises(foveal.InputError, match="cannot be guided: it was not trained with conditional"):
            other.sample(2, guidance=2.0)
    for fields, text in [
        ({"timesteps": 1}, "timesteps must be at least 2"),
        ({"image_size": 9}, "multiples of 2, which 2 levels halve 1 times, not 9 x 9"),
        ({"drop_class": 1.0}, "drop_class must be at least 0 and below 1"),
        ({"attention": (3,)}, "attention names level 3, and there are 2"),
        ({"groups": 3}, "multiple of groups"),
        ({"head_width": 3}, "head_width 3 does not divide"),
        ({"multiples": ()}, "must be at least 1"),
        ({"width": 0}, "must be at least 1"),
        ({"convention": "papr"}, "convention"),
        ({"noise_schedule": "cosin"}, "did you mean cosine"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            build(**fields)


def test_ends_begin_as_zero_whatever_the_init() -> None:
    for init in (None, "kaiming"):
        system = foveal.create("ddpm_nano", init=init)
        assert system(batch_of().images).abs().max() == 0


def test_it_learns(tmp_path: Path) -> None:
    """Dark images of one class, bright ones of another, with stripes in both."""
    torch.manual_seed(0)
    system = foveal.create(
        "ddpm_nano", labels=("dark", "bright"), conditional=True, **(SMALL | {"timesteps": 40, "width": 16})
    )
    stripes = (torch.arange(8) % 2).float().expand(3, 8, 8)
    images = torch.stack([0.1 + 0.2 * stripes, 0.6 + 0.2 * stripes]).repeat(16, 1, 1, 1)
    targets = tuple(Label(torch.tensor(i % 2)) for i in range(32))
    batch = Batch(images, targets, torch.arange(32), torch.zeros(32, 2, 3), torch.zeros(32, 2))
    optimizer = torch.optim.Adam(system.parameters(), 0.01)
    before = float(-system.log_likelihood(batch, generator=seeded()).mean()) / 64 / math.log(2)
    for _ in range(300):
        optimizer.zero_grad()
        system.loss(batch)["noise"].backward()
        optimizer.step()
    after = float(-system.log_likelihood(batch, generator=seeded()).mean()) / 64 / math.log(2)
    assert after < before - 1
    for steps in (40, 8):
        made = system.sample(16, generator=seeded(), steps=steps)
        assert float((made - images[:16]).abs().mean()) < 0.08
    # A checkpoint brings back the same samples.
    from foveal.train import checkpoint

    path = tmp_path / "system.safetensors"
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    assert torch.equal(foveal.load(path).sample(2, generator=seeded()), system.sample(2, generator=seeded()))


def learn(directory: Path, die_at: int | None = None) -> None:
    """Begin or resume a run; `die_at`: be killed when the loss is asked for as often."""
    torch.manual_seed(0)
    system = foveal.create("ddpm_nano", labels=small_digits().labels, conditional=True, dropout=0.1, **SMALL)
    if die_at is not None:
        original, calls = system.loss, [0]

        def loss(batch: Batch, player: str | None = None) -> dict[str, torch.Tensor]:
            calls[0] += 1
            if calls[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(batch, player)

        system.loss = loss  # type: ignore[method-assign]
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 16, "ema": 0.9, "save_minutes": 0.0005, "warmup": 0.0}
    config = foveal.TrainConfig(
        out=str(directory), resume=(directory / "run.json").is_file(), quiet=True, report=False, **settings
    )
    foveal.train(system, small_digits(), config)


def test_a_killed_run_ends_bitwise_equal_running_mean_and_all(tmp_path: Path) -> None:
    learn(tmp_path / "whole")
    for die_at in (7, 16, 26):  # in the preview, in an epoch, and where one is measured
        process = multiprocessing.get_context("fork").Process(target=learn, args=(tmp_path / "killed", die_at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    learn(tmp_path / "killed")
    compare(tmp_path / "whole", tmp_path / "killed")


def test_the_variants_are_the_papers() -> None:
    published = variant("ddpm_cifar10")
    assert (published.timesteps, published.noise_schedule, published.variance) == (1000, "linear", "large")
    assert published.preprocess.size == (32, 32)
    assert (published.recipe["lr"], published.recipe["ema"], published.dropout) == (2e-4, 0.9999, 0.1)
