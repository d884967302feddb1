import math
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.classify.neighbors import vote
from foveal.structures import Batch, Label
from foveal.train.config import TrainConfig
from tests.toys import small_digits


def batch(images: torch.Tensor, classes: list[int]) -> Batch:
    empty = torch.zeros(0)
    return Batch(images, tuple(Label(torch.tensor(c)) for c in classes), empty, empty, empty)


def test_votes_by_hand() -> None:
    classes = torch.tensor([[2, 0, 0, 1]])
    assert vote(torch.tensor([[1.0, 2.0, 4.0, 4.0]]), classes, 3, "uniform").tolist() == [[0.5, 0.25, 0.25]]
    assert vote(torch.tensor([[1.0, 2.0, 4.0, 4.0]]), classes, 3, "distance").tolist() == [[0.375, 0.125, 0.5]]
    # Who is at no distance decides alone.
    assert vote(torch.tensor([[0.0, 0.0, 1.0, 2.0]]), classes, 3, "distance").tolist() == [[0.5, 0, 0.5]]


def test_of_equal_shares_the_first_class_is_named() -> None:
    system = foveal.create("knn", labels=["a", "b", "c"], k=2, image_size=1)
    levels = torch.tensor([0.1, 0.3, 0.9])
    system.fit([batch(levels.view(3, 1, 1, 1).expand(-1, 3, -1, -1), [2, 1, 0])])
    assert system(torch.full((1, 3, 1, 1), 0.2)).argmax(1).tolist() == [1]
    assert system(torch.full((1, 3, 1, 1), 0.2)).softmax(1)[0].tolist() == pytest.approx([0, 0.5, 0.5])


@pytest.mark.parametrize("name", ["knn", "pca"])
def test_learns_digits(name: str, tmp_path: Path) -> None:
    system = foveal.create(name, image_size=8)
    foveal.train(system, foveal.load_dataset("digits"), TrainConfig(out=str(tmp_path / "run"), quiet=True))
    assert foveal.evaluate(system, foveal.load_dataset("digits"))["accuracy"] > 0.98


def test_features_of_another_system_are_part_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, data = foveal.create("resnet_nano"), small_digits()
    system = foveal.create("knn", features=net, k=3)
    assert system.preprocess == net.preprocess
    foveal.train(system, data, TrainConfig(out=str(tmp_path / "run"), quiet=True))
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(system.features(images), net.features(images))
    before = system(images)
    assert torch.equal(before, system.train()(images)), "what another system was trained to does not change"
    assert system.training
    assert not net.training
    del net
    loaded = foveal.load(tmp_path / "run")
    assert torch.equal(loaded(images), before)
    assert loaded.extractor.name == "resnet_nano"


def test_features_see_images_at_their_own_size() -> None:
    small = foveal.create("resnet_nano")
    system = foveal.create("knn", features=small, image_size=32)
    assert system.preprocess.size == (32, 32)
    image = torch.rand(1, 3, 16, 16).repeat_interleave(2, 2).repeat_interleave(2, 3)
    direct = small.features(torch.nn.functional.interpolate(image, size=(16, 16), mode="bilinear", antialias=True))
    assert torch.allclose(system.features(image), direct, atol=1e-5)


def test_what_cannot_be() -> None:
    for fields, text in [({"k": 0}, "k must"), ({"distance": "l3"}, "no distance 'l3'")]:
        with pytest.raises(foveal.InputError, match=text):
            foveal.create("knn", **fields)
    system = foveal.create("knn", image_size=2)
    with pytest.raises(foveal.InputError, match="knows no images; train it first"):
        system(torch.rand(1, 3, 2, 2))
    with pytest.raises(foveal.InputError, match="5 neighbours are more than the 2 training images"):
        system.fit([batch(torch.rand(2, 3, 2, 2), [0, 1])])
    system.fit([batch(torch.rand(5, 3, 2, 2), [0, 1, 2, 3, 4])])
    with pytest.raises(foveal.InputError, match="occlusion needs none"):
        foveal.explain(system, torch.rand(3, 4, 4), "saliency")
    assert math.isfinite(float(foveal.explain(system, torch.rand(3, 4, 4), "occlusion").score))


@pytest.mark.parametrize("name", ["linear_softmax", "lenet", "vgg_nano", "googlenet_nano", "resnet_nano", "vit_nano"])
def test_features_are_what_the_classifier_reads(name: str) -> None:
    system: Any = foveal.create(name)
    images = torch.rand(2, 3, *system.preprocess.size)
    features = system.features(images)
    classifier = system.classifier
    last = classifier if isinstance(classifier, torch.nn.Linear) else [*classifier.children()][-1]
    assert torch.allclose(last(features), system(images), atol=1e-5)


def test_features_of_a_fitted_system() -> None:
    inner = foveal.create("neocognitron", planes=(4, 6, 8))
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inner.fit([batch(images, [n % 10 for n in range(20)])])
    system = foveal.create("knn", features=inner, k=1)
    system.fit([batch(images, [n % 10 for n in range(20)])])
    assert system.features(images).shape == (20, 8)
    assert system(images).shape == (20, 10)
