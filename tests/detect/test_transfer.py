"""Weights of a detector into one with other classes: rows go by the names of their classes."""

import pytest
import torch

import foveal
from foveal.train import checkpoint
from foveal.weights import Rows

KNOWN, WANTED = ("cat", "dog", "cow"), ("horse", "cow", "cat", "bird")


def transferred(name, tmp_path):
    torch.manual_seed(0)
    given = foveal.create(name, labels=KNOWN)
    for parameter in given.parameters():
        torch.nn.init.normal_(parameter)
    path = tmp_path / "given.safetensors"
    checkpoint.save(path, checkpoint.describe(given), given.state_dict())
    return given.state_dict(), foveal.create(name, labels=WANTED, weights=path)


@pytest.mark.parametrize("name", ["faster_rcnn_nano", "fast_rcnn_nano", "rcnn_nano"])
def test_rows_of_regions(name, tmp_path):
    given, system = transferred(name, tmp_path)
    assert "2 of 4 classes are known to it" in system.started_from
    found = system.state_dict()
    for part in ("weight", "bias"):
        theirs, ours = given[f"predictor.score.{part}"], found[f"predictor.score.{part}"]
        assert torch.equal(ours[[1, 2, 4]], theirs[[2, 0, 3]])  # cow, cat, background
        assert ours[[0, 3]].abs().max() < 0.1  # anew
        theirs, ours = (state[f"predictor.delta.{part}"].unflatten(0, (-1, 4)) for state in (given, found))
        assert torch.equal(ours[[1, 2]], theirs[[2, 0]])
        assert ours[[0, 3]].abs().max() < 0.1
    others = [n for n in given if not n.startswith("predictor.")]
    assert all(torch.equal(given[n], found[n]) for n in others)


def test_rows_of_anchors(tmp_path):
    given, system = transferred("retinanet_nano", tmp_path)
    found = system.state_dict()
    names = [n for n in given if given[n].shape != found[n].shape]
    assert names
    for name in names:
        theirs, ours = given[name].unflatten(0, (-1, 3)), found[name].unflatten(0, (-1, 4))
        assert torch.equal(ours[:, [1, 2]], theirs[:, [2, 0]])
        assert not torch.equal(ours[:, [0]], theirs[:, [1]])


def test_rows_of_anchors_with_background():
    rows = Rows(2, 2, major=False)  # 2 anchors, each with 3 classes and background
    assert (rows.count(3), rows.classes(8), rows.classes(7)) == (8, 3, None)
    assert rows.of(3).tolist() == [[0, 4], [1, 5], [2, 6]]
    assert rows.of_none(3).tolist() == [3, 7]


def test_a_file_that_says_nothing_of_its_classes(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(foveal.create("faster_rcnn_nano", labels=KNOWN).state_dict(), path)
    with pytest.raises(foveal.InputError, match="it knows 3 classes, the system 4"):
        foveal.create("faster_rcnn_nano", labels=WANTED, weights=path)
