import pytest
import torch

from foveal.errors import InputError
from foveal.nn.stochastic_depth import StochasticDepth, linear_rule

from ..parity.compare import oracle


@pytest.mark.parametrize("shape", [(64, 3), (64, 2, 3), (64, 4, 5, 5)])
def test_training_equals_torchvision_draw_for_draw(shape):
    ops = oracle("torchvision.ops")
    x = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(7)
    expected = ops.stochastic_depth(x, 0.3, "row", training=True)
    torch.manual_seed(7)
    torch.testing.assert_close(StochasticDepth(0.3).train()(x), expected, rtol=1e-14, atol=0)
    assert 0 < (expected.flatten(1) == 0).all(1).sum() < 64


def test_a_branch_is_left_out_whole_and_its_expectation_stays():
    torch.manual_seed(0)
    out = StochasticDepth(0.25).train()(torch.ones(40_000, 2, 3))
    assert out.unique().tolist() == [0, pytest.approx(1 / 0.75)]
    assert torch.equal(out.amax((1, 2)), out.amin((1, 2)))
    # The standard deviation of the mean is 0.0029.
    assert out.mean().item() == pytest.approx(1, abs=0.015)


def test_nothing_is_left_out_in_evaluation_or_with_probability_zero():
    x = torch.randn(8, 3)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_a_probability_must_leave_something(probability):
    with pytest.raises(InputError, match="drop probability"):
        StochasticDepth(probability)


def test_the_linear_rule_ends_at_the_last_probability():
    assert linear_rule(0.5, 4) == [0.125, 0.25, 0.375, 0.5]
