"""Each norm against its formula in loops: which numbers its mean and variance are of, and what is kept."""

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.errors import InputError
from foveal.nn.norm import NORMS, groups

EPS, CHANNELS = 1e-5, 6
X = 2 + 3 * torch.randn(4, CHANNELS, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(kind: str) -> nn.Module:
    """A norm with random gamma and beta."""
    torch.manual_seed(1)
    norm = NORMS[kind](CHANNELS).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def neighbours(kind: str, n: int, c: int) -> Tensor:
    """What the mean and the variance are taken of that normalise channel c of image n."""
    if kind == "batch":
        return X[:, c]
    if kind == "layer":
        return X[n]
    if kind == "instance":
        return X[n, c]
    each = CHANNELS // groups(CHANNELS)
    return X[n, c // each * each : (c // each + 1) * each]


@pytest.mark.parametrize("kind", NORMS)
def test_formula(kind: str) -> None:
    norm, expected = made(kind), torch.empty_like(X)
    for n in range(len(X)):
        for c in range(CHANNELS):
            values = neighbours(kind, n, c).reshape(-1)
            mean = values.sum() / len(values)
            variance = ((values - mean) ** 2).sum() / len(values)
            for i in range(3):
                for j in range(5):
                    standard = (X[n, c, i, j] - mean) / (variance + EPS).sqrt()
                    expected[n, c, i, j] = norm.weight[c] * standard + norm.bias[c]
    torch.testing.assert_close(norm.train()(X), expected, rtol=1e-12, atol=1e-12)
    if kind != "batch":  # one image is enough, so evaluation is the same
        torch.testing.assert_close(norm.eval()(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", NORMS)
def test_gradients(kind: str) -> None:
    norm = made(kind).train()
    assert torch.autograd.gradcheck(norm, X[:2, :, :2, :2].clone().requires_grad_())


def test_running_statistics_of_batch_norm() -> None:
    norm = made("batch").train()
    mean, variance = torch.zeros(CHANNELS, dtype=torch.float64), torch.ones(CHANNELS, dtype=torch.float64)
    for shift in range(3):
        batch = X * (1 + shift) + shift
        norm(batch)
        for c in range(CHANNELS):
            values = batch[:, c].reshape(-1)
            unbiased = ((values - values.mean()) ** 2).sum() / (
                len(values) - 1
            )  # the batch itself takes the biased one
            mean[c] = 0.9 * mean[c] + 0.1 * values.mean()
            variance[c] = 0.9 * variance[c] + 0.1 * unbiased
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-13, atol=0)
    gamma, beta, mu, var = (v.view(1, -1, 1, 1) for v in (norm.weight, norm.bias, mean, variance))
    torch.testing.assert_close(norm.eval()(X), gamma * (X - mu) / (var + EPS).sqrt() + beta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-13, atol=0)  # evaluation leaves them


def test_layer_norm_of_vectors() -> None:
    x, norm = torch.randn(3, 7, dtype=torch.float64), nn.LayerNorm(7).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    for row, out in zip(x, norm(x), strict=True):
        mean = row.sum() / 7
        variance = ((row - mean) ** 2).sum() / 7
        torch.testing.assert_close(out, norm.weight * (row - mean) / (variance + EPS).sqrt() + norm.bias)


def test_layer_and_instance_are_the_ends_of_group() -> None:
    torch.testing.assert_close(NORMS["layer"](CHANNELS).double()(X), nn.functional.group_norm(X, 1))
    torch.testing.assert_close(NORMS["instance"](CHANNELS).double()(X), nn.functional.group_norm(X, CHANNELS))


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 1), (2, 1), (6, 3), (7, 1), (15, 5), (16, 8), (64, 32), (96, 32), (2048, 32)]
)
def test_number_of_groups(channels: int, expected: int) -> None:
    assert groups(channels) == expected


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize(
    ("name", "fields"), [("resnet_nano", {}), ("resnet_nano", {"preactivation": True}), ("senet_nano", {})]
)
def test_a_system_has_the_one_that_is_asked_for_everywhere(name: str, fields: dict[str, bool], kind: str) -> None:
    system = foveal.create(name, norm=kind, **fields)
    found = [module for path, module in system.named_modules() if path.rpartition(".")[2].startswith("norm")]
    assert len(found) == (7 if fields else 9)
    assert all(type(module) is type(NORMS[kind](4)) for module in found)
    images = torch.rand(3, 3, 16, 16)
    system.train()
    alone, among = system(images[:1]), system(images)[:1]
    assert torch.allclose(alone, among, atol=1e-5) == (kind != "batch")  # only one of them looks at other images


def test_a_map_of_one_pixel_has_no_variance() -> None:
    system = foveal.create("resnet_nano", norm="instance")
    assert system(torch.rand(1, 3, 5, 5)).isfinite().all()
    with pytest.raises(InputError, match="resnet_nano takes images of 5 x 5 pixels or more, not 4 x 4"):
        system(torch.rand(1, 3, 4, 4))
    large = foveal.create("resnet18", norm="instance", labels=("a", "b"))
    assert large(torch.rand(1, 3, 33, 33)).isfinite().all()
    with pytest.raises(InputError, match="33 x 33 pixels or more"):
        large(torch.rand(1, 3, 32, 40))


@pytest.mark.parametrize("kind", ["layer", "instance", "group"])
def test_a_network_learns_with_each(kind: str, small_digits) -> None:
    torch.manual_seed(0)
    assert small_digits(foveal.create("resnet_nano", norm=kind), 5, 0.004) > 0.9
