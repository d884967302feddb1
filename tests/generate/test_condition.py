"""Conditions by themselves, and in a network."""

import torch

from foveal.generate.condition import ClassCondition, Condition
from foveal.generate.unet import UNet
from tests.generate.test_ddpm import batch_of


def test_no_condition_adds_nothing() -> None:
    condition, code = Condition(5), torch.randn(4, 5)
    assert condition.of(batch_of()) is condition.none(4) is condition.drop(None, 0.5) is None
    assert torch.equal(condition(code, None), code)
    assert not condition.state_dict()


def test_a_class_adds_its_vector() -> None:
    condition, code = ClassCondition(3, 5), torch.randn(4, 5)
    rows = condition.of(batch_of())
    assert rows.tolist() == [0, 1, 2, 0]
    assert torch.equal(condition(code, rows), code + condition.weight[[0, 1, 2, 0]])
    assert torch.equal(condition(code, condition.none(4)), code + condition.weight[3])
    assert torch.equal(condition.drop(rows, 0.0), rows)
    torch.manual_seed(0)
    many = condition.drop(torch.arange(3).repeat(1000), 0.25)
    assert 0.22 < float((many == 3).float().mean()) < 0.28


def test_a_network_takes_any_condition() -> None:
    class Brightness(Condition):
        """The mean of an image, times a vector."""

        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.vector = torch.nn.Parameter(torch.ones(width))

        def forward(self, code: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
            assert rows is not None
            return code + rows[:, None] * self.vector

    torch.manual_seed(0)
    network = UNet(1, condition=Brightness, width=8, multiples=(1, 2), blocks=1, attention=(), groups=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([1, 3])
    dark, bright = (network(x, time, torch.tensor([value, value])) for value in (0.0, 2.0))
    assert not torch.allclose(dark, bright, atol=1e-3)
    bright.sum().backward()
    assert network.classes.vector.grad.abs().max() > 0
