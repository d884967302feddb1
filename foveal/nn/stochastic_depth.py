"""Stochastic depth: Huang, Sun, Liu, Sedra and Weinberger 2016, arXiv:1603.09382.

In training a residual branch is left out for some of the images, so that a deep network learns as a crowd of shallower
ones. Departs from the paper in one thing that changes no expectation: the branches that stay are divided by their
probability in training, where the paper multiplies all of them by it in testing.
"""

from torch import Tensor, nn

from foveal.errors import InputError


class StochasticDepth(nn.Module):
    """In training x * b / (1 - probability) with b = 0 for a share `probability` of the images, else 1; else x."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise InputError(f"the drop probability of a branch must be at least 0 and below 1, not {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep)  # (B, 1, ..., 1): one draw an image
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def linear_rule(last: float, depth: int) -> list[float]:
    """The drop probability of each of `depth` blocks, p_l = (l / L) p_L: all that follows needs the early features."""
    return [last * (block + 1) / depth for block in range(depth)]
