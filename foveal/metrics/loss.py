"""The losses of a system as its figures, for tasks without a truth to compare with."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from foveal.structures import Batch, Target


class LossEvaluator:
    """The mean over the images of each loss term, and of their sum as `loss`. With several players each term and sum
    carries the player's name, and none tells the best epoch: one player's gain is the other's loss.

    perplexity: of a system with a codebook, e to the entropy of how often each code is used: how many there would be if
                all were used alike.
    """

    def __init__(self, players: tuple[str, ...]) -> None:
        self.players = players
        self.criteria: tuple[tuple[str, str], ...] = (("loss", "min"),) if len(players) == 1 else ()
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0
        self.codes: Tensor | int = 0  # how often each was used

    def asks(self, truth: Target | None) -> bool:
        return True

    def update(self, system: Any, batch: Batch, truths: Sequence[Target]) -> None:
        for player in self.players:
            prefix = f"{player}_" if len(self.players) > 1 else ""
            terms = system.loss(batch, player)
            for name, value in [*terms.items(), ("loss", sum(terms.values()))]:
                self.sums[prefix + name] += float(value) * len(batch)
        self.count += len(batch)
        if system.can("code_usage"):
            self.codes = self.codes + system.code_usage(batch.images).cpu()

    def merge(self, other: Self) -> None:
        for name, total in other.sums.items():
            self.sums[name] += total
        self.count += other.count
        self.codes = self.codes + other.codes

    def per_class(self) -> list[dict[str, float]]:
        return []

    def basis(self) -> dict[str, tuple[int, str]]:
        return {}

    def compute(self) -> dict[str, float]:
        figures = {name: total / self.count for name, total in self.sums.items()}
        if isinstance(self.codes, Tensor):
            figures["perplexity"] = float(torch.special.entr(self.codes / self.codes.sum()).sum().exp())
        return figures
