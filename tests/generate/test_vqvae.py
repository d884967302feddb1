"""VQ-VAE against loops written from its equations."""

from typing import Any

import numpy as np
import pytest
import torch

import foveal
from foveal.generate.vqvae import RunningCodebook
from foveal.structures import Batch
from foveal.system import evaluating
from tests.toys import small_digits, unlabelled

SMALL: dict[str, Any] = {"codes": 7, "dimension": 3, "width": 6, "residual": 4}
GRADIENT: dict[str, Any] = {"code_decay": None, "revive": 0.0}


def build(**fields: Any) -> Any:
    torch.manual_seed(0)
    system = foveal.create("vqvae_nano", **(SMALL | fields))
    if system.spec.code_decay:  # codes among what the encoder says at first, so that several are used
        system.codebook.sums *= 0.05
    return system


def images_of(system: Any, count: int = 4) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *system.preprocess.size, generator=draw, dtype=system.pixel_mean.dtype)


def batch_of(system: Any, count: int = 4) -> Batch:
    return Batch(images_of(system, count), (), torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


def brute_codes(z: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(B, D, h, w), (K, D) -> (B, h, w): the nearest vector to each place, one after another."""
    count, _, height, width = z.shape
    codes = np.zeros((count, height, width), np.int64)
    for b in range(count):
        for y in range(height):
            for x in range(width):
                codes[b, y, x] = min(range(len(vectors)), key=lambda k: ((z[b, :, y, x] - vectors[k]) ** 2).sum())
    return codes


def test_the_published_size() -> None:
    with torch.device("meta"):
        system = foveal.create("vqvae")
    assert system.spec.grid == (32, 32)

    def conv(a: int, b: int, side: int) -> int:
        return a * b * side**2 + b

    blocks = 2 * (conv(256, 256, 3) + conv(256, 256, 1))
    encoder = conv(3, 256, 4) + conv(256, 256, 4) + blocks + conv(256, 64, 1)
    decoder = conv(64, 256, 3) + blocks + conv(256, 256, 4) + conv(256, 3, 4)
    assert sum(p.numel() for p in system.parameters()) == encoder + decoder + 512 * 64


@pytest.mark.parametrize("fields", [GRADIENT, {"code_decay": 0.9, "revive": 0.1}])
def test_the_loss_by_a_loop(fields: dict[str, Any]) -> None:
    system = build(**fields).double()
    batch = batch_of(system)
    with torch.no_grad():
        x = system.normalize(batch.images)
        z, vectors = system.encoder(x).numpy(), system.codebook.vectors.numpy()
    codes = brute_codes(z, vectors)
    assert len(np.unique(codes)) > 1
    assert np.array_equal(codes, system.quantize(batch.images).numpy())
    e = np.moveaxis(vectors[codes], -1, 1)
    with torch.no_grad():
        remembered = system.decoder(torch.tensor(e))
    torch.testing.assert_close(system(batch.images), remembered)
    distance = ((z - e) ** 2).sum() / z.size
    expected = {"reconstruction": float(((remembered - x) ** 2).sum()) / x.numel()}
    if fields is GRADIENT:
        expected["codebook"] = distance
    expected["commitment"] = 0.25 * distance
    found = {name: float(value) for name, value in system.loss(batch).items()}
    assert found == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(system.reconstruct(batch.images), system.decode_codes(torch.tensor(codes)))


def test_gradients_go_straight_through() -> None:
    """What the encoder gets is the gradient at the codes, as if they were its own outputs, and that of commitment."""
    system = build(**GRADIENT).double()
    batch = batch_of(system)
    x = system.normalize(batch.images)
    z = system.encoder(x)
    e = system.codebook.look_up(system.codebook.nearest(z)).detach().requires_grad_()
    at_codes = torch.autograd.grad((system.decoder(e) - x).square().mean(), e)[0]
    expected = at_codes + 0.25 * 2 * (z - e).detach() / z.numel()
    parameters = list(system.encoder.parameters())
    wanted = torch.autograd.grad(z, parameters, expected)
    sum(system.loss(batch).values()).backward()
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    # A code goes to the mean of what it stands for: half the slope of the second term, per number.
    codes, vectors = system.codebook.nearest(z), system.codebook.weight
    for k in range(7):
        there = z.detach().movedim(1, -1)[codes == k]
        slope = 2 * (len(there) * vectors[k].detach() - there.sum(0)) / z.numel()
        torch.testing.assert_close(vectors.grad[k], slope)


def test_running_means_by_a_loop() -> None:
    system = build(code_decay=0.9, revive=0.0).double().train()
    counts, sums = [1.0] * 7, system.codebook.sums.tolist()
    for step in range(3):
        batch = batch_of(system, 4 + step)
        total = sum(counts)
        smoothed = [(n + 1e-5) / (total + 7e-5) * total for n in counts]
        vectors = np.array(sums) / np.array(smoothed)[:, None]
        with torch.no_grad():
            z = system.encoder(system.normalize(batch.images)).numpy()
        codes = brute_codes(z, vectors)
        rows, which = np.moveaxis(z, 1, -1).reshape(-1, 3), codes.flatten()
        for k in range(7):
            stood_for = rows[which == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(stood_for)
            for d in range(3):
                sums[k][d] = 0.9 * sums[k][d] + 0.1 * sum(row[d] for row in stood_for)
        system.loss(batch)
        assert system.codebook.counts.tolist() == pytest.approx(counts, rel=1e-12)
        np.testing.assert_allclose(system.codebook.sums.numpy(), sums, rtol=1e-10, atol=1e-12)
        assert len(np.unique(codes)) > 1
    assert {"codebook.counts", "codebook.sums"} <= system.state_dict().keys()


def test_measuring_moves_no_code() -> None:
    system = build(code_decay=0.9, revive=0.1)
    before = system.codebook.sums.clone()
    learning = system.train().loss(batch_of(system))
    assert not torch.equal(system.codebook.sums, before)
    system.codebook.sums.copy_(before)
    system.codebook.counts.fill_(1)
    with evaluating(system):
        measured = system.loss(batch_of(system))
    assert torch.equal(system.codebook.sums, before)
    assert {n: float(v) for n, v in learning.items()} == {n: float(v) for n, v in measured.items()}


def test_dead_codes_begin_anew() -> None:
    codebook = RunningCodebook(4, 2, decay=0.5, revive=0.25)
    codebook.sums.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [90.0, 90.0], [-90.0, 90.0]]))
    z = torch.tensor([[0.1, 0.0], [0.0, 0.2], [1.1, 1.0], [0.9, 1.2]]).T[None, :, :, None]  # (1, 2, 4, 1)
    z = z.expand(4, -1, -1, -1)  # 16 vectors, so 4 each would be even use
    for _ in range(2):  # the counts of the idle halve: 0.5, then 1/4
        codebook.take(z, codebook.nearest(z))
    rows = z.movedim(1, -1).reshape(-1, 2)
    for k in (2, 3):
        assert torch.cdist(codebook.vectors[k : k + 1], rows).min() < 1e-3
    assert codebook.counts.tolist()[2:] == [4, 4]
    for k in (0, 1):  # those in use are where their means are
        assert torch.cdist(codebook.vectors[k : k + 1], rows).min() < 0.3


def test_perplexity_is_of_all_images_together(tmp_path: Any) -> None:
    system, data = build(), unlabelled(small_digits())
    figures = foveal.evaluate(system, data, batch_size=7)
    test = data.select("test")
    images = torch.stack([system.preprocess.apply(test.image(i)) for i in range(len(test))]).float() / 255
    shares = np.bincount(system.quantize(images).flatten().numpy(), minlength=7) / (len(test) * 16)
    used = shares[shares > 0]
    assert len(used) > 1
    assert figures["perplexity"] == pytest.approx(float(np.exp(-(used * np.log(used)).sum())), rel=1e-5)
    run = foveal.train(system, data, foveal.TrainConfig(out=str(tmp_path / "run"), epochs=1, quiet=True))
    assert 1 <= run.history[-1]["val"]["perplexity"] <= 7


def test_it_remembers_and_is_remembered(tmp_path: Any) -> None:
    data = unlabelled(small_digits())
    torch.manual_seed(0)
    system = foveal.create("vqvae_nano")
    images = torch.stack([system.preprocess.apply(data.image(i)) for i in range(40)]).float() / 255
    config = foveal.TrainConfig(out=str(tmp_path / "run"), epochs=30, quiet=True)
    before = (system.reconstruct(images) - images).square().mean()
    foveal.train(system, data, config)
    after = (system.reconstruct(images) - images).square().mean()
    assert after < 0.03 < before
    loaded = foveal.load(tmp_path / "run")
    assert torch.equal(loaded.reconstruct(images), system.reconstruct(images))


def test_bad_fields() -> None:
    for fields, text in [
        ({"codes": 0}, "at least 1"),
        ({"commitment": -1.0}, "commitment"),
        ({"code_decay": 1.0}, "code_decay must be between 0 and 1"),
        ({"code_decay": None}, "revive has no effect"),
        ({"revive": 1.0}, "revive must be at least 0"),
        ({"image_size": 9}, "multiples of 2 pixels"),
        ({"conditional": True}, "no setting 'conditional'"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            foveal.create("vqvae_nano", **fields)
    with pytest.raises(foveal.InputError, match="no multiples of 2"):
        build()(torch.rand(1, 3, 8, 9))
    with pytest.raises(foveal.InputError, match="cannot make images"):
        build().sample(2)
