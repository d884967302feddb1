import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foveal.build import create
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.weights import load_weights


@pytest.fixture
def trained():
    """A system with numbers that no other has, batch-norm statistics included."""
    torch.manual_seed(5)
    system = create("resnet_nano").train()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        system(torch.rand(8, 3, 16, 16))
    return system.eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16)


def as_torchvision(state):
    """The names that torchvision gives to a network of this kind."""
    changed = {}
    for name, tensor in state.items():
        for ours, theirs in [
            ("stem.conv", "conv1"),
            ("stem.norm", "bn1"),
            ("stage", "layer"),
            ("branch.conv", "conv"),
            ("branch.norm", "bn"),
            ("shortcut.conv", "downsample.0"),
            ("shortcut.norm", "downsample.1"),
            ("classifier", "fc"),
        ]:
            name = name.replace(ours, theirs)
        changed[name] = tensor
    return changed


FORMS = {
    "plain": lambda state: state,
    "under model, optimizer beside it": lambda state: {"model": state, "optimizer": {"state": {0: state}}, "epoch": 3},
    "under state_dict": lambda state: {"epoch": 3, "state_dict": state, "best_acc1": 71.5},
    "under model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)},
    "twice wrapped": lambda state: {"state_dict": {"model": state}},
    "data-parallel": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "compiled, data-parallel": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "with arguments": lambda state: {"model": state, "args": Namespace(lr=0.1, path="x")},
    "torchvision's names": as_torchvision,
    "without counters": lambda state: {name: tensor for name, tensor in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint_gives_the_same_outputs(form, trained, images, tmp_path):
    torch.save(FORMS[form](trained.state_dict()), tmp_path / "weights.pth")
    system = create("resnet_nano", weights=tmp_path / "weights.pth")
    assert torch.equal(system(images), trained(images))


def test_safetensors_with_a_training_state_beside_the_weights(trained, images, tmp_path):
    save_file(trained.state_dict() | {"train/optimizer/0": torch.ones(3)}, tmp_path / "last.safetensors")
    assert torch.equal(create("resnet_nano", weights=str(tmp_path / "last.safetensors"))(images), trained(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_take_the_type_of_the_system(dtype, trained, tmp_path):
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in trained.state_dict().items()
    }
    save_file(state, tmp_path / "weights.safetensors")
    loaded = create("resnet_nano", weights=tmp_path / "weights.safetensors").state_dict()
    for name, tensor in loaded.items():
        assert tensor.dtype == trained.state_dict()[name].dtype
        assert torch.equal(tensor, state[name].to(tensor.dtype))


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(suffix, trained, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save({"model": trained.state_dict(), "extra": Malice(tmp_path / "traces")}, path)
    said = "not a whole safetensors file" if suffix == ".safetensors" else r"would run code when opened \(posix.mkdir\)"
    with pytest.raises(InputError, match=said) as refusal:
        load_weights(trained, path)
    assert one_line(refusal)
    assert not (tmp_path / "traces").exists()
    with open(path, "rb") as file:
        torch.load(file, weights_only=False)
    assert (tmp_path / "traces").exists()  # so the file was able to


def one_line(error) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 400


def truncated(path, trained):
    whole = path.with_name(f"whole{path.suffix}")
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(trained.state_dict(), whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


DAMAGE = {
    "missing": lambda path, trained: None,
    "a folder": lambda path, trained: path.mkdir(),
    "empty": lambda path, trained: path.touch(),
    "truncated": truncated,
    "a text": lambda path, trained: path.write_text("<html>404 not found</html>\n" * 50),
    "noise": lambda path, trained: path.write_bytes(bytes(range(256)) * 20),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_whole_file_of_weights_is_told_in_one_line(damage, suffix, trained, tmp_path):
    path = tmp_path / f"weights{suffix}"
    DAMAGE[damage](path, trained)
    with pytest.raises(InputError, match="weights") as refusal:
        load_weights(trained, path)
    assert one_line(refusal)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(2)], "but list"),
        (torch.ones(2), "but Tensor"),
        ({}, "but dict"),
        ({"epoch": 3, "g": {"a": torch.ones(2)}, "d": {"a": torch.ones(2)}}, "but epoch, g, d"),
        ({"epoch": 3, "\x1b[31m" + 99 * "x": "y"}, r"but epoch, \\x1b\[31mx+\.\.\.$"),
        ({0: torch.ones(2)}, "but dict"),
    ],
)
def test_a_file_without_named_weights_is_told_with_what_it_holds(content, said, trained, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=f"weights.pt holds no weights by name.*{said}"):
        load_weights(trained, tmp_path / "weights.pt")


MISFITS = {
    "missing: stage3.0.branch.conv2.weight$": lambda s: s.pop("stage3.0.branch.conv2.weight"),
    r"missing: stem.conv.weight, stem.norm.weight, stem.norm.bias and \d+ more": lambda s: [
        s.pop(name) for name in list(s) if name.startswith("st") and "num_batches" not in name
    ],
    "left over: stage4.0.branch.conv1.weight$": lambda s: s.update({"stage4.0.branch.conv1.weight": torch.ones(1)}),
    r"of another shape: stem.conv.weight \(16, 3, 7, 7\) for \(16, 3, 3, 3\)$": lambda s: s.update(
        {"stem.conv.weight": torch.ones(16, 3, 7, 7)}
    ),
    "not floating-point: stem.conv.weight$": lambda s: s.update(
        {"stem.conv.weight": torch.ones(16, 3, 3, 3, dtype=torch.int8)}
    ),
    r"missing: classifier.weight; left over: head.weight; to rename: --rename OLD=NEW$": lambda s: s.update(
        {"head.weight": s.pop("classifier.weight")}
    ),
    "names are of none of the layouts foveal, torchvision, timm, .*, transformers.*: x.a, x.b": lambda s: (
        s.clear(),
        s.update({"x.a": torch.ones(1), "x.b": torch.ones(1)}),
    ),
}


@pytest.mark.parametrize("said", MISFITS)
def test_weights_that_are_not_exactly_the_systems_are_refused_whole(said, trained, tmp_path):
    state = trained.state_dict()
    MISFITS[said](state)
    torch.save(state, tmp_path / "weights.pt")
    system = create("resnet_nano")
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    with pytest.raises(InputError, match=f"does not fit resnet_nano: .*{said}") as refusal:
        load_weights(system, tmp_path / "weights.pt")
    assert one_line(refusal)
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state_dict().items())


def test_another_number_of_classes_is_said_in_these_words(trained, tmp_path):
    seven = create("resnet_nano", labels=tuple("abcdefg"))
    torch.save(as_torchvision(seven.state_dict()), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"\(torchvision's layout\) .* it knows 7 classes, the system 3 .classifier"):
        create("resnet_nano", labels=("a", "b", "c"), weights=tmp_path / "weights.pt")


def test_a_new_head_by_class_names(trained, tmp_path):
    torch.save(as_torchvision(trained.state_dict()), tmp_path / "weights.pt")
    torch.manual_seed(5)
    fresh = create("resnet_nano", labels=("7", "owl", "2")).state_dict()
    torch.manual_seed(5)
    system = create("resnet_nano", labels=("7", "owl", "2"), weights=tmp_path / "weights.pt")
    assert system.started_from == "weights.pt (torchvision's layout), its head anew: 2 of 3 classes are known to it"
    for name, value in system.state_dict().items():
        theirs = trained.state_dict()[name]
        if name.startswith("classifier."):
            assert torch.equal(value[[0, 2]], theirs[[7, 2]])
            assert torch.equal(value[1], fresh[name][1])
            assert not torch.equal(value[1], theirs[1])
        else:
            assert torch.equal(value, theirs)


def test_the_classes_of_a_checkpoint_are_its_own(tmp_path):
    old = create("resnet_nano", labels=("cat", "dog", "owl"))
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.describe(old), old.state_dict())
    again = create("resnet_nano", weights=tmp_path / "best.safetensors")
    assert again.labels == old.labels
    assert again.started_from == "best.safetensors"
    turned = create("resnet_nano", labels=("owl", "cat", "dog"), weights=tmp_path / "best.safetensors")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(turned(images), old.eval()(images)[:, [2, 0, 1]])


def test_a_head_of_another_width_is_not_taken_for_a_new_one(tmp_path):
    old = create("resnet_nano", labels=("cat", "dog", "owl"))
    state = old.state_dict()
    state["classifier.weight"] = torch.zeros(3, 65)
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.describe(old), state)
    with pytest.raises(InputError, match="of another shape"):
        create("resnet_nano", weights=tmp_path / "best.safetensors")


def test_the_importers_stand_above_the_families():
    code = "import sys, foveal.weights; print([m for m in sys.modules if m.startswith(('foveal.cl', 'foveal.ca'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_network_without_a_head_starts_one_that_has_one(tmp_path: Path) -> None:
    trunk = create("resnet_nano")
    weights = {name: value for name, value in trunk.state_dict().items() if not name.startswith("classifier")}
    checkpoint.save(tmp_path / "trunk.safetensors", {**checkpoint.describe(trunk), "labels": []}, weights)
    torch.manual_seed(5)
    system = create("resnet_nano", labels=["a", "b"], weights=tmp_path / "trunk.safetensors")
    assert system.started_from == "trunk.safetensors, its head anew: the file has none"
    assert all(torch.equal(value, system.state_dict()[name]) for name, value in weights.items())
    assert system.classifier.weight.shape[0] == 2
    # The layers before the head still have to be there.
    del weights["stem.conv.weight"]
    checkpoint.save(tmp_path / "part.safetensors", {**checkpoint.describe(trunk), "labels": []}, weights)
    with pytest.raises(InputError, match=r"missing: stem.conv.weight"):
        create("resnet_nano", labels=["a", "b"], weights=tmp_path / "part.safetensors")
