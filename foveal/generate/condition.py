"""Conditions: objects that embed what an image is to show. A diffusion model and its network use the methods of
`Condition` alone."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foveal.structures import Batch


class Condition(nn.Module):
    """No condition, and the base of the others.

    A condition turns a batch into rows, one an image, and adds the embedding of rows to a network's code of the time.
    Without a condition, rows are None. A subclass takes the width of that code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

    def of(self, batch: Batch) -> Tensor | None:
        """The rows of the images of a batch, (B, ...)."""
        return None

    def none(self, count: int) -> Tensor | None:
        """The rows of so many images whose condition the network is not given."""
        return None

    def drop(self, rows: Tensor | None, share: float) -> Tensor | None:
        """The rows, each replaced by that of `none` with this probability."""
        return rows

    def forward(self, code: Tensor, rows: Tensor | None) -> Tensor:
        """Codes of the time (B, width) and rows -> (B, width)."""
        return code


class ClassCondition(Condition):
    """The class of an image: one learned vector each, and a last one for no class.

    weight: (classes + 1, width). Rows are class indices (B,) int64.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(width)
        self.weight = nn.Parameter(torch.empty(classes + 1, width))
        nn.init.normal_(self.weight)

    def of(self, batch: Batch) -> Tensor:
        return torch.stack([target.label for target in batch.targets])

    def none(self, count: int) -> Tensor:
        return torch.full((count,), len(self.weight) - 1, device=self.weight.device)

    def drop(self, rows: Tensor | None, share: float) -> Tensor | None:
        assert rows is not None
        dropped = (torch.rand(len(rows)) < share).to(rows.device)
        return torch.where(dropped, len(self.weight) - 1, rows)

    def forward(self, code: Tensor, rows: Tensor | None) -> Tensor:
        assert rows is not None
        return code + embedding(rows, self.weight)
