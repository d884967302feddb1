"""Each non-linearity and its derivative against the formulas, written out for one number."""

import math
from collections.abc import Callable

import pytest
import torch

import foveal
from foveal.nn.activation import ACTIVATIONS, Maxout

LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
ROOT = math.sqrt(2 / math.pi)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def tanh(x: float) -> float:
    return (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1)


def inner(x: float) -> float:
    return ROOT * (x + 0.044715 * x**3)


def share(x: float) -> float:
    """P(X <= x) of a normal number."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


def density(x: float) -> float:
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


# name -> (the function, its derivative)
FORMULAS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (tanh, lambda x: 1 - tanh(x) ** 2),
    "relu": (lambda x: max(0, x), lambda x: float(x > 0)),
    "leaky_relu": (lambda x: max(0.1 * x, x), lambda x: 1.0 if x > 0 else 0.1),
    "elu": (lambda x: x if x >= 0 else math.exp(x) - 1, lambda x: 1.0 if x >= 0 else math.exp(x)),
    "selu": (
        lambda x: LAMBDA * x if x > 0 else LAMBDA * ALPHA * (math.exp(x) - 1),
        lambda x: LAMBDA if x > 0 else LAMBDA * ALPHA * math.exp(x),
    ),
    "gelu": (lambda x: x * share(x), lambda x: share(x) + x * density(x)),
    "gelu_tanh": (
        lambda x: x * (1 + tanh(inner(x))) / 2,
        lambda x: (1 + tanh(inner(x))) / 2 + x * (1 - tanh(inner(x)) ** 2) / 2 * ROOT * (1 + 3 * 0.044715 * x**2),
    ),
    "softplus": (lambda x: math.log(1 + math.exp(x)), sigmoid),
}
# name -> (value, derivative) far below and far above zero
LIMITS = {
    "sigmoid": ((0, 0), (1, 0)),
    "tanh": ((-1, 0), (1, 0)),
    "relu": ((0, 0), (1000, 1)),
    "leaky_relu": ((-100, 0.1), (1000, 1)),
    "elu": ((-1, 0), (1000, 1)),
    "selu": ((-LAMBDA * ALPHA, 0), (1000 * LAMBDA, LAMBDA)),
    "gelu": ((0, 0), (1000, 1)),
    "gelu_tanh": ((0, 0), (1000, 1)),
    "softplus": ((0, 0), (1000, 1)),
}


def value_and_slope(name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = ACTIVATIONS[name](1)(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def test_every_name_has_its_formula_here() -> None:
    assert {*FORMULAS, "maxout"} == set(ACTIVATIONS)
    assert FORMULAS.keys() == LIMITS.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_derivative(name: str) -> None:
    # Neither the kink nor the values where the formula itself rounds to nothing.
    points = [x / 8 for x in range(-64, 65) if x]
    y, slope = value_and_slope(name, torch.tensor(points, dtype=torch.float64))
    function, derivative = FORMULAS[name]
    assert y.tolist() == pytest.approx([function(x) for x in points], rel=1e-10, abs=1e-14)
    assert slope.tolist() == pytest.approx([derivative(x) for x in points], rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_at_zero(name: str) -> None:
    y, slope = value_and_slope(name, torch.zeros(1, dtype=torch.float64))
    function, derivative = FORMULAS[name]
    assert y.item() == pytest.approx(function(0.0), abs=1e-15)
    # A kink has no derivative; what is taken for it lies between those on both sides.
    sides = sorted([derivative(-1e-9), derivative(1e-9)])
    assert sides[0] - 1e-8 <= slope.item() <= sides[1] + 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FORMULAS)
def test_far_from_zero(name: str, dtype: torch.dtype) -> None:
    y, slope = value_and_slope(name, torch.tensor([-1000.0, 1000.0], dtype=dtype))
    assert list(zip(y.tolist(), slope.tolist(), strict=True)) == [pytest.approx(end, rel=1e-6) for end in LIMITS[name]]


def test_softplus_and_sigmoid_keep_their_digits_in_the_tails() -> None:
    x = torch.tensor([-40.0, -100.0], dtype=torch.float64)
    for name in ("softplus", "sigmoid"):  # both are e^x there
        assert value_and_slope(name, x)[0].tolist() == pytest.approx([math.exp(-40), math.exp(-100)], rel=1e-12)


def test_the_two_gelus_are_close() -> None:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    assert (ACTIVATIONS["gelu"](1)(x) - ACTIVATIONS["gelu_tanh"](1)(x)).abs().max() < 5e-4


def test_selu_keeps_mean_zero_and_variance_one() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = ACTIVATIONS["selu"](1)(x)
    assert y.mean().item() == pytest.approx(0, abs=0.005)
    assert y.var().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("pieces", [2, 3])
def test_maxout_by_its_equation(pieces: int) -> None:
    torch.manual_seed(0)
    layer, x = Maxout(4, pieces).double(), torch.randn(3, 4, 2, 5, dtype=torch.float64)
    torch.nn.init.normal_(layer.affine.bias)
    weights, biases = layer.affine.weight.view(pieces, 4, 4), layer.affine.bias.view(pieces, 4)
    y, chosen = layer(x), torch.zeros(3, 4, 2, 5, dtype=torch.int64)
    for n in range(3):
        for i in range(2):
            for j in range(5):
                for c in range(4):
                    sums = [weights[k, c] @ x[n, :, i, j] + biases[k, c] for k in range(pieces)]
                    assert y[n, c, i, j].item() == pytest.approx(max(sums).item(), rel=1e-12)
                    chosen[n, c, i, j] = sums.index(max(sums))
    # The gradient goes to the piece that is taken, and to no other.
    (gradient,) = torch.autograd.grad(y.sum(), layer.affine.bias)
    expected = torch.stack([(chosen == k).sum((0, 2, 3)) for k in range(pieces)]).double()
    assert torch.equal(gradient.view(pieces, 4), expected)
    torch.testing.assert_close(layer(x[:, :, 0, 0]), y[:, :, 0, 0], rtol=1e-12, atol=0)  # of vectors, the same


def test_maxout_can_be_relu_and_the_absolute_value() -> None:
    x = torch.randn(5, 3)
    for second, expected in ((torch.zeros(3, 3), x.relu()), (-torch.eye(3), x.abs())):
        layer = Maxout(3)
        layer.affine.weight.data = torch.cat([torch.eye(3), second])
        torch.testing.assert_close(layer(x), expected)


def test_maxout_keeps_the_mean_square_at_the_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 512)
    assert Maxout(512)(x).square().mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["lenet", "resnet_nano", "senet_nano"])
def test_a_system_has_the_one_that_is_asked_for_everywhere(name: str, activation: str) -> None:
    torch.manual_seed(0)
    usual, system = foveal.create(name), foveal.create(name, activation=activation)
    kind = type(ACTIVATIONS[activation](1))
    places = "squash" if name == "lenet" else "relu"
    found = [path for path, module in system.named_modules() if path.rpartition(".")[2].startswith(places)]
    found = [path for path in found if "excite" not in path]
    assert len(found) == (4 if name == "lenet" else 7)
    assert all(type(system.get_submodule(path)) is kind for path in found)
    images = torch.rand(2, 3, *system.preprocess.size)
    same = activation == "relu" and name != "lenet"
    assert torch.isfinite(system(images)).all()
    assert same or not torch.allclose(system(images), usual(images))


def test_the_paper_of_lenet_subsamples_with_the_same_non_linearity() -> None:
    system = foveal.create("lenet", subsampling="trainable", activation="relu")
    assert isinstance(system.stage1.pool.squash, torch.nn.ReLU)
    assert system(torch.rand(1, 3, 32, 32)).shape == (1, 10)
