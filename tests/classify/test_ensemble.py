import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.classify.ensemble import greedy
from foveal.train.config import TrainConfig
from tests.classify.test_neighbors import batch
from tests.toys import small_digits


def net(name: str = "lenet", seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    return foveal.create(name, **fields)


def test_mean_of_probabilities() -> None:
    one, two = net(), net("resnet_nano", 1)
    system = foveal.create("ensemble", members=(one, two))
    assert system.labels == one.labels
    assert system.preprocess == one.preprocess, "the one with the larger images"
    images = torch.rand(4, 3, 32, 32)
    small = torch.nn.functional.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
    mean = (one(images).softmax(1) + two(small).softmax(1)) / 2
    assert torch.allclose(system(images).softmax(1), mean, atol=1e-6)
    assert torch.allclose(system(images).exp(), mean, atol=1e-6)


def test_classes_go_by_name() -> None:
    one, two = net(labels=["a", "b", "c"]), net(seed=1, labels=["c", "a", "b"])
    images = torch.rand(2, 3, 32, 32)
    both = foveal.create("ensemble", members=(one, two))
    mean = (one(images).softmax(1) + two(images).softmax(1)[:, [1, 2, 0]]) / 2
    assert torch.allclose(both(images).softmax(1), mean, atol=1e-6)
    turned = foveal.create("ensemble", members=(one, two), labels=["b", "c", "a"])
    assert torch.allclose(turned(images), both(images)[:, [1, 2, 0]], atol=1e-6)


def test_what_cannot_be() -> None:
    one, other = net(labels=["a", "b"]), net(labels=["a", "d"])
    with pytest.raises(
        foveal.InputError, match=r"member 2, lenet, has other classes .* does not know b and knows besi"
    ):
        foveal.create("ensemble", members=(one, other))
    with pytest.raises(foveal.InputError, match="an ensemble needs members"):
        foveal.create("ensemble")
    with pytest.raises(foveal.InputError, match="takes systems, runs or checkpoints, not 3"):
        foveal.create("ensemble", members=(one, 3))


def test_greedy_selection_by_hand() -> None:
    right = torch.tensor([0, 0, 1, 1])
    # The first member is right on three images, the second on two, the third on the one where the first is not.
    members = torch.tensor([[0.9, 0.9, 0.9, 0.37], [0.9, 0.9, 0.1, 0.1], [0.2, 0.2, 0.2, 0.9]])
    probabilities = torch.where(right == 0, members, 1 - members)
    probabilities = torch.stack([probabilities, 1 - probabilities], 2)
    weights = greedy(probabilities, right, 2)
    assert weights.tolist() == [0.5, 0, 0.5]
    # With one round the best one alone; no round more may make it worse.
    assert greedy(probabilities, right, 1).tolist() == [1, 0, 0]
    mean = (greedy(probabilities, right, 30)[:, None, None] * probabilities).sum(0)
    assert (mean.argmax(1) == right).all()


def test_greedy_selection_leaves_out_who_knows_nothing() -> None:
    data = small_digits().select("train")
    knows = foveal.create("knn", k=3)
    images = torch.stack([knows.preprocess.apply(image) for image, _ in (data[i] for i in range(len(data)))]) / 255
    classes = [int(data.target(i).label) for i in range(len(data))]  # type: ignore
    knows.fit([batch(images, classes)])
    system = foveal.create("ensemble", members=(net(), knows), weighting="greedy")
    members = {name: value.clone() for name, value in system.members.state_dict().items()}
    system.fit([batch(images, classes)])
    assert float(system.weights[1]) > 0.9
    assert float(system.weights.sum()) == pytest.approx(1)
    assert all(torch.equal(value, members[name]) for name, value in system.members.state_dict().items())


def test_is_kept_and_used_like_any_system(tmp_path: Path) -> None:
    data, paths = small_digits(), []
    for seed in range(2):
        run = foveal.train(
            net("linear_softmax", seed), data, TrainConfig(epochs=2, out=f"{tmp_path}/{seed}", seed=seed)
        )
        paths.append(str(run.directory))
    system = foveal.create("ensemble", members=paths)
    assert system.started_from == ", ".join(paths)
    run = foveal.train(system, data, TrainConfig(out=str(tmp_path / "both"), quiet=True))
    record = json.loads((run.directory / "run.json").read_text())
    assert [member["name"] for member in record["variant"]["members"]] == ["linear_softmax"] * 2
    figures = foveal.evaluate(system, data)
    for path in paths:
        Path(path, "best.safetensors").unlink()
    loaded = foveal.load(run.directory)
    assert foveal.evaluate(loaded, data) == figures
    assert foveal.explain(loaded, data.image(0), "occlusion").heat.shape == (8, 8)
    assert foveal.explain(loaded, data.image(0), "saliency").heat.shape == (8, 8)


def test_features_are_those_of_all_members() -> None:
    one, two = net(), net("resnet_nano")
    system = foveal.create("ensemble", members=(one, two))
    images = torch.rand(2, 3, 32, 32)
    assert system.features(images).shape[1] == one.features(images).shape[1] + two.features(images).shape[1]
    neighbours = foveal.create("knn", features=system)
    assert neighbours.vectors(images).shape == system.features(images).shape
