"""What all classifiers share: class scores in, a loss, a label and an explainable score out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.losses.classification import cross_entropy, distillation, hinge, logistic, squared_error
from foveal.structures import Batch, Label
from foveal.system import Spec, System

Criterion = Callable[[Tensor, Tensor], Tensor]

CRITERIA: dict[str, Criterion] = {
    "cross_entropy": cross_entropy,
    "logistic": logistic,
    "hinge": hinge,
    "squared_error": squared_error,
}


@dataclass(frozen=True)
class ClassifierSpec(Spec):
    """
    criterion: what is minimised: softmax cross-entropy, a logistic loss for each class, the hinge loss of support
               vector machines, or the squared distance from a one for the class and zeros for the others.
    """

    criterion: Literal["cross_entropy", "logistic", "hinge", "squared_error"] = field(
        default="cross_entropy", kw_only=True
    )


class Scorer(System):
    """A system whose `forward` gives one score for each class, (B, C), before any softmax. As it stands, the base of
    classifiers that have a `fit` of their own."""

    answers = Label

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> the scores of all that is trained, each (B, C); under "class" those that `forward` gives."""
        return {"class": self(images)}

    def decode(self, outputs: Tensor, batch: Batch) -> list[Label]:
        probabilities = outputs.float().softmax(1)
        # The class is read off the scores: two probabilities can round to one number, two scores rarely do.
        return [Label(index, row) for index, row in zip(outputs.argmax(1), probabilities, strict=True)]

    def score(self, images: Tensor, target: str | Label) -> Tensor:
        """The unnormalised score of one class for each image."""
        index = self._index_of(target)  # first, since a wrong name is told before anything is computed
        return self(images)[:, index]

    def confidence(self, images: Tensor, target: str | Label) -> Tensor:
        """The probability of one class for each image, as `decode` has it."""
        index = self._index_of(target)
        return self(images).float().softmax(1)[:, index]

    def _index_of(self, target: str | Label) -> int:
        return self.index(target) if isinstance(target, str) else int(target.label)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D): what this system knows of an image before it names a class.

        That is what enters the last layer of weights with a row for each class, the mean over places if it is a map.
        """
        entered: list[Tensor] = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entered[:] = inputs[:1]  # that of the layer that runs last

        rows = len(self.labels)
        layers = [m for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d) and len(m.weight) == rows]
        handles = [layer.register_forward_pre_hook(note) for layer in layers]
        try:
            self(images)
        finally:
            for handle in handles:
                handle.remove()
        if not entered:
            raise self._cannot("give features: no layer of it has a row of weights for each class")
        return entered[0].flatten(2).mean(2) if entered[0].ndim > 2 else entered[0]

    def check_smallest(self, size: Sequence[int], side: int) -> None:
        """InputError where images of `size` (height, width) are not at least `side` pixels high and wide."""
        if min(size) < side:
            name = self.name or type(self).__name__.lower()
            raise InputError(
                f"{name} takes images of {side} x {side} pixels or more, not {size[0]} x {size[1]}; "
                "image_size sets the size that images are brought to"
            )

    def check_exact(self, size: Sequence[int]) -> None:
        """InputError where images of `size` (height, width) are not of the one size that this system is made for."""
        own = self.preprocess.size
        if tuple(size) != own:
            raise InputError(
                f"{self.name or type(self).__name__.lower()} takes images of {own[0]} x {own[1]} pixels, not "
                f"{size[0]} x {size[1]}; foveal.create makes one for another size with image_size=..."
            )


@dataclass(frozen=True)
class Teaching:
    """How a classifier learns from what a teacher says of its images.

    way:         "soft": from all its probabilities (Hinton et al. 2015, arXiv:1503.02531); "hard": from its answer, the
                 most probable class (DeiT, Touvron et al. 2020, arXiv:2012.12877).
    temperature: T of the soft way, see `distillation`.
    weight:      of the teacher in the loss; the labels have the rest.
    """

    way: Literal["soft", "hard"] = "soft"
    temperature: float = 3.0
    weight: float = 0.5

    def loss(self, scores: Tensor, teacher: Tensor) -> Tensor:
        """Scores (B, C) of the student and the teacher -> scalar, not yet weighted."""
        if self.way == "soft":
            return distillation(scores, teacher, self.temperature)
        answer = torch.nn.functional.one_hot(teacher.argmax(1), scores.shape[1])
        return cross_entropy(scores, answer.to(scores))


class Classifier(Scorer):
    """A scorer that learns by the gradient of a loss of its scores.

    criterion: (scores (B, C), target weights (B, C)) -> scalar, as the functions in losses/classification.py; default
               the one that the spec names, and cross-entropy for a spec that says nothing of it.
    taught:    the one of its heads that learns from a teacher, where there is one.
    teaching:  how it does.
    """

    taught: ClassVar[str] = "class"

    def __init__(self, spec: Spec, criterion: Criterion | None = None) -> None:
        super().__init__(spec)
        named = spec.criterion if isinstance(spec, ClassifierSpec) else "cross_entropy"
        self.criterion = criterion or CRITERIA[named]
        self.teaching = Teaching()

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """The terms of `losses`; where a teacher has spoken of the batch they leave room for one more, "distill"."""
        heads = self.heads(batch.images)
        terms = self.losses(heads, batch)
        if batch.targets[0].teacher is None:
            return terms
        scores, weight = heads[self.taught], self.teaching.weight
        teacher = torch.stack([target.teacher for target in batch.targets]).to(scores)
        distill = self.teaching.loss(scores, teacher)
        return {**{name: (1 - weight) * term for name, term in terms.items()}, "distill": weight * distill}

    def losses(self, heads: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by the labels, from the scores that `heads` gave."""
        return {"class": self.criterion(heads["class"], target_weights(batch.targets, heads["class"]))}


def last(maps: Iterator[Tensor]) -> Tensor:
    """The last of some maps; none of the others is kept."""
    x = next(maps)
    for following in maps:
        x = following
    return x


def target_weights(targets: Sequence[Label], like: Tensor) -> Tensor:
    """Labels as rows of class weights (B, C) of the type of `like`."""
    if targets[0].scores is not None:
        return torch.stack([target.scores for target in targets]).to(like)  # type: ignore[misc]
    index = torch.stack([target.label for target in targets])
    return torch.nn.functional.one_hot(index, like.shape[1]).to(like)


def label_indices(batch: Batch) -> Tensor:
    """(B,) int64: where the class of each image of a batch stands."""
    return torch.stack([target.label for target in batch.targets])


def templates(spec: Spec) -> nn.Linear:
    """Scores linear in the pixels, (B, D) -> (B, C): all zero, since what is linear has no symmetry to break."""
    height, width = spec.preprocess.size
    layer = nn.Linear(spec.preprocess.channels * height * width, len(spec.labels))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def template_pictures(weight: Tensor, system: System) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """What `System.pictures` returns, for scores linear in the pixels of weight (C, D): the template of each class.

    Mid-grey is zero; all have one scale.
    """
    templates = weight.detach().float().view(-1, system.preprocess.channels, *system.preprocess.size)
    templates = 0.5 + templates / (2 * templates.abs().max().clamp(min=1e-12))
    return {"class templates": (templates.expand(-1, 3, -1, -1), system.labels)}


def filter_pictures(weight: Tensor) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """What `System.pictures` returns, for a first convolution's weight (N, 1 or 3, h, w): its filters.

    Mid-grey is zero; each filter has its own scale.
    """
    weight = weight.detach().float()
    filters = 0.5 + weight / (2 * weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
    return {"first filters": (filters.expand(-1, 3, -1, -1), tuple(str(n) for n in range(len(filters))))}
