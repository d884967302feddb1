"""Weights under names of no known publisher: by order, by rules, with another head, in any wrapping."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import foveal
from foveal.build import create
from foveal.train import checkpoint
from foveal.weights.matching import by_order, renamed
from foveal.weights.rows import Rows
from tests.weights.test_weights import as_torchvision

State = dict[str, Tensor]


def numbered(state: State, each: str = "layer{}") -> State:
    """A module by its place, as in a file that no publisher made; norms under TensorFlow's names, counters left out."""
    words = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in state)
    places = {module: each.format(place) for place, module in enumerate(modules)}
    other = dict[str, Tensor]()
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        norm = f"{module}.running_mean" in state
        if kind != "num_batches_tracked":
            other[f"{places[module]}.{words[kind] if norm else kind}"] = tensor
    return other


@pytest.fixture(scope="module")
def resnet() -> Any:
    torch.manual_seed(1)
    system = create("resnet_nano")
    for tensor in system.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return system


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "net.pth")
        return tmp_path / "net.pth"

    return save


def check_same(system: Any, other: Any) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in system.state_dict().items())


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other system is compared with a file that does not fit, which takes seconds."""
    monkeypatch.setattr("foveal.build._fitting", lambda *_: [])


# --- by order


def test_a_network_under_numbers_is_paired_by_order(
    resnet: Any, saved: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved({"state_dict": numbered(resnet.state_dict())})
    with pytest.raises(foveal.InputError, match=r"its shapes fit in order: try --match order, or --rename OLD=NEW$"):
        create("resnet_nano", weights=path)
    system = create("resnet_nano", weights=path, match="order")
    check_same(system, resnet)
    assert system.started_from == "net.pth (paired by order)"
    assert system.licence == "that of the weights published as net.pth"
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "foveal: layer0.weight -> stem.conv.weight (16, 3, 3, 3)"
    assert "foveal: layer1.moving_variance -> stem.norm.running_var (16,)" in lines
    (sure,) = [line for line in lines if "order alone" in line]
    # Of 7 convolutions, 9 norms of 4 tensors and a head: what occurs once is the stem, the first convolutions of two
    # stages, their shortcuts, and the head.
    shapes = [(n.rpartition(".")[2], v.shape) for n, v in resnet.state_dict().items() if v.is_floating_point()]
    alike = sum(shapes.count(shape) > 1 for shape in shapes)
    assert sure == f"foveal: {alike} of {len(shapes)} tensors share their shape with others: order alone pairs them"


def test_statistics_of_a_norm_are_paired_by_their_names(resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = numbered(resnet.state_dict())
    turned = {f"{name}": state[name] for name in sorted(state, key=lambda name: (int(name[5:].split(".")[0]), name))}
    assert list(turned)[1:4] == ["layer1.beta", "layer1.gamma", "layer1.moving_mean"]
    check_same(create("resnet_nano", weights=saved(turned), match="order"), resnet)


def test_what_occurs_once_is_paired_in_any_order(
    saved: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lenet = create("lenet")
    state = numbered(lenet.state_dict(), "m{}")
    check_same(create("lenet", weights=saved(dict(reversed(state.items()))), match="order"), lenet)
    assert (
        "foveal: 10 tensors are paired; every shape occurs once, so each pair is certain\n" in capsys.readouterr().err
    )


def test_a_linear_layer_for_a_convolution_and_the_reverse() -> None:
    own = {"a.weight": torch.zeros(120, 400), "b.weight": torch.zeros(10, 84, 1, 1)}
    given = {"x.weight": torch.rand(120, 16, 5, 5), "y.weight": torch.rand(10, 84)}
    paired = by_order(own, given, {}, True, "file").weights
    assert torch.equal(paired["a.weight"], given["x.weight"].flatten(1))
    assert torch.equal(paired["b.weight"], given["y.weight"][:, :, None, None])


@pytest.mark.usefixtures("alone")
def test_a_head_with_other_classes_is_no_mismatch(resnet: Any, saved: Callable[[Any], Path]) -> None:
    other = create("resnet_nano", labels=tuple("abcde"))
    path = saved(numbered(other.state_dict()))
    check_same(create("resnet_nano", labels=tuple("vwxyz"), weights=path, match="order"), other)
    with pytest.raises(foveal.InputError, match=r"it knows 5 classes, the system 10 .classifier\.weight"):
        create("resnet_nano", weights=path, match="order")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.update({"layer2.weight": torch.ones(16, 8, 3, 3)}),
            r"has 47 tensors, this system 47; the first mismatch is at tensor 6: layer2.weight \(16, 8, 3, 3\) in the "
            r"file, stage1.0.branch.conv1.weight \(16, 16, 3, 3\) here; to rename: --rename OLD=NEW$",
        ),
        (
            lambda s: s.pop(list(s)[-1]),
            r"has 46 tensors, this system 47; the first mismatch is at tensor 47: nothing in the file, classifier.bias",
        ),
        (
            lambda s: s.update({"\x1b[2J" + 200 * "x": torch.ones(3)}),
            r"has 48 tensors, this system 47; the first mismatch is at tensor 48: \\x1b\[2Jx+\.\.\. \(3,\) in the file"
            r", nothing here",
        ),
    ],
)
def test_the_first_mismatch_is_named(
    change: Callable[[State], Any], said: str, resnet: Any, saved: Callable[[Any], Path]
) -> None:
    state = numbered(resnet.state_dict())
    change(state)
    with pytest.raises(foveal.InputError, match=said) as refusal:
        create("resnet_nano", weights=saved(state), match="order")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_equal_shapes_out_of_order_are_not_guessed() -> None:
    own = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(4, 3), "c.weight": torch.zeros(2, 3)}
    given = {"x.weight": torch.zeros(4, 3), "y.weight": torch.zeros(2, 3), "z.weight": torch.zeros(2, 3)}
    with pytest.raises(foveal.InputError, match=r"the first mismatch is at tensor 1: x.weight \(4, 3\) in the file"):
        by_order(own, given, {}, True, "file")


def test_a_bias_is_not_paired_with_a_mean() -> None:
    own = {"a.weight": torch.zeros(4), "a.running_mean": torch.zeros(4)}
    with pytest.raises(foveal.InputError, match=r"the first mismatch is at tensor 2: x\.bias"):
        by_order(own, {"x.weight": torch.zeros(4), "x.bias": torch.zeros(4)}, {}, True, "file")


def test_safetensors_has_no_order_but_that_of_numbers(tmp_path: Path) -> None:
    """vgg_nano under numbers, of which 10 comes before 2 in the file."""
    torch.manual_seed(0)
    vgg = create("vgg_nano")
    save_file(numbered(vgg.state_dict(), "net.{}"), tmp_path / "net.safetensors")
    check_same(create("vgg_nano", weights=tmp_path / "net.safetensors", match="order"), vgg)
    own = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(2, 3)}
    given = {"early.weight": torch.zeros(2, 3), "deep.weight": torch.zeros(2, 3)}
    assert by_order(own, given, {}, True, "file").pairs[0] == ("early.weight", "a.weight")
    with pytest.raises(foveal.InputError, match=r"2 tensors share theirs with others; \.safetensors sorts names"):
        by_order(own, given, {}, False, "file")


def test_rows_of_classes_are_counted_as_the_file_has_them() -> None:
    rows = {name: Rows(1, 0, False) for name in ("head.weight", "head.bias")}
    own = {
        "a.weight": torch.zeros(10, 8),
        "a.bias": torch.zeros(10),
        "head.weight": torch.zeros(3, 10),
        "head.bias": torch.zeros(3),
    }
    given = {
        "h.weight": torch.zeros(7, 10),
        "h.bias": torch.zeros(7),
        "x.weight": torch.zeros(10, 8),
        "x.bias": torch.zeros(10),
    }
    pairing = by_order(own, given, rows, True, "file")
    assert dict(pairing.pairs)["h.bias"] == "head.bias"
    assert pairing.alike == 0


def test_nothing_to_pair_or_rename() -> None:
    with pytest.raises(foveal.InputError, match="rename has no effect without weights"):
        create("resnet_nano", rename={"a": "b"})
    with pytest.raises(foveal.InputError, match="match has no effect without weights"):
        create("resnet_nano", match="order")


@pytest.mark.usefixtures("alone")
def test_a_fitted_system_has_no_order(saved: Callable[[Any], Path]) -> None:
    with pytest.raises(foveal.InputError, match="match order has no effect: knn is fitted"):
        create("knn", weights=saved({"a": torch.ones(3)}), match="order")
    with pytest.raises(foveal.InputError, match="match is names or order, not 'ordr'"):
        create("resnet_nano", weights=saved({"a": torch.ones(3)}), match="ordr")


# --- by rules


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ({"net.": ""}, ["conv1.weight", "conv10.weight", "layer1.0.shortcut.0.weight"]),
        ({"net": ""}, ["conv1.weight", "conv10.weight", "layer1.0.shortcut.0.weight"]),
        ({"net.conv1": "stem.conv"}, ["stem.conv.weight", "net.conv10.weight", "net.layer1.0.shortcut.0.weight"]),
        (
            {"net.": "", "layer*.*.shortcut": "stage*.*.downsample"},
            ["conv1.weight", "conv10.weight", "stage1.0.downsample.0.weight"],
        ),
        ({"net.conv*": "c*"}, ["net.layer1.0.shortcut.0.weight", "c1.weight", "c10.weight"]),
        ({"": "my."}, ["my.net.conv1.weight", "my.net.conv10.weight", "my.net.layer1.0.shortcut.0.weight"]),
    ],
)
def test_rules_change_the_beginnings_of_names(rules: dict[str, str], names: list[str]) -> None:
    state = {
        name: torch.ones(1) for name in ("net.conv1.weight", "net.conv10.weight", "net.layer1.0.shortcut.0.weight")
    }
    assert sorted(renamed(state, rules, "file")) == sorted(names)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"conv": "stem"}, "the rule conv=stem changes no name in file, which has conv1.weight, conv2.weight"),
        ({"conv1": "conv1"}, "changes no name"),
        (
            {"conv1": "a", "conv1.": "b."},
            "the rule conv1.=b. changes no name in file, which has a.weight, conv2.weight",
        ),
        ({"conv*": "stem"}, "the rule conv.=stem gives two tensors in file the name stem.weight"),
        ({"conv1": "conv2"}, "gives two tensors in file the name conv2.weight"),
        ({"conv1": "conv*"}, "more . on its right than on its left"),
    ],
)
def test_rules_without_effect_or_with_too_much(rules: dict[str, str], said: str) -> None:
    with pytest.raises(foveal.InputError, match=said):
        renamed({"conv1.weight": torch.ones(1), "conv2.weight": torch.ones(1)}, rules, "file")


def test_renamed_weights_are_recognised(
    resnet: Any, saved: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """CIFAR networks of the web have `shortcut` and `linear`, and torchvision's names elsewhere."""
    state = {
        name.replace("downsample", "shortcut").replace("fc.", "linear.").replace("conv1", "first"): tensor
        for name, tensor in as_torchvision(resnet.state_dict()).items()
    }
    rules = {"layer*.*.shortcut": "layer*.*.downsample", "first": "conv1", "layer*.*.first": "layer*.*.conv1"}
    system = create("resnet_nano", weights=saved(state), rename=rules)
    check_same(system, resnet)
    assert system.started_from == "net.pth (torchvision's layout), its head from linear"
    assert system.licence == "that of the weights published as net.pth"
    assert "does not record its normalisation or other settings; used here: mean 0.5" in capsys.readouterr().err
    with pytest.raises(foveal.InputError, match="leave out one of them"):
        create("resnet_nano", weights=saved(state), rename=rules, match="order")


# --- another head


@pytest.mark.parametrize("head", ["linear", "head", "last_linear", "classifier.1", "output", "head.fc"])
@pytest.mark.parametrize("shape", ["linear", "convolution"])
def test_a_head_may_have_any_name(head: str, shape: str, resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = as_torchvision(resnet.state_dict())
    weight, bias = state.pop("fc.weight"), state.pop("fc.bias")
    state[f"{head}.bias"] = bias
    state[f"{head}.weight"] = weight[:, :, None, None] if shape == "convolution" else weight
    system = create("resnet_nano", weights=saved(state))
    check_same(system, resnet)
    assert system.started_from == f"net.pth (torchvision's layout), its head from {head}"


@pytest.mark.usefixtures("alone")
def test_a_head_of_two_layers_is_none(resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = as_torchvision(resnet.state_dict())
    state["head.0.weight"] = torch.ones(64, 64)
    state["head.2.weight"], state["head.2.bias"] = state.pop("fc.weight"), state.pop("fc.bias")
    with pytest.raises(
        foveal.InputError, match=r"missing: classifier\.weight, classifier\.bias; left over: head\.0\.weight"
    ):
        create("resnet_nano", weights=saved(state))


def test_another_head_of_other_classes(resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = {name.replace("fc.", "linear."): tensor for name, tensor in as_torchvision(resnet.state_dict()).items()}
    system = create("resnet_nano", labels=("7", "owl"), weights=saved(state))
    assert system.started_from.endswith("its head from linear, its head anew: 1 of 2 classes are known to it")
    assert torch.equal(system.classifier.weight[0], resnet.classifier.weight[7])


# --- wrappings


PREFIXES = [
    "module.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "encoder.",
    "_orig_mod.",
    "module.net.",
    "0.",
    "my_cnn.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_left_out(prefix: str, resnet: Any, saved: Callable[[Any], Path]) -> None:
    for named, layout in ((resnet.state_dict(), ""), (as_torchvision(resnet.state_dict()), " (torchvision's layout)")):
        system = create("resnet_nano", weights=saved({prefix + name: tensor for name, tensor in named.items()}))
        check_same(system, resnet)
        assert system.started_from == f"net.pth{layout}, without the prefix {prefix} of its names"


def test_a_backbone_with_a_head_beside_it(resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in as_torchvision(resnet.state_dict()).items()}
    state |= {f"head.{kind}": state.pop(f"backbone.fc.{kind}") for kind in ("weight", "bias")}
    system = create("resnet_nano", weights=saved(state))
    check_same(system, resnet)
    assert "without the prefix backbone. of its names, its head from head" in system.started_from


@pytest.mark.parametrize("key", ["net", "network", "ema", "params", "whatever"])
def test_weights_under_a_key(key: str, resnet: Any, saved: Callable[[Any], Path]) -> None:
    state = as_torchvision(resnet.state_dict())
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}
    system = create("resnet_nano", weights=saved({"epoch": 3, "optimizer": optimizer, key: state, "best": 0.9}))
    check_same(system, resnet)
    assert ("the running mean in it (ema)" in system.started_from) == (key == "ema")


# --- what a file does not record


def test_normalisation_of_a_published_file(
    saved: Callable[[Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    cifar = create("resnet20_cifar", depths=(1, 1, 1))
    state = {n.replace("fc.", "linear."): t for n, t in as_torchvision(cifar.state_dict()).items()}
    path, fields = saved(state), {"depths": (1, 1, 1)}
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
    system = create("resnet20_cifar", weights=path, mean=mean, std=std, **fields)
    note = capsys.readouterr().err
    assert "mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.201, activation relu" in note
    images = torch.rand(2, 3, 32, 32)
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    bare = create("resnet20_cifar", weights=path, mean=0, std=1, **fields)
    assert torch.equal(system(images), bare(shifted))
    assert not torch.allclose(system(images), create("resnet20_cifar", weights=path, **fields)(images))
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.describe(system), system.state_dict())
    again = foveal.load(tmp_path / "best.safetensors")
    assert (again.preprocess.mean, again.preprocess.std) == (mean, std)
    assert torch.equal(again(images), system(images))
    assert set(json.loads(json.dumps(checkpoint.describe(again)["variant"]))) == {"depths"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mean": (0.5, 0.5)}, "mean takes one value or 3, one for each channel, not 2"),
        (
            {"mean": (125.3, 123.0, 113.9)},
            r"from 0 to 1, not 125.3, 123, 113.9; those of bytes .* 0.4914 0.4824 0.4467$",
        ),
        ({"std": 0}, "std is that of images in .0, 1., above 0 and at most 1, not 0$"),
        ({"std": float("nan")}, "above 0 and at most 1, not nan"),
        ({"mean": "half"}, "mean takes numbers, not 'half'"),
    ],
)
def test_wrong_normalisation(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(foveal.InputError, match=said):
        create("resnet_nano", **settings)


def test_no_note_where_everything_is_recorded(
    resnet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], saved: Callable[[Any], Path]
) -> None:
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.describe(resnet), resnet.state_dict())
    create("resnet_nano", weights=tmp_path / "best.safetensors")
    create("lenet", weights="package")
    imagenet = create("resnet_nano", labels=[str(i) for i in range(1000)])
    create("resnet_nano", labels=imagenet.labels, weights=saved(as_torchvision(imagenet.state_dict())))
    assert capsys.readouterr().err == ""


# --- an unrecognised file


@pytest.mark.usefixtures("alone")
def test_an_unrecognised_file_names_the_nearest_layout(resnet: Any, saved: Callable[[Any], Path]) -> None:
    names = list(as_torchvision(resnet.state_dict()))
    state = {name if i < 10 else f"\x1b]0;{i}{99 * 'y'}": torch.ones(2) for i, name in enumerate(names)}
    with pytest.raises(foveal.InputError) as refusal:
        create("resnet_nano", weights=saved(state))
    line = str(refusal.value)
    assert f"its names are of no known layout, nearest torchvision's (10 of {len(names)} names)" in line
    assert "missing: stem.conv.weight and" in line
    assert "left over: conv1.weight, bn1.weight, bn1.bias and" in line
    assert line.endswith("; to rename: --rename OLD=NEW")
    assert line.isprintable()
    hostile = {f"\x1b]0;{i}\n{99 * 'y'}": torch.ones(2) for i in range(9)}
    with pytest.raises(foveal.InputError, match=r"left over: \\x1b\]0;0\\ny+\.\.\., ") as refusal:
        create("resnet_nano", weights=saved(hostile))
    assert str(refusal.value).isprintable()
