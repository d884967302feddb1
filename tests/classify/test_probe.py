"""Classifiers on the maps of other systems."""

from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.classify.backbone import Backbone
from foveal.train.config import TrainConfig
from tests.test_systems_of_systems import save
from tests.toys import small_digits


def autoencoder(**fields: Any) -> Any:
    torch.manual_seed(0)
    return foveal.create("autoencoder_nano", **{"latent": 6, "width": 4} | fields)


@pytest.mark.parametrize("hidden", [0, 7])
def test_scores_are_linear_in_the_map_or_go_through_one_layer(hidden: int) -> None:
    probe = foveal.create("probe_nano", backbone=autoencoder(), hidden=hidden)
    images = torch.rand(3, 3, 8, 8)
    *_, last = autoencoder().maps(probe.normalize(images))
    x = last.flatten(1)  # 2 x 2, as the grid is
    if hidden:
        fc = probe.classifier.fc
        x = (x @ fc.weight.T + fc.bias).relu()
    output = probe.classifier.output
    torch.testing.assert_close(probe(images), x @ output.weight.T + output.bias)


def test_it_prepares_images_as_its_backbone_does_and_has_its_own_classes() -> None:
    net = foveal.create("resnet_nano", labels=("x", "y"))
    probe = foveal.create("probe", backbone=net, stride=2, labels=("a", "b", "c"))
    assert (probe.preprocess, probe.labels) == (net.preprocess, ("a", "b", "c"))
    assert probe(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert probe.explained_layer == "map"
    assert foveal.create("probe", backbone=autoencoder(), stride=4, image_size=16).preprocess.size == (16, 16)


def test_what_no_map_needs_is_gone_and_the_rest_is_the_run(tmp_path: Path) -> None:
    net = autoencoder()
    path = save(net, tmp_path / "net.safetensors")
    probe = foveal.create("probe_nano", backbone=path)
    kept = {name.removeprefix("backbone.network."): value for name, value in probe.state_dict().items()}
    assert not any(name.startswith(("decoder", "code")) for name in kept)
    for name, value in net.encoder.state_dict().items():
        assert torch.equal(kept[f"encoder.{name}"], value)
    assert probe.started_from == str(path)
    again = foveal.load(save(probe, tmp_path / "probe.safetensors"))
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images), probe(images))


def test_a_file_of_the_backbone_is_enough_to_begin_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    other = foveal.create("autoencoder_nano")
    probe = foveal.create("probe_nano", weights=save(other, tmp_path / "net.safetensors"))
    assert torch.equal(probe.backbone.network.encoder.stem.conv.weight, other.encoder.stem.conv.weight)


def test_frozen_the_backbone_stays_as_it_is(tmp_path: Path) -> None:
    config = TrainConfig(out=str(tmp_path / "run"), epochs=15, lr=0.02, quiet=True, report=False, freeze="backbone")
    probe = foveal.create("probe_nano", backbone=autoencoder())
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    run = foveal.train(probe, small_digits(), config)
    after = run.system.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone"))
    assert not torch.equal(after["classifier.output.weight"], before["classifier.output.weight"])
    assert run.record["result"]["accuracy"] > 0.4


def test_what_has_no_maps_cannot_be_the_backbone() -> None:
    for backbone, said in (
        (foveal.create("knn"), "cannot be the backbone of a probe: that is a system with maps"),
        (foveal.create("vae_fc_nano"), "cannot serve as a backbone: it has no maps"),
        ("nowhere", "nowhere is neither a run or checkpoint nor a system"),
    ):
        with pytest.raises(foveal.InputError, match=said):
            foveal.create("probe_nano", backbone=backbone)
    with pytest.raises(foveal.InputError, match="autoencoder_nano has maps with strides 1, 2, 4, none with 8"):
        foveal.create("probe_nano", stride=8)
    for fields in ({"grid": 0}, {"stride": 0}, {"hidden": -1}):
        with pytest.raises(foveal.InputError, match="must be at least"):
            foveal.create("probe_nano", **fields)


def test_a_variational_autoencoder_serves_too() -> None:
    probe = foveal.create("probe_nano", backbone=foveal.create("vae_nano", labels=("a", "b"), conditional=True))
    assert isinstance(probe.backbone, Backbone)
    assert probe(torch.rand(2, 3, 8, 8)).shape == (2, 10)
