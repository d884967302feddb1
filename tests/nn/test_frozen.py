"""A trained network inside another: what may change it, and where its tensors are."""

import copy

import torch
from torch import nn

import foveal
from foveal.nn.frozen import Frozen
from foveal.nn.init import initialise
from foveal.system import System, evaluating
from tests.generate.test_vqvae_prior import build, vqvae
from tests.train.test_players import state_of


class Net(nn.Sequential):
    """With a norm that has statistics, a dropout, and a method besides forward."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self(x) * 2 * self.unsaved


def outer() -> tuple[Net, nn.ModuleDict]:
    torch.manual_seed(0)
    inner = Net()
    return inner, nn.ModuleDict({"inner": Frozen(inner), "head": nn.Linear(2, 2)})


def test_nothing_moves_it() -> None:
    inner, whole = outer()
    x = torch.randn(5, 3)
    wanted = copy.deepcopy(inner).eval()(x)
    for mode in (True, False, True):
        whole.train(mode)
        assert torch.equal(whole["inner"](x), wanted)
        assert torch.equal(whole["inner"].module.twice(x), 2 * wanted)
    with evaluating(whole):
        pass
    assert whole["head"].training
    assert not any(module.training for module in whole["inner"].modules())
    assert {n for n, p in whole.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    initialise(whole, "zero")
    assert not whole["head"].weight.any()
    assert torch.equal(whole["inner"](x), wanted)
    # Its owner may go on with the one that was given.
    assert inner.training
    assert all(parameter.requires_grad for parameter in inner.parameters())


def test_its_tensors_have_the_names_of_the_module_itself() -> None:
    inner, whole = outer()
    names = [f"inner.{name}" for name in inner.state_dict()]
    assert list(whole.state_dict()) == [*names, "head.weight", "head.bias"]
    assert [n for n, _ in whole.named_parameters()][:6] == [f"inner.{name}" for name, _ in inner.named_parameters()]
    other = outer()[1]
    changed = {name: value + 1 for name, value in whole.state_dict().items()}
    other.load_state_dict(changed)
    for name, value in other["inner"].module.state_dict().items():
        assert torch.equal(value, changed[f"inner.{name}"])


def test_copies_and_types_stay_together() -> None:
    _, whole = outer()
    twin = copy.deepcopy(whole).double()
    x = torch.randn(4, 3)
    for network, given in ((whole, x), (twin, x.double())):
        part = network["inner"]
        assert part(given).dtype == given.dtype
        assert all(one is two for one, two in zip(part.parameters(), part.module.parameters(), strict=True))
        assert part.module.unsaved.dtype == given.dtype
    assert twin["inner"].module is not whole["inner"].module


def test_a_run_keeps_it_once_and_an_init_leaves_it() -> None:
    codes = vqvae()
    system: System = build(codes, init="zero")
    for name, value in codes.state_dict().items():
        assert torch.equal(value, system.state_dict()[f"codes.{name}"])
    state = state_of(system, ema=0.9)
    assert state.average is not None
    assert state.average.keys() == {n for n, v in system.state_dict().items() if n.startswith("network.")}
    _, tensors = state.capture()
    assert not [name for name in tensors if "codes" in name]
    assert isinstance(system.spec.codes, System)
    assert foveal.cost(system).params == sum(p.numel() for p in system.parameters())
