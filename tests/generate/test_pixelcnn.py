"""What a pixel may see, that to draw pixel by pixel is to draw from what the network says, and that it learns."""

from typing import Any

import pytest
import torch

import foveal
from foveal.catalog import create
from foveal.generate import autoregressive
from foveal.system import Preprocess
from foveal.train.config import TrainConfig
from tests.toys import small_digits

NAMES = ("pixelcnn_nano", "gated_pixelcnn_nano")
COLOUR = Preprocess((6, 6), "squash", 1.0, (0.5,) * 3, (0.5,) * 3)


def small(name: str, preprocess: Preprocess = COLOUR, **fields: Any) -> Any:
    """With weights all over, so that nothing hides behind zeros of a start."""
    torch.manual_seed(0)
    system = create(name, preprocess=preprocess, **{"width": 6, "head": 9, **fields})
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return system


def dependence(name: str, **fields: Any) -> torch.Tensor:
    """(C H W, C H W) bool: whether the logits of the row's number depend on the column's, in order of reading."""
    network = small(name, **fields).double().network
    features = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    logits = network.by_level(network.run(features, None))  # (1, levels, C, H, W)
    weight = torch.randn(logits.shape[1], dtype=torch.float64)
    rows = []
    for number in torch.einsum("blchw,l->hwc", logits, weight).flatten():
        (gradient,) = torch.autograd.grad(number, features, retain_graph=True)
        rows.append(gradient[0].permute(1, 2, 0).flatten() != 0)
    return torch.stack(rows)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_seen_before_it_is_there(name: str) -> None:
    seen = dependence(name)
    assert not seen.triu().any()
    assert seen[-1, :-1].float().mean() > 0.5


def test_the_blind_spot_of_the_plain_one() -> None:
    """Above at the right a slope is not seen; the gated one sees all that came before, as far as it reaches."""
    at = (3 * 6 + 1) * 3  # the red of row 3, column 1
    right = [(2 * 6 + column) * 3 for column in range(6)]  # row 2
    plain, gated = (dependence(name)[at] for name in NAMES)
    assert plain[right[0]]
    assert not plain[right].all()
    assert gated[right].all()
    assert (gated | ~plain)[:at].all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("conditional", [False, True])
def test_reuse_draws_what_the_whole_network_draws(name: str, conditional: bool) -> None:
    for preprocess in (COLOUR, Preprocess((6, 6), "squash", 1.0, (0.5,), (0.5,), grey=True)):
        system = small(name, preprocess, conditional=conditional)
        drawn = [
            system.sample(3, generator=torch.Generator().manual_seed(1), cached=cached) for cached in (True, False)
        ]
        assert torch.equal(*drawn)
        assert len(drawn[0].unique()) > 50


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_is_the_product_of_what_is_said_one_by_one(name: str) -> None:
    system = small(name).double()
    images = torch.randint(0, 256, (2, 3, 6, 6)).double() / 255
    levels = system.levels(images)
    assert torch.allclose(system.network(levels).softmax(1).sum(1), torch.ones(2, 3, 6, 6).double())
    known, total = torch.zeros_like(levels), torch.zeros(2).double()
    for row in range(6):
        for column in range(6):
            for channel in range(3):
                said = system.network(known)[..., channel, row, column].log_softmax(1)
                own = levels[:, channel, row, column]
                total += said.gather(1, own[:, None])[:, 0]
                known[:, channel, row, column] = own
    batch = system.preprocess.batch(list(images.float()))
    with torch.no_grad():
        assert torch.allclose(system.log_likelihood(batch), total, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str) -> None:
    system = small(name)
    batch = system.preprocess.batch(list(torch.rand(2, 3, 6, 6)))
    found = [foveal.check_gradients(system, batch, step=step) for step in (1e-5, 1e-6, 1e-7)]
    errors = {parameter: min(each[parameter] for each in found) for parameter in found[0]}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_is_kept(name: str) -> None:
    system = small(name)
    images, known = torch.rand(2, 3, 6, 6), torch.zeros(6, 6, dtype=torch.bool)
    known[:3] = True
    drawn = [
        system.complete(images, known, generator=torch.Generator().manual_seed(seed), cached=cached)
        for seed, cached in ((1, True), (1, False), (2, True))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.allclose(drawn[0][:, :, :3], (images[:, :, :3] * 255).round() / 255, atol=1e-6)


def test_what_rounding_could_decide_is_asked_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = autoregressive._whole
    monkeypatch.setattr(autoregressive, "_whole", lambda *given: asked.append(1) or whole(*given))
    monkeypatch.setattr(autoregressive, "DOUBT", 1.0)
    small("gated_pixelcnn_nano").sample(1, generator=torch.Generator().manual_seed(0))
    assert len(asked) == 6 * 6 * 3


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tmp_path: Any) -> None:
    data = small_digits()
    torch.manual_seed(0)
    system = create(name)
    settings = TrainConfig(
        out=str(tmp_path / "run"), epochs=10, batch_size=16, lr=5e-3, warmup=0.0, ema=0.0, quiet=True
    )
    run = foveal.train(system, data, settings)
    values = [record["val"]["nll"] for record in run.history]
    assert values[-1] < values[0]
    assert values[-1] < 4.5  # of 5.5 nats that knowing nothing costs


def test_bad_fields() -> None:
    for fields, text in (({"kernel": 2}, "kernel must be odd"), ({"width": 1}, "width and head must be at least 3")):
        with pytest.raises(foveal.InputError, match=text):
            create("pixelcnn_nano", **fields)
