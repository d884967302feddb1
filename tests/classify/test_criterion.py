"""The loss of a classifier is a choice, the same for every family."""

from typing import Any

import pytest
import torch

import foveal
from foveal.classify.classifier import CRITERIA, Classifier, ClassifierSpec
from foveal.errors import InputError
from foveal.losses.classification import cross_entropy
from foveal.structures import Batch, Label
from foveal.system import Preprocess, Spec

NAMES = [name for name in foveal.names("classify") if name.endswith("_nano")] + ["lenet", "linear_softmax"]


def batch_for(system: Any) -> Batch:
    images = torch.rand(3, 3, *system.preprocess.size, generator=torch.Generator().manual_seed(0))
    batch = system.preprocess.batch(list(images))
    return Batch(batch.images, tuple(Label(torch.tensor(i)) for i in (4, 0, 9)), *list(vars(batch).values())[2:])


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(foveal.catalog.variant(n), ClassifierSpec)])
def test_the_loss_is_the_one_that_is_named(name: str, criterion: str) -> None:
    torch.manual_seed(0)
    system = foveal.create(name, criterion=criterion)
    for parameter in system.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = batch_for(system)
    target = torch.nn.functional.one_hot(torch.tensor([4, 0, 9]), 10).float()
    heads = system.heads(batch.images)
    trained = [scores for head, scores in heads.items() if head != "class"] if name == "deit_nano" else [heads["class"]]
    expected = sum(CRITERIA[criterion](scores, target) for scores in trained) / len(trained)
    torch.testing.assert_close(system.loss(batch)["class"], expected)


def test_the_two_linear_classifiers_differ_in_it_alone() -> None:
    assert foveal.create("linear_softmax").spec.criterion == "cross_entropy"
    assert foveal.create("linear_svm").spec.criterion == "hinge"


def test_an_unknown_one_is_told() -> None:
    with pytest.raises(InputError, match="resnet_nano has no criterion 'hinges'; did you mean hinge"):
        foveal.create("resnet_nano", criterion="hinges")


def test_a_function_of_ones_own() -> None:
    class Means(Classifier):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.normalize(images).mean((2, 3))

    spec = Spec(("red", "green", "blue"), Preprocess((4, 4), "squash"))
    assert Means(spec).criterion is cross_entropy
    own = Means(spec, lambda scores, target: 7 * (scores * target).sum())
    batch = batch_for(own)
    batch = Batch(batch.images, tuple(Label(torch.tensor(i)) for i in (0, 1, 2)), *list(vars(batch).values())[2:])
    torch.testing.assert_close(own.loss(batch)["class"], 7 * own(batch.images).trace())


@pytest.mark.parametrize("criterion", ["logistic", "hinge", "squared_error"])
def test_a_network_learns_by_each(criterion: str, small_digits: Any) -> None:
    system = foveal.create("lenet", image_size=16, criterion=criterion)

    def objective(system: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return system.criterion(system(images), torch.nn.functional.one_hot(labels, 10).float())

    assert small_digits(system, 12, 0.005, objective) > 0.9
