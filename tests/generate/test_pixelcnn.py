"""What a pixel may see, that to draw pixel by pixel is to draw from what the network says, and that it learns."""

from typing import Any

import pytest
import torch

import foveal
from foveal.build import create
from foveal.generate import autoregressive
from foveal.generate.autoregressive import draw, log_probability
from foveal.generate.gated_pixelcnn import GatedNetwork
from foveal.generate.pixelcnn import PixelCNNNetwork
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
    # By many features and at many grids, for relus may be closed.
    network = small(name, width=24, head=48, **fields).double().network
    features = torch.randn(8, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    logits = network.by_level(network.run(features, None))  # (8, levels, C, H, W)
    weight = torch.randn(logits.shape[1], dtype=torch.float64)
    rows = []
    for number in torch.einsum("blchw,l->hwc", logits, weight).flatten():
        (gradient,) = torch.autograd.grad(number, features, retain_graph=True)
        rows.append((gradient != 0).any(0).permute(1, 2, 0).flatten())
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


def test_rows_above_are_heard_through_all_gates_at_the_start() -> None:
    """What the last layer of the vertical stack tells differs from image to image; of torch's own weights, by 0.003."""
    torch.manual_seed(0)
    network = create("gated_pixelcnn_nano").network
    with torch.no_grad():
        told = network._told(network.features(torch.randint(0, 256, (16, 1, 8, 8))), None)
    assert float(told[-1].std(0).mean()) > 0.1


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
    monkeypatch.setattr(autoregressive, "DOUBT", 1e9)
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


def reach(name: str) -> torch.Tensor:
    """The same shape as `dependence`: what the layers of a nano let each number see, tap by tap."""
    spec, side = create(name).spec, 6
    plain = name == "pixelcnn_nano"

    def through(before: dict[Any, set[Any]], kernel: int, own: bool, kind: str) -> dict[Any, set[Any]]:
        """What is seen by (row, column, channel) behind a convolution over what `before` tells."""
        after: dict[Any, set[Any]] = {}
        half = kernel // 2
        for row in range(side):
            for column in range(side):
                for channel in range(3):
                    sees: set[Any] = set()
                    for r in range(row - half, row + 1):
                        for c in range(column - half, column + half + 1):
                            for other in range(3):
                                if kind == "above":
                                    taken = r < row or own
                                elif kind == "left" and r < row:
                                    taken = False
                                else:
                                    here = (r, c) == (row, column) and (other <= channel if own else other < channel)
                                    taken = (r, c) < (row, column) or here
                                if taken:
                                    sees |= before.get((r, c, other), set())
                    after[row, column, channel] = sees
        return after

    places = [(r, c, k) for r in range(side) for c in range(side) for k in range(3)]
    grid = {place: {place} for place in places}
    if plain:
        seen = through(grid, spec.first, False, "plain")
        for _ in range(spec.blocks):
            inner = through(seen, spec.kernel, True, "plain")
            seen = {place: seen[place] | inner[place] for place in places}
    else:
        above = through(grid, spec.first, False, "above")
        left = through(grid, spec.first, False, "left")
        seen = {place: above[place] | left[place] for place in places}
        for _ in range(spec.layers - 1):
            above, left = through(above, spec.kernel, True, "above"), through(seen, spec.kernel, True, "left")
            seen = {place: seen[place] | above[place] | left[place] for place in places}
    return torch.tensor([[other in seen[place] for other in places] for place in places])


@pytest.mark.parametrize("name", NAMES)
def test_it_sees_what_its_taps_reach(name: str) -> None:
    reached, seen = reach(name), dependence(name)
    assert torch.equal(seen, reached)
    everything = torch.ones_like(seen).tril(-1)
    assert torch.equal(seen, everything) == (name == "gated_pixelcnn_nano")


NETWORKS = {
    "plain": lambda **fields: PixelCNNNetwork(width=6, blocks=2, kernel=3, first=5, head=8, **fields),
    "gated": lambda **fields: GatedNetwork(width=6, layers=3, kernel=3, first=5, head=8, **fields),
}


def network(kind: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    made = NETWORKS[kind](**fields).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("embedding", [None, 4])
@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_of_all_grids_sum_to_one(kind: str, embedding: int | None) -> None:
    made = network(kind, channels=2, levels=3, classes=2, embedding=embedding)
    grids = torch.cartesian_prod(*[torch.arange(3)] * 8).view(-1, 2, 2, 2)
    for number in range(2):
        with torch.no_grad():
            found = log_probability(made, grids, torch.full((len(grids),), number))
        probabilities = found.sum((1, 2, 3)).exp()
        assert float(probabilities.sum()) == pytest.approx(1, rel=1e-9)
        assert float(probabilities.max()) > 3 * float(probabilities.mean())


@pytest.mark.parametrize("kind", NETWORKS)
def test_draws_are_of_these_probabilities(kind: str) -> None:
    """Grids at numbers that lie evenly are as frequent as they are probable."""
    made, steps = network(kind, channels=1, levels=3, embedding=2), 60
    even = (torch.arange(steps).double() + 0.5) / steps
    numbers = torch.cartesian_prod(even, even).view(-1, 1, 1, 2)
    grids = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(-1, 1, 1, 2)
    with torch.no_grad():
        drawn = draw(made, numbers)
        expected = log_probability(made, grids).sum((1, 2, 3)).exp()
    found = (drawn[None] == grids[:, None]).all((2, 3, 4)).double().mean(1)
    assert float((found - expected).abs().max()) < 2 / steps


@pytest.mark.parametrize("fields", [{}, {"classes": 3}, {"embedding": 4}], ids=["", "classes", "names"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_pixel_by_pixel_is_the_whole(kind: str, fields: dict[str, Any]) -> None:
    made = network(kind, channels=3, levels=7, **fields)
    x = torch.randint(0, 7, (2, 3, 5, 9), generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([2, 0]) if "classes" in fields else None
    with torch.no_grad():
        whole, step = made(x, classes), made.begin(9, classes)
        if classes is not None:
            assert not torch.allclose(whole, made(x), atol=0.1)
        for row in range(5):
            for column in range(9):
                for known in range(3):
                    part = x.clone()
                    part[:, known:, row, column] = 0
                    part[:, :, row, column + 1 :] = 0
                    part[:, :, row + 1 :] = 0
                    said = step(part, row, column)[..., known]
                    torch.testing.assert_close(said, whole[..., known, row, column])


@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_far_below_what_is_held_to_be_in_doubt(name: str) -> None:
    system = small(name, Preprocess((12, 12), "squash", 1.0, (0.5,) * 3, (0.5,) * 3))
    x = torch.randint(0, 256, (3, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, step = system.network(x), system.network.begin(12, None)
        for row in range(12):
            for column in range(12):
                said = step(x, row, column)
                off = (said - whole[..., row, column]).abs().max() / (1 + said.abs().max())
                assert float(off) < autoregressive.DOUBT / 10


@pytest.mark.parametrize("shift", [0.0, -30.0])
def test_what_is_in_doubt_is_what_rounding_could_decide(shift: float) -> None:
    """The logits below a border are all off by as much as they can be, those above by as much the other way."""
    logits = shift + torch.randn(1, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off = autoregressive.DOUBT * (1 + float(logits.abs().max()))
    below = logits.softmax(1).cumsum(1)[0, 2].logit()  # the log odds of the third border
    for share in (-1.01, -0.99, -0.01, 0.01, 0.99, 1.01):
        number = (below + share * 2 * off).sigmoid()[None]
        value, doubt = autoregressive._drawn(logits, number)
        assert int(value) == (2 if share < 0 else 3)
        assert doubt == (abs(share) < 1)
        sign = torch.tensor([1.0] * 3 + [-1.0] * 4) * (1 if share > 0 else -1)
        other, _ = autoregressive._drawn(logits + off * sign, number)
        assert (int(other) != int(value)) == (abs(share) < 1)


def test_a_class_that_nobody_names_is_the_likely_one() -> None:
    """By the pixels before the first that is unknown, of which later ones tell nothing."""
    system = small("gated_pixelcnn_nano", conditional=True, labels=("a", "b", "c", "d"))
    images = torch.randint(0, 256, (24, 3, 6, 6), generator=torch.Generator().manual_seed(2)) / 255
    images *= torch.linspace(0, 1, 24)[:, None, None, None]  # dark ones and bright ones, or one class is always likely
    known = torch.ones(6, 6, dtype=torch.bool)
    known[2, 3] = False
    x, leading = system.levels(images), torch.zeros(24, 4)
    with torch.no_grad():
        for index in range(4):
            logits = system.network(x, torch.full((24,), index)).log_softmax(1).gather(1, x[:, None])[:, 0]
            leading[:, index] = logits.flatten(2)[:, :, : 2 * 6 + 3].sum((1, 2))
    likely = leading.argmax(1)
    assert len(likely.unique()) > 1
    names = [system.labels[index] for index in likely.tolist()]
    seeds = [torch.Generator().manual_seed(3) for _ in range(3)]
    free = system.complete(images, known, generator=seeds[0])
    assert torch.equal(free, system.complete(images, known, generator=seeds[1], labels=names))
    assert not torch.equal(free, system.complete(images, known, generator=seeds[2], labels="a"))


def test_what_is_seen_as_it_takes_shape() -> None:
    system, seen = small("pixelcnn_nano"), []
    made = system.sample(
        2, generator=torch.Generator().manual_seed(0), trace=lambda done, images: seen.append((done, images.clone()))
    )
    assert [done for done, _ in seen] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    for row, (_, images) in enumerate(seen, 1):
        assert torch.equal(images[:, :, :row], made[:, :, :row])
        assert not images[:, :, row:].any()


def test_published_sizes() -> None:
    """Weights as the papers have the layers, less the rows of taps that masks leave nothing of."""
    with torch.device("meta"):
        plain, gated = create("pixelcnn"), create("gated_pixelcnn")
    block = 256 * 128 + 128 + 128 * 128 * 2 * 3 + 128 + 128 * 256 + 256
    end = 1024 + 1024 * 768 + 768
    assert sum(p.numel() for p in plain.parameters()) == 3 * 256 * 4 * 7 + 256 + 15 * block + 256 * 1024 + end
    p = 384
    first = 3 * 2 * p * (3 * 7 + 4) + 2 * 2 * p
    later = p * 2 * p * (3 * 5 + 3) + 2 * 2 * p
    linked = 4 * p * p + 2 * p + p * p + p
    assert sum(w.numel() for w in gated.parameters()) == first + 19 * later + 20 * linked + p * 1024 + end


def test_bad_input() -> None:
    system, images = small("pixelcnn_nano"), torch.rand(1, 3, 6, 6)
    for known in (torch.ones(6, 5, dtype=torch.bool), torch.ones(6, 6)):
        with pytest.raises(foveal.InputError, match=r"known must be bool of shape \(6, 6\)"):
            system.complete(images, known)
    with pytest.raises(foveal.InputError, match="was not trained with conditional"):
        system.complete(images, torch.ones(6, 6, dtype=torch.bool), labels="3")


def test_bad_fields() -> None:
    for fields, text in (({"kernel": 2}, "kernel must be odd"), ({"width": 1}, "width and head must be at least 3")):
        with pytest.raises(foveal.InputError, match=text):
            create("pixelcnn_nano", **fields)
