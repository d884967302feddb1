"""Signals by depth against hooks of the test's own."""

from typing import Any

import pytest
import torch
from torch import nn

import foveal
from foveal.classify.classifier import Classifier
from foveal.errors import InputError
from foveal.explain.depth import signals
from foveal.nn.init import Init
from foveal.structures import Batch, Label
from foveal.system import Preprocess, Spec
from tests.toys import NearestMean


def batch_for(system: Any, count: int = 5) -> Batch:
    images = torch.rand(count, 3, *system.preprocess.size, generator=torch.Generator().manual_seed(0))
    batch = system.preprocess.batch(list(images))
    targets = tuple(Label(torch.tensor(i % len(system.labels))) for i in range(count))
    return Batch(batch.images, targets, batch.indices, batch.affines, batch.sizes)


@pytest.mark.parametrize("name", ["resnet_nano", "vit_nano", "lenet"])
def test_figures_are_those_that_hooks_see(name: str) -> None:
    torch.manual_seed(0)
    system = foveal.create(name)
    batch, activations, gradients = batch_for(system), {}, {}
    found = {signal.layer: signal for signal in signals(system, batch)}
    for path, module in system.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, y, path=path: activations.__setitem__(path, y.detach()))
            module.register_full_backward_hook(lambda _, __, g, path=path: gradients.__setitem__(path, g[0]))
    torch.manual_seed(0)
    sum(system.train().loss(batch).values()).backward()
    assert list(found) == list(activations)  # in the order of the forward pass
    for path, signal in found.items():
        y, g = activations[path], gradients[path]
        assert signal.kind == type(system.get_submodule(path)).__name__
        assert signal.mean == pytest.approx(y.mean().item(), rel=1e-4, abs=1e-7)
        assert signal.std == pytest.approx(y.std(correction=0).item(), rel=1e-4)
        assert signal.zeros == pytest.approx((y == 0).double().mean().item())
        assert signal.gradient_mean == pytest.approx(g.mean().item(), rel=1e-3, abs=1e-8)
        assert signal.gradient_std == pytest.approx(g.std(correction=0).item(), rel=1e-3)


def test_the_system_stays_as_it_is() -> None:
    system = foveal.create("resnet_nano", dropout=0.5)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (signals(system, batch_for(system)) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert not system.training
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert all(parameter.grad is None for parameter in system.parameters())
    assert not any(module._forward_hooks for module in system.modules())


def test_named_layers() -> None:
    system = foveal.create("resnet_nano")
    found = signals(system, batch_for(system), ["stage3.0.relu", "stem.relu"])
    assert [signal.layer for signal in found] == ["stem.relu", "stage3.0.relu"]
    assert 0.2 < found[0].zeros < 0.8
    with pytest.raises(InputError, match=r"no module 'stem\.rely'"):
        signals(system, batch_for(system), ["stem.rely"])


class Deep(Classifier):
    """Twelve linear layers with tanh between them."""

    def __init__(self) -> None:
        super().__init__(Spec(("a", "b"), Preprocess((8, 8), "squash", 1.0, (0.5,) * 3, (0.3,) * 3)))
        layers = [part for _ in range(11) for part in (nn.Linear(192, 192), nn.Tanh())]
        self.layers = nn.Sequential(*layers, nn.Linear(192, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(self.normalize(images).flatten(1))


@pytest.mark.parametrize(
    ("how", "activation", "gradient"),
    [("zero", (0, 0), (0, 0)), ("small", (0, 1e-6), (0, 1e-6)), ("xavier", (0.1, 10), (0.02, 50))],
)
def test_a_bad_start_shows(how: Init, activation: tuple[float, float], gradient: tuple[float, float]) -> None:
    torch.manual_seed(0)
    system = Deep()
    system.initialise(how)
    first, *_, last = signals(system, batch_for(system))[:-1]
    if how == "zero":
        assert (last.std, first.gradient_std) == (0, 0)
    else:
        assert activation[0] < last.std / first.std < activation[1]
        assert gradient[0] < first.gradient_std / last.gradient_std < gradient[1]


def test_what_cannot_be_measured() -> None:
    system = foveal.create("resnet_nano")
    with pytest.raises(InputError, match="two images or more, not 1"):
        signals(system, batch_for(system, 1))
    deep = Deep()
    deep.forward = lambda images: images.mean((2, 3))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="Deep has no layer with weights that its loss depends on"):
        signals(deep, batch_for(deep))
    fitted = NearestMean(("a", "b"))
    with pytest.raises(InputError, match="cannot be trained by gradient"):
        signals(fitted, batch_for(fitted))
