"""How good a system is that makes images: its losses, how probable it holds real ones, what a judge says of its own."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from foveal.metrics.loss import LossEvaluator
from foveal.metrics.samples import frechet_distance, precision_recall
from foveal.structures import Batch

AT_ONCE = 64  # images
Sampler = Callable[[int, torch.Generator, Sequence[str] | None], Tensor]


class GenerateEvaluator(LossEvaluator):
    """Beside the losses, where the system can tell, `bits_per_dim`: what it takes to write down a channel of a pixel by
    the system's probabilities. With a judge, figures of as many made images as real ones were seen:

    frechet:   distance of the judge's features of both (metrics/samples.py).
    precision, recall: of these features.
    diversity: entropy of the judge's answers over all made images, as a share of the highest there is.
    agreement: mean probability that the judge gives to the class that was asked for, of a conditional system.

    system: the one that is measured.
    judge:  a classifier, in evaluation mode; None for none.
    sample: (how many, generator, labels or None) -> images; default the system's own `sample` as it is.
    seed:   where the randomness of made images, and of estimates, comes from.
    """

    def __init__(self, system: Any, judge: Any = None, sample: Sampler | None = None, seed: int = 0) -> None:
        super().__init__(tuple(system.players))
        self.system, self.judge = system, judge
        self.sample = sample or self._sample
        self.generator = torch.Generator().manual_seed(seed)
        self.real: list[Tensor] = []
        self.agreements: list[dict[str, float]] = []

    def update(self, system: Any, batch: Batch, truths: Sequence[Any]) -> None:
        super().update(system, batch, truths)
        if system.can("log_likelihood"):
            bits = system.log_likelihood(batch, generator=self.generator) / (-math.prod(system.shape) * math.log(2))
            self.sums["bits_per_dim"] += float(bits.sum())
        if self.judge:
            self.real.append(self.judge.features(self._seen(batch.images)).cpu())

    def merge(self, other: Self) -> None:
        super().merge(other)
        self.real += other.real

    def compute(self) -> dict[str, float]:
        figures = super().compute()
        if self.judge and self.system.can("sample"):
            figures |= self._judged()
        return figures

    def per_class(self) -> list[dict[str, float]]:
        """Of a conditional system with a judge, after `compute`: images, how many were made of a class; agreement."""
        return self.agreements

    def _judged(self) -> dict[str, float]:
        """The figures of made images."""
        features, answers = [], []
        asked = (
            [self.system.labels[i % len(self.system.labels)] for i in range(self.count)] if self.system.labels else []
        )
        for start in range(0, self.count, AT_ONCE):
            labels = asked[start : start + AT_ONCE] or None
            seen = self._seen(self.sample(min(AT_ONCE, self.count - start), self.generator, labels))
            features.append(self.judge.features(seen).cpu())
            answers.append(self.judge(seen).float().softmax(1).cpu())
        real, made, named = torch.cat(self.real), torch.cat(features), torch.cat(answers)
        precision, recall = precision_recall(real, made)
        figures = {"frechet": frechet_distance(real, made), "precision": precision, "recall": recall}
        figures["diversity"] = float(torch.special.entr(named.mean(0)).sum()) / math.log(named.shape[1])
        if asked and set(asked) <= set(self.judge.labels):
            index = torch.tensor([self.judge.index(label) for label in asked])
            agreement = named.gather(1, index[:, None])[:, 0]
            figures["agreement"] = float(agreement.mean())
            # Classes take turns, so that those of each stand len(labels) apart.
            own = [agreement[number :: len(self.system.labels)] for number in range(len(self.system.labels))]
            self.agreements = [
                {"images": len(values), **({"agreement": float(values.mean())} if len(values) else {})}
                for values in own
            ]
        return figures

    def _sample(self, n: int, generator: torch.Generator, labels: Sequence[str] | None) -> Tensor:
        asked = {} if labels is None else {"labels": labels}
        return self.system.sample(n, generator=generator, **asked)

    def _seen(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] as the judge takes them."""
        return self.judge.preprocess.batch(list(images)).images.to(self.judge.device)
