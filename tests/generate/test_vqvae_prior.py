"""The prior over codes: what it learns, what it leaves as it is, what it makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax

import foveal
from foveal.structures import Batch, Label
from foveal.system import System
from tests.toys import small_digits, unlabelled

SMALL: dict[str, Any] = {"embedding": 4, "width": 8, "layers": 2, "head": 8, "first": 3}


def vqvae() -> Any:
    torch.manual_seed(1)
    system = foveal.create("vqvae_nano", codes=7, dimension=3, width=6, residual=4)
    system.codebook.sums *= 0.05  # codes among what the encoder says at first, so that several are used
    return system


def build(codes: Any = None, **fields: Any) -> Any:
    codes = codes or vqvae()
    torch.manual_seed(0)
    return foveal.create("vqvae_prior_nano", codes=codes, **(SMALL | fields))


def batch_of(system: Any, count: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, *system.preprocess.size, generator=draw)
    targets = tuple(Label(torch.tensor(i % 10)) for i in range(count))
    return Batch(images, targets, torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2))


@pytest.mark.parametrize("conditional", [False, True])
def test_the_loss_is_that_of_codes_one_by_one(conditional: bool) -> None:
    system = build(conditional=conditional)
    batch = batch_of(system)
    codes = system.codes.module.quantize(batch.images)
    assert len(codes.unique()) > 1
    total = 0.0
    for b in range(4):
        of = torch.tensor([b]) if conditional else None
        for place in range(16):
            before = codes[b : b + 1].clone()
            before.view(-1)[place:] = 0  # what is to come is not seen
            logits = system.network(before[:, None], of)[0, :, 0].flatten(1)[:, place]
            total -= float(log_softmax(logits, 0)[codes[b].view(-1)[place]])
    found = system.loss(batch)
    assert found.keys() == {"nll"}
    assert float(found["nll"].detach()) == pytest.approx(total / 64, rel=1e-5)


def test_gradients_are_right() -> None:
    """As test_contract.py has them of other systems, of larger weights, so that rounding does not hide small ones."""
    system = build(conditional=True)
    with torch.no_grad():
        for parameter in system.network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    found = [foveal.check_gradients(system, batch_of(system), step=step) for step in (1e-5, 1e-6, 1e-7)]
    errors = {parameter: min(each[parameter] for each in found) for parameter in found[0]}
    assert errors.keys() == {f"network.{name}" for name, _ in system.network.named_parameters()}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


def test_the_codes_learn_nothing(tmp_path: Path) -> None:
    codes = vqvae()
    kept = {name: value.clone() for name, value in codes.state_dict().items()}
    system = build(codes, conditional=True)
    before = {name: value.clone() for name, value in system.network.state_dict().items()}
    config = foveal.TrainConfig(out=str(tmp_path / "run"), epochs=1, quiet=True, ema=0.9)
    foveal.train(system, small_digits(), config)
    for name, value in kept.items():
        assert torch.equal(value, codes.state_dict()[name])
        assert torch.equal(value, system.codes.state_dict()[name])
    assert any(not torch.equal(value, before[name]) for name, value in system.network.state_dict().items())
    assert all(p.requires_grad for p in codes.parameters())  # who gave them may go on with them
    assert not system.train().codes.training

    loaded = foveal.load(tmp_path / "run")
    draw = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(loaded.sample(4, generator=draw[0]), system.eval().sample(4, generator=draw[1]))
    assert isinstance(loaded.spec.codes, System)


def test_a_run_of_codes_is_taken_by_its_place(tmp_path: Path) -> None:
    codes = vqvae()
    config = foveal.TrainConfig(out=str(tmp_path / "codes"), epochs=1, quiet=True)
    foveal.train(codes, unlabelled(small_digits()), config)
    system = build(str(tmp_path / "codes"))
    batch = batch_of(system)
    assert torch.equal(system.quantize(batch.images)[:, 0], codes.quantize(batch.images))
    assert system.preprocess == codes.preprocess


def test_samples_are_decoded_grids() -> None:
    system, seen = build(conditional=True), []
    made = system.sample(
        5, generator=torch.Generator().manual_seed(0), labels="3", trace=lambda done, x: seen.append((done, x))
    )
    assert [done for done, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(seen[-1][1], made)
    assert all(x.shape == made.shape == (5, 3, 8, 8) for _, x in seen)
    # Rows of codes that are still to come show as one and the same in all.
    assert torch.allclose(seen[0][1][:, :, -1], seen[0][1][:1, :, -1], atol=1e-6)
    assert not torch.allclose(made[:, :, -1], made[:1, :, -1], atol=1e-6)
    # How often each first code is drawn is how probable the network holds it.
    many = torch.rand(4000, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    from foveal.generate.autoregressive import draw

    with torch.no_grad():
        first = draw(system.network, many, torch.full((4000,), 3))[:, 0, 0, 0]
        wanted = system.network(torch.zeros(1, 1, 4, 4, dtype=torch.int64), torch.tensor([3]))[0, :, 0, 0, 0].softmax(0)
    shares = torch.bincount(first, minlength=7) / 4000
    assert (shares - wanted).abs().max() < 0.03


def test_other_sizes_are_squeezed_into_the_codes() -> None:
    system = build(image_size=16)
    assert system.quantize(torch.rand(2, 3, 16, 16)).shape == (2, 1, 4, 4)
    assert system.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, 3, 16, 16)


def test_bad_fields() -> None:
    with pytest.raises(foveal.InputError, match=r"needs a trained VQ-VAE as codes: a run or a checkpoint$"):
        foveal.create("vqvae_prior_nano")
    with pytest.raises(foveal.InputError, match="not lenet"):
        foveal.create("vqvae_prior_nano", codes=foveal.create("lenet"))
    with pytest.raises(foveal.InputError, match="neither a run or checkpoint nor a system"):
        foveal.create("vqvae_prior_nano", codes="runs/nothing")
    with pytest.raises(foveal.InputError, match="embedding must be at least 1"):
        build(embedding=0)
