"""Ensembles: classifiers that were trained apart answer together.

    p(c | image) = sum over members m of w_m softmax(s_m(image))_c        scores = log p

The mean of probabilities errs less than the members do in the mean, the more so the less they err together (Hansen
and Salamon 1990; Lakshminarayanan, Pritzel and Blundell 2016, arXiv:1612.01474). Members are runs, or checkpoints of
one run such as its best epochs (`--keep`). Their classes are matched by name.

Images are prepared once, as the member with the largest images has it unless image_size says otherwise; each member
then sees that same frame, squeezed or stretched to its own size, and normalises it as it was trained to.

Weights are equal, or those of greedy selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes 2004):
from none on, again and again add the member with which the mean answers best on the data of `fit`, and keep the round
that was best of all; w_m is how often m was taken. Its data should be new to the members: on images that they have
learned by heart they all look right.

Departs from Caruana et al.: no start from the best few members, no bags of them; accuracy decides, then likelihood.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foveal.classify.classifier import Scorer, label_indices
from foveal.errors import InputError, few
from foveal.structures import Batch
from foveal.system import Spec, System, evaluating, shown


@dataclass(frozen=True)
class EnsembleSpec(Spec):
    """
    members:   trained classifiers of the same classes: runs, checkpoints, or names whose weights a package brings.
    weighting: "equal", or "greedy" for selection on the training data.
    rounds:    how often greedy selection adds a member.
    """

    members: tuple[System, ...] = ()
    weighting: Literal["equal", "greedy"] = "equal"
    rounds: int = 25

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, not {self.rounds}")


class Ensemble(Scorer):
    """Learns at most its `weights` (M,): members stay as they are."""

    spec: EnsembleSpec
    weights: Tensor

    def __init__(self, spec: EnsembleSpec) -> None:
        super().__init__(spec)
        if not spec.members:
            raise InputError("an ensemble needs members: runs, checkpoints or systems")
        self.members = nn.ModuleList(spec.members)
        for number, member in enumerate(spec.members, 1):
            check_classes(member, number, self.labels)
        # For each member, where it has the classes of the ensemble.
        places = [{label: place for place, label in enumerate(member.labels)} for member in spec.members]
        self.orders = [[place[label] for label in self.labels] for place in places]
        self.register_buffer("weights", torch.full((len(spec.members),), 1 / len(spec.members)))

    def forward(self, images: Tensor) -> Tensor:
        mean = (self.weights[:, None, None] * self.probabilities(images)).sum(0)  # (M, B, C) -> (B, C)
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (M, B, C): what each member thinks, in the ensemble's order of classes."""
        scores = [member(shown(images, member)) for member in self.members]  # type: ignore[arg-type]
        return torch.stack([s.softmax(1)[:, order] for s, order in zip(scores, self.orders, strict=True)])

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D): those of the members, one after another."""
        return torch.cat([member.features(shown(images, member)) for member in self.members], 1)  # type: ignore

    def fit(self, data: Iterable[Batch]) -> None:
        if self.spec.weighting == "equal":
            return
        with evaluating(self):
            pairs = [(self.probabilities(batch.images.to(self.device)), label_indices(batch)) for batch in data]
        probabilities, truth = zip(*pairs, strict=True)
        self.weights.copy_(greedy(torch.cat(probabilities, 1), torch.cat(truth).to(self.device), self.spec.rounds))


def greedy(probabilities: Tensor, truth: Tensor, rounds: int) -> Tensor:
    """Of members' probabilities (M, N, C) and the right classes (N,): weights (M,) that sum to one."""
    total, counts = probabilities.new_zeros(probabilities.shape[1:]), torch.zeros(len(probabilities))
    best: tuple[float, float] | None = None
    for _ in range(rounds):
        sums = total + probabilities  # (M, N, C): with each member once more
        right = (sums.argmax(2) == truth).double().mean(1)
        own = sums.gather(2, truth.expand(len(sums), -1)[..., None])[..., 0] / (counts.sum() + 1)
        likelihood = own.double().clamp(min=torch.finfo(own.dtype).tiny).log().mean(1)
        figures = list(zip(right.tolist(), likelihood.tolist(), strict=True))
        taken = max(range(len(figures)), key=figures.__getitem__)
        total, counts[taken] = sums[taken], counts[taken] + 1
        if best is None or figures[taken] > best:
            best, chosen = figures[taken], counts / counts.sum()
    return chosen


def check_classes(member: System, number: int, labels: tuple[str, ...]) -> None:
    """InputError where a member does not name the classes of the ensemble."""
    name = f"member {number}, {member.started_from or member.name or type(member).__name__},"
    if not isinstance(member, Scorer):
        raise InputError(f"{name} is a system to {member.task}; an ensemble is of systems to classify")
    complaints = {
        "does not know": _without(labels, member.labels),
        "knows besides": _without(member.labels, labels),
    }
    found = [f"{what} {few(names, 6)}" for what, names in complaints.items() if names]
    if found:
        raise InputError(f"{name} has other classes than the ensemble: it {' and '.join(found)}")


def _without(labels: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    known = set(others)
    return [label for label in labels if label not in known]


VARIANTS = {"ensemble": EnsembleSpec()}
