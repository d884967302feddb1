"""What the contract test cannot see of VAEs: their equations, the bound, classes, figures, refused settings."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import foveal
from foveal.cost import cost
from foveal.structures import Batch, Label
from foveal.train.config import TrainConfig
from tests.toys import small_digits

DIGITS = tuple("0123456789")
NAMES = ("vae_fc_nano", "vae_nano")


def small(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"latent": 5, "hidden": 24, "width": 4}
    system = foveal.create(name, labels=DIGITS, **sizes | fields)
    with torch.no_grad():  # so that codes and classes matter
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return system


def batch(count: int = 4, side: int = 8) -> Batch:
    images = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    targets = tuple(Label(torch.tensor(n % 10)) for n in range(count))
    return Batch(images, targets, torch.arange(count), torch.zeros(count, 2, 3), torch.full((count, 2), side))


def test_published_layout_and_its_formula() -> None:
    """The example for MNIST that PyTorch gives, 784-400-20-400-784, written out from its description."""
    torch.manual_seed(0)
    system = foveal.create("vae_fc").double()
    assert cost(system).params == 652_824
    fc1, fc21, fc22 = system.encoder.body.fc, system.encoder.mean, system.encoder.log_variance
    fc3, fc4 = system.decoder.body.fc, system.decoder.output
    assert [tuple(layer.weight.shape) for layer in (fc1, fc21, fc22, fc3, fc4)] == [
        (400, 784), (20, 400), (20, 400), (400, 20), (784, 400)
    ]  # fmt: skip
    given = batch(3, 28)
    given = Batch(((given.images.double() * 255).round() / 255), *list(vars(given).values())[1:])
    x = given.images[:, 0].flatten(1)
    h = fc1(x).relu()
    q = Normal(fc21(h), (fc22(h) / 2).exp())
    torch.manual_seed(3)
    z = q.mean + q.stddev * torch.randn_like(q.mean)
    seen = Bernoulli(logits=fc4(fc3(z).relu()), validate_args=False)
    torch.manual_seed(3)
    found = system.loss(given)
    dimensions = 3 * 784
    assert found["reconstruction"].item() == pytest.approx(-seen.log_prob(x).sum().item() / dimensions, rel=1e-10)
    kl = kl_divergence(q, Normal(torch.zeros_like(z), torch.ones_like(z))).sum()
    assert found["kl"].item() == pytest.approx(kl.item() / dimensions, rel=1e-10)
    shown = system.reconstruct(given.images)[:, 2].flatten(1)
    torch.testing.assert_close(shown, fc4(fc3(q.mean).relu()).sigmoid())


@pytest.mark.parametrize("pixels", ["logistic", "normal"])
@pytest.mark.parametrize("name", NAMES)
def test_with_one_code_the_bound_is_the_elbo(name: str, pixels: str) -> None:
    """And the losses are it, with another sign and per dimension, and their kl term in closed form."""
    system = small(name, pixels=pixels, importance=1).double()
    given = Batch(batch().images.double(), (), *list(vars(batch()).values())[2:])
    mean, log_variance = system.posterior(given.images, system.rows(None, 4))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2)).double()  # drawn as float32
    q, prior = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    z = q.mean + q.stddev * noise
    fit = system.log_probability(system.decoder(z, system.rows(None, 4)), system.levels(given.images))
    elbo = fit.flatten(1).sum(1) + (prior.log_prob(z) - q.log_prob(z)).sum(1)
    found = system.log_likelihood(given, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, elbo)
    torch.manual_seed(2)
    losses = system.loss(given)
    assert losses["kl"].item() == pytest.approx(kl_divergence(q, prior).sum().item() / (4 * 64), rel=1e-10)
    beta = small(name, pixels=pixels, beta=3.0).double().loss(given)["kl"]
    assert beta.item() == pytest.approx(3 * losses["kl"].item())


@pytest.mark.parametrize("name", NAMES)
def test_more_codes_tighten_the_bound(name: str) -> None:
    """In expectation, which many draws come near to."""
    system, given = small(name, latent=3), batch(16)
    with torch.no_grad():
        # A posterior that is wrong, so that the bounds differ.
        system.encoder.log_variance.bias.fill_(1.0)
        means, errors = [], []
        for count in (1, 4, 16):
            system.spec.__dict__["importance"] = count
            draw = torch.Generator().manual_seed(count)
            bounds = torch.stack([system.log_likelihood(given, generator=draw) for _ in range(16)]).mean(1)
            means.append(bounds.mean().item())
            errors.append(bounds.std().item() / 16**0.5)
    for lower, higher, error in zip(means, means[1:], errors, strict=False):
        assert higher > lower + 2 * error


def test_the_bound_comes_near_to_the_truth() -> None:
    """One hidden number: p(x) is an integral that a fine grid of z gives."""
    system = small("vae_fc_nano", latent=1, image_size=2, importance=4000).double()
    given = Batch(batch(3, 2).images.double(), (), *list(vars(batch(3, 2)).values())[2:])
    levels = system.levels(given.images)
    with torch.no_grad():
        system.encoder.log_variance.bias.fill_(1.0)  # wide, so that no weight is far above the others
        z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
        parameters = system.decoder(z, system.rows(None, len(z)))
        fit = torch.stack([system.log_probability(parameters, one[None]).flatten(1).sum(1) for one in levels])
        truth = (fit + Normal(0.0, 1.0).log_prob(z[:, 0])).logsumexp(1) + math.log(18 / 4000)
        found = system.log_likelihood(given, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, truth, rtol=0, atol=0.02)


def test_levels_of_a_pixel_sum_to_one() -> None:
    for pixels in ("logistic", "normal", "bernoulli"):
        system = small("vae_fc_nano", pixels=pixels)
        parameters = 3 * torch.randn(1, 1 if pixels == "bernoulli" else 2, 1, 8, 8)
        levels = torch.arange(256).view(256, 1, 1, 1)
        total = system.log_probability(parameters, levels).double().exp().sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_seen_on_both_sides(name: str) -> None:
    system = small(name, conditional=True).double()
    z, images = torch.randn(1, 5, dtype=torch.float64), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    assert not torch.allclose(system.render(z, labels="3"), system.render(z, labels="4"))
    codes = [system.posterior(images, system.rows(torch.tensor([n]), 1))[0] for n in (3, 4)]
    assert not torch.allclose(*codes)
    made = system.sample(10, generator=torch.Generator().manual_seed(0))
    alone = system.noise(10, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made[6:7], system.render(alone[6:7], labels="6"))  # classes take turns


@pytest.mark.parametrize("name", NAMES)
def test_the_class_of_an_image_is_the_one_that_explains_it_best(name: str) -> None:
    system, given = small(name, conditional=True), batch(6)
    with torch.no_grad():
        bounds = []
        for index in range(10):
            rows = system.rows(torch.full((6,), index), 6)
            mean, log_variance = system.posterior(given.images, rows)
            fit = system.log_probability(system.decoder(mean, rows), system.levels(given.images)).flatten(1).sum(1)
            kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
            bounds.append(fit - kl)
        best = torch.stack(bounds).argmax(0)
    assert torch.equal(system.likeliest(given.images).argmax(1), best)
    assert len(best.unique()) > 1
    rows = system.rows(best, 6)
    torch.testing.assert_close(system.encode(given.images), system.posterior(given.images, rows)[0])


@pytest.mark.parametrize("name", NAMES)
def test_many_images_are_made_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small(name, conditional=True)
    whole = system.sample(7, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("foveal.generate.vae.CHUNK", 3)
    torch.testing.assert_close(system.sample(7, generator=torch.Generator().manual_seed(0)), whole)


def test_maps_are_those_of_the_convolutional_encoder() -> None:
    system = small("vae_nano", conditional=True)
    shapes = [tuple(x.shape[1:]) for x in system.maps(torch.rand(2, 1, 12, 8))]
    assert shapes == [(4, 12, 8), (8, 6, 4), (16, 3, 2)]
    with pytest.raises(foveal.InputError, match="vae_fc_nano cannot serve as a backbone"):
        small("vae_fc_nano").maps(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("vae_nano", {"image_size": 10}, "a VAE halves its maps 2 times: .* multiple of 4, not 10 x 10"),
        ("vae_nano", {"latent": 0}, "latent must be at least 1, not 0"),
        ("vae_nano", {"importance": 0}, "importance must be at least 1"),
        ("vae_nano", {"beta": -1.0}, "beta must be at least 0"),
        ("vae_nano", {"beta": float("nan")}, "beta must be at least 0"),
        ("vae_nano", {"pixels": "normals"}, "did you mean normal"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(foveal.InputError, match=said):
        foveal.create(name, **fields)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(foveal.InputError, match=r"images of \(12, 8\) pixels, not of \(8, 8\)"):
        small("vae_nano")(torch.rand(1, 3, 12, 8))
    with pytest.raises(foveal.InputError, match=r"points of the latent space are \(B, 5\), not \(1, 4\)"):
        small("vae_nano").render(torch.zeros(1, 4))
    with pytest.raises(foveal.InputError, match="cannot be asked for a class"):
        small("vae_nano").sample(1, labels="3")


def test_even_images_are_no_trouble() -> None:
    """Where nothing varies, scales stop at their bound and losses stay finite."""
    system = small("vae_fc_nano")
    given = Batch(torch.zeros(8, 3, 8, 8), (), torch.arange(8), torch.zeros(8, 2, 3), torch.full((8, 2), 8))
    optimizer = torch.optim.Adam(system.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        total = sum(system.loss(given).values())
        total.backward()
        optimizer.step()
    assert 0 <= total.item() < 0.01
    assert system.sample(4).max() < 0.05


def test_it_learns(tmp_path: Any) -> None:
    data = small_digits()
    torch.manual_seed(0)
    system = foveal.create("vae_fc_nano", labels=DIGITS, hidden=64, conditional=True)
    before = foveal.evaluate(system, data.select("test"))["bits_per_dim"]
    run = foveal.train(
        system, data, TrainConfig(out=str(tmp_path / "run"), epochs=15, batch_size=8, quiet=True, report=False)
    )
    after = foveal.evaluate(run.system, data.select("test"))["bits_per_dim"]
    assert before > 4.5
    assert after < 4


def test_linear_layers_stand_beside_each_other() -> None:
    """The decoder's one matrix holds two layers: the mean of a pixel does not depend on the rows of its scale."""
    system = small("vae_fc_nano")
    output: nn.Linear = system.decoder.output
    z: Tensor = torch.randn(3, 5)
    h = system.decoder.body(z)
    parameters = system.decoder(z, system.rows(None, 3))
    torch.testing.assert_close(parameters[:, 0].flatten(1), h @ output.weight[:64].T + output.bias[:64])
    torch.testing.assert_close(parameters[:, 1].flatten(1), h @ output.weight[64:].T + output.bias[64:])
