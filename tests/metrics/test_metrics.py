from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from foveal.metrics.classify import ClassifyEvaluator
from foveal.metrics.loss import LossEvaluator
from foveal.structures import Batch, Label


class Fixed:
    """A system that gives the scores it is shown."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def can(self, verb: str) -> bool:
        return verb == "loss"

    def heads(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"class": images}

    def losses(self, heads: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        return {"one": heads["class"].mean(), "two": heads["class"].square().mean()}

    def decode(self, scores: torch.Tensor, batch: Batch) -> list[Label]:
        return [Label(row.argmax()) for row in scores]

    def loss(self, batch: Batch, player: str) -> dict[str, torch.Tensor]:
        return {"term": batch.images.mean() * (2 if player == "b" else 1)}


def batches(scores: torch.Tensor, truth: torch.Tensor) -> Any:
    for rows, labels in zip(scores.split(7), truth.split(7), strict=True):
        none = torch.zeros(len(rows))
        yield Batch(rows, (), none, none, none), [Label(label) for label in labels]


def test_classification_figures_are_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, truth = torch.randn(50, 8, generator=draw), torch.randint(0, 7, (50,), generator=draw)  # class 7 is absent
    evaluator = ClassifyEvaluator(8)
    for batch, labels in batches(scores, truth):
        evaluator.update(Fixed(), batch, labels)
    figures, predicted = evaluator.compute(), scores.argmax(1)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert figures["top5"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=np.arange(8)))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert np.array_equal(evaluator.confusion, confusion_matrix(truth, predicted, labels=np.arange(8)))
    assert figures["loss"] == pytest.approx(float(scores.mean() + scores.square().mean()), rel=1e-5)


def test_figures_of_each_class_are_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, truth = torch.randn(50, 8, generator=draw), torch.randint(0, 7, (50,), generator=draw)  # class 7 is absent
    scores[:, 6] -= 100  # and class 6 never predicted
    evaluator = ClassifyEvaluator(8)
    for batch, labels in batches(scores, truth):
        evaluator.update(Fixed(), batch, labels)
    rows, predicted = evaluator.per_class(), scores.argmax(1)
    recalls = recall_score(truth, predicted, labels=range(7), average=None)
    assert [row["recall"] for row in rows[:7]] == pytest.approx(recalls.tolist())
    precisions = precision_score(truth, predicted, labels=range(6), average=None)
    assert [row["precision"] for row in rows[:6]] == pytest.approx(precisions.tolist())
    assert ("precision" in rows[6], "recall" in rows[7], rows[7]["images"]) == (False, False, 0)


def test_few_classes_have_no_top5() -> None:
    evaluator = ClassifyEvaluator(5)
    for batch, labels in batches(torch.eye(5), torch.arange(5)):
        evaluator.update(Fixed(), batch, labels)
    assert set(evaluator.compute()) == {"accuracy", "balanced_accuracy", "loss"}
    assert evaluator.compute()["accuracy"] == 1


def test_losses_as_figures() -> None:
    values = torch.rand(20, 3)
    for players, names in ((("system",), {"term", "loss"}), (("a", "b"), {"a_term", "a_loss", "b_term", "b_loss"})):
        evaluator = LossEvaluator(players)
        for batch, labels in batches(values, torch.zeros(20)):
            evaluator.update(Fixed(), batch, labels)
        figures = evaluator.compute()
        assert set(figures) == names
        assert figures[min(names)] == pytest.approx(float(values.mean()), rel=1e-5)
        assert evaluator.criteria == ((("loss", "min"),) if len(players) == 1 else ())
    assert figures["b_loss"] == pytest.approx(2 * figures["a_loss"])


@pytest.mark.parametrize("make", [lambda: ClassifyEvaluator(8), lambda: LossEvaluator(("a", "b"))])
def test_merged_evaluators_have_seen_it_all(make: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    scores, truth = torch.randn(50, 8, generator=draw), torch.randint(0, 8, (50,), generator=draw)
    whole, parts = make(), [make(), make(), make()]  # the last of them sees nothing
    for number, (batch, labels) in enumerate(batches(scores, truth)):
        whole.update(Fixed(), batch, labels)
        parts[number % 2].update(Fixed(), batch, labels)
    merged, *others = parts
    for other in others:
        merged.merge(other)
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)
