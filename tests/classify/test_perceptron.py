"""The perceptron beside scikit-learn's, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Perceptron as Reference

import foveal
from foveal.classify.classifier import label_indices
from foveal.classify.perceptron import correct_errors
from foveal.data.builtin import digits
from foveal.structures import Label
from foveal.train.config import TrainConfig


def learned(inputs: torch.Tensor, labels: torch.Tensor, classes: int, passes: int, eta: float = 1.0):
    weight, bias = torch.zeros(classes, inputs.shape[1]).double(), torch.zeros(classes).double()
    errors = [correct_errors(weight, bias, inputs, labels, eta) for _ in range(passes)]
    return weight, bias, errors


@pytest.mark.parametrize("passes", [1, 7])
@pytest.mark.parametrize("scale", [1.0, 1 / 3])  # whole numbers, and such as have to be rounded
def test_ten_classes_equal_scikit_learn(passes: int, scale: float) -> None:
    pixels, labels = load_digits(return_X_y=True)
    pixels *= scale
    weight, bias, _ = learned(torch.tensor(pixels), torch.tensor(labels), 10, passes)
    reference = Reference(shuffle=False, tol=None, max_iter=passes, eta0=1).fit(pixels, labels)
    assert np.array_equal(weight.numpy(), reference.coef_)
    assert np.array_equal(bias.numpy(), reference.intercept_)


def test_two_classes_are_one_plane_seen_from_both_sides() -> None:
    pixels, labels = load_digits(return_X_y=True)
    labels = (labels % 2).astype(int)
    weight, bias, _ = learned(torch.tensor(pixels), torch.tensor(labels), 2, 5, eta=0.25)
    reference = Reference(shuffle=False, tol=None, max_iter=5, eta0=0.25).fit(pixels, labels)
    assert np.array_equal(weight[1:].numpy(), reference.coef_)
    assert np.array_equal(bias[1:].numpy(), reference.intercept_)
    assert torch.equal(weight[0], -weight[1])


def test_errors_end_where_planes_part_the_classes() -> None:
    pixels, labels = load_digits(n_class=2, return_X_y=True)
    _, _, errors = learned(torch.tensor(pixels), torch.tensor(labels), 2, 20)
    assert errors[0] > 0 == errors[-1]


def test_the_system_equals_scikit_learn_on_what_it_sees(tmp_path: Path) -> None:
    system, data = foveal.create("perceptron", image_size=8, passes=3), digits()
    run = foveal.train(system, data, TrainConfig(out=str(tmp_path / "run"), quiet=True, batch_size=100))
    train_set = data.select("train")
    batch = system.preprocess.batch([train_set.image(i) for i in range(len(train_set))])
    pixels = system.normalize(batch.images).flatten(1).double().numpy()
    labels = [int(train_set.target(i).label) for i in range(len(train_set))]
    reference = Reference(shuffle=False, tol=None, max_iter=3, eta0=1).fit(pixels, labels)
    assert np.array_equal(system.classifier.weight.detach().numpy(), reference.coef_.astype(np.float32))
    assert np.array_equal(system.classifier.bias.detach().numpy(), reference.intercept_.astype(np.float32))
    assert run.record["result"]["accuracy"] > 0.88

    ((title, (pictures, captions)),) = system.pictures().items()
    assert (title, pictures.shape, captions) == ("class templates", (10, 3, 8, 8), system.labels)


def test_a_pass_without_an_error_is_the_last() -> None:
    system = foveal.create("perceptron", labels=("dark", "bright"), image_size=4, passes=1000)
    batch = system.preprocess.batch([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    targets = tuple(Label(torch.tensor(i)) for i in range(2))
    seen = []

    class Counted:
        def __iter__(self):
            seen.append(1)
            return iter([type(batch)(batch.images, targets, batch.indices, batch.affines, batch.sizes)])

    system.fit(Counted())
    assert len(seen) < 5
    assert system(batch.images).argmax(1).tolist() == [0, 1]
    assert label_indices(next(iter(Counted()))).tolist() == [0, 1]


@pytest.mark.parametrize("fields", [{"eta0": 0.0}, {"passes": 0}])
def test_settings_that_cannot_be(fields: dict) -> None:
    with pytest.raises(foveal.InputError, match="eta0 is above 0 and passes at least 1"):
        foveal.create("perceptron", **fields)


@pytest.mark.parametrize("name", ["perceptron", "linear_softmax"])
def test_images_of_another_size(name: str) -> None:
    with pytest.raises(foveal.InputError, match=f"{name} takes images of 32 x 32 pixels, not 20 x 32"):
        foveal.create(name)(torch.rand(2, 3, 20, 32))
