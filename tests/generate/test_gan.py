"""GANs: their players, their objectives, their samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.generate.gan import GAN
from foveal.losses.adversarial import OBJECTIVES
from foveal.structures import Batch, Label
from foveal.train import checkpoint
from tests.toys import small_digits, unlabelled

NAMES = ("gan_nano", "dcgan_nano")
SMALL: dict[str, dict[str, Any]] = {
    "gan_nano": {"hidden": (12, 10), "latent": 3},
    "dcgan_nano": {"width": 4, "latent": 3},
}


def build(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return foveal.create(name, **(SMALL[name] | fields))


def batch_for(system: Any, count: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(1)
    batch = system.preprocess.batch(list(torch.rand(count, 3, *system.preprocess.size, generator=draw)))
    targets = tuple(Label(torch.tensor(i % 10)) for i in range(count))
    return Batch(batch.images, targets, batch.indices, batch.affines, batch.sizes)


def numbers(system: nn.Module) -> list[int]:
    return [sum(p.numel() for p in player.parameters()) for player in (system.generator, system.discriminator)]  # type: ignore[union-attr]


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert numbers(foveal.create("dcgan")) == [3_576_704, 2_765_568]
        gan = foveal.create("gan")
    assert gan.shape == (1, 28, 28)
    made = 100 * 256 + 256 + 256 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 784 + 784
    judged = 784 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert numbers(gan) == [made, judged]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("conditional", [False, True])
def test_losses_are_those_of_the_objective(name: str, conditional: bool) -> None:
    for objective, penalty in (("minimax", "none"), ("nonsaturating", "r1"), ("wasserstein", "gradient")):
        system = build(name, conditional=conditional, objective=objective, penalty=penalty)
        batch = batch_for(system)
        classes = torch.arange(6) if conditional else None
        torch.manual_seed(5)
        found = {player: system.loss(batch, player) for player in system.players}
        torch.manual_seed(5)
        fake = system.generator(torch.randn(6, 3), classes)
        if penalty == "gradient":
            torch.rand(6, 1, 1, 1)
        again = system.generator(torch.randn(6, 3), classes)
        terms = OBJECTIVES[objective]
        scores = [system.discriminator(x, classes) for x in (system.normalize(batch.images), fake, again)]
        for term, scored, value in zip(
            terms,
            scores,
            (found["discriminator"]["real"], found["discriminator"]["fake"], found["generator"]["fool"]),
            strict=True,
        ):
            torch.testing.assert_close(value, term(scored))
        assert list(found["discriminator"]) == ["real", "fake"] + ["penalty"] * (penalty != "none")


@pytest.mark.parametrize("penalty", ["r1", "gradient"])
def test_penalties_by_differences(penalty: str) -> None:
    """The slope of the discriminator at each image, from differences of its scores, with its weight."""
    for name in NAMES:
        system = build(name, penalty=penalty, penalty_weight=3.0, conditional=True).double()
        batch = batch_for(system, 2)
        torch.manual_seed(5)
        found = system.loss(Batch(batch.images.double(), batch.targets, batch.indices, batch.affines, batch.sizes))
        torch.manual_seed(5)
        with torch.no_grad():
            classes = torch.arange(2)
            real, fake = system.normalize(batch.images.double()), system.generator(torch.randn(2, 3).double(), classes)
            share = torch.rand(2, 1, 1, 1).double()
            at = real if penalty == "r1" else share * real + (1 - share) * fake
            squares = torch.zeros(2, dtype=torch.float64)
            for place in range(at[0].numel()):
                step = torch.zeros_like(at)
                step.view(2, -1)[:, place] = 1e-6
                slope = (system.discriminator(at + step, classes) - system.discriminator(at - step, classes)) / 2e-6
                squares += slope.square()
        expected = squares.mean() / 2 if penalty == "r1" else (squares.sqrt() - 1).square().mean()
        assert float(found["penalty"]) == pytest.approx(3 * float(expected), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("penalty", ["none", "r1", "gradient"])
def test_gradients_of_both_players_are_right(name: str, penalty: str) -> None:
    system = build(name, penalty=penalty, conditional=True)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    for player, module in system.players.items():
        if penalty != "none" and player == "generator":
            continue
        errors = foveal.check_gradients(system, batch_for(system), player=player)
        assert errors.keys() == dict(module.named_parameters()).keys()
        assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_discriminator_minimises_leaves_the_generator_alone(name: str) -> None:
    system = build(name, conditional=True)
    total: Any = sum(system.loss(batch_for(system), "discriminator").values())
    total.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in system.discriminator.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str, tmp_path: Path) -> None:
    system = build(name, conditional=True).train()
    one = system.sample(5, generator=torch.Generator().manual_seed(3))
    assert one.shape == (5, 3, *system.preprocess.size)
    assert one.min() >= 0
    assert one.max() <= 1
    assert system.training
    torch.rand(7)  # nothing is drawn from torch's own state
    state = torch.get_rng_state()
    again = system.eval().sample(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one, system.sample(5, generator=torch.Generator().manual_seed(4)))

    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(system.render(z), one)
    fours = system.sample(5, generator=torch.Generator().manual_seed(3), labels="4")
    assert torch.equal(system.render(z, "4"), fours)
    assert torch.allclose(fours[4], one[4], atol=1e-6)  # classes take turns
    assert not torch.allclose(fours[0], one[0], atol=1e-6)

    path = tmp_path / "system.safetensors"
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    loaded = foveal.load(path)
    assert torch.equal(loaded.sample(5, generator=torch.Generator().manual_seed(3)), one)


def test_many_images_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    system = build("gan_nano", conditional=True)
    whole = system.sample(11, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("foveal.generate.gan.CHUNK", 4)
    torch.testing.assert_close(system.sample(11, generator=torch.Generator().manual_seed(0)), whole)


def test_bad_fields() -> None:
    for name, fields, text in [
        ("gan_nano", {"objective": "wasserstein"}, "needs a penalty"),
        ("gan_nano", {"generator_every": 0}, "generator_every must be at least 1"),
        ("gan_nano", {"penalty_weight": 1.0}, "penalty_weight has no effect"),
        ("gan_nano", {"penalty": "r1", "penalty_weight": 0.0}, "penalty_weight must be above 0"),
        ("gan_nano", {"penalty": "r2"}, "no penalty 'r2'; did you mean r1"),
        ("gan_nano", {"objective": "maximin"}, "no objective 'maximin'"),
        ("gan_nano", {"latent": 0}, "latent must be at least 1"),
        ("gan_nano", {"hidden": ()}, "widths of one layer or more"),
        ("gan_nano", {"dropout": 1.0}, "dropout"),
        ("dcgan_nano", {"image_size": 12}, "not to 12 x 12"),
        ("dcgan_nano", {"image_size": 4}, "not to 4 x 4"),
        ("dcgan_nano", {"image_size": (16, 32)}, "not to 16 x 32"),
        ("dcgan_nano", {"width": 0}, "width must be at least 1"),
        ("dcgan", {"conditional": True}, "needs class names"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            foveal.create(name, **fields)
    system = build("gan_nano")
    with pytest.raises(foveal.InputError, match="not of"):
        system(torch.rand(2, 3, 9, 9))
    with pytest.raises(foveal.InputError, match=r"\(B, 3\), not \(2, 4\)"):
        system.render(torch.randn(2, 4))
    with pytest.raises(foveal.InputError, match="cannot be asked for a class"):
        system.sample(2, labels="1")


def test_a_penalty_goes_without_norms_that_mix_images() -> None:
    batch, layer = build("dcgan_nano"), build("dcgan_nano", penalty="r1")
    x = torch.rand(3, 1, 16, 16)
    for system, alone in ((batch, False), (layer, True)):
        scores, first = system.train().discriminator(x), system.discriminator(x[:1])
        assert torch.allclose(scores[:1], first, atol=1e-6) == alone


def test_it_learns_where_the_images_are() -> None:
    """Two kinds of images, half bright and half dark at either side; samples become of both kinds."""
    system = build("gan_nano", hidden=(32,), latent=4, dropout=0.0).train()
    optimizers = {n: torch.optim.Adam(p.parameters(), 2e-3, betas=(0.5, 0.999)) for n, p in system.players.items()}
    left = torch.zeros(3, 8, 8)
    left[..., :4] = 0.9
    kinds = torch.stack([left, left.flip(-1)])

    def distance() -> Tensor:
        made = system.sample(64, generator=torch.Generator().manual_seed(0))
        return (made[:, None] - kinds).abs().mean((2, 3, 4))  # (64, 2)

    assert distance().min(1).values.mean() > 0.3
    for _ in range(400):
        images = kinds.repeat(16, 1, 1, 1)
        batch = Batch(images, (), torch.arange(32), torch.zeros(32, 2, 3), torch.zeros(32, 2))
        for player, optimizer in optimizers.items():
            system.zero_grad()
            sum(system.loss(batch, player).values()).backward()
            optimizer.step()
    nearest = distance().min(1)
    assert nearest.values.median() < 0.1
    assert 8 < int(nearest.indices.sum()) < 56  # of both kinds


class Failing(GAN):
    """Whose generator's loss is once not a number."""

    calls = 0

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        terms = super().loss(batch, player)
        if player != "generator":
            return terms
        self.calls += 1
        return {"fool": terms["fool"] * (float("nan") if self.calls == 9 else 1)}


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_loss_that_is_not_finite(policy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = Failing(foveal.create("gan_nano", **SMALL["gan_nano"]).spec)
    settings: dict[str, Any] = {"epochs": 2, "ema": 0.9, "batch_size": 16, "quiet": True, "nonfinite": policy}
    config = foveal.TrainConfig(out=str(tmp_path / "run"), **settings)
    if policy == "stop":
        with pytest.raises(foveal.InputError, match=r"loss of the generator is nan in epoch 1, step \d+; .*nonfinite"):
            foveal.train(system, unlabelled(small_digits()), config)
    else:
        run = foveal.train(system, unlabelled(small_digits()), config)
        assert run.record["status"] == "finished"
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert sum('"event": "skipped"' in line and "generator" in line for line in lines) == 1
    kept = checkpoint.read(tmp_path / "run", state=True, prefer="last")
    floats = [v for v in (*kept.weights.values(), *kept.state.values()) if v.is_floating_point()]
    assert all(value.isfinite().all() for value in floats)
    assert checkpoint.read(tmp_path / "run" / "nonfinite.safetensors").weights["images"].shape == (16, 3, 8, 8)


def test_the_generator_learns_as_often_as_asked() -> None:
    players = build("gan_nano", generator_every=5).players
    assert {name: player.every for name, player in players.items()} == {"discriminator": 1, "generator": 5}
