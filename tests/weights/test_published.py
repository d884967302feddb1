"""The files that people have: of several families and two publishers, whole in any wrapping, or wrong in any way."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveal.build import create
from foveal.errors import InputError
from tests.parity.compare import oracle, randomise

State = dict[str, Tensor]
LABELS = ("a", "b", "c", "d", "e")


def torchvision(build: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build(oracle("torchvision.models"))


def timm(name: str, **fields: Any) -> Callable[[], nn.Module]:
    return lambda: oracle("timm").create_model(name, num_classes=5, **fields)


def small_head(vgg: Any) -> nn.Module:
    vgg.classifier = nn.Sequential(
        *vgg.classifier[:0], nn.Linear(512 * 49, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4)
    )
    vgg.classifier.extend([nn.ReLU(), nn.Dropout(), nn.Linear(4, 5)])
    return vgg


def small_timm_head(vgg: Any) -> nn.Module:
    vgg.pre_logits.fc1, vgg.pre_logits.fc2, vgg.head.fc = nn.Conv2d(512, 4, 7), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
    return vgg


SHALLOW: dict[str, Any] = {"depths": (1, 1, 1, 1)}
# publisher and family -> (the publisher's network, our name, our fields): small, but in the publisher's own names
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "torchvision resnet": (
        torchvision(lambda m: m.ResNet(m.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)),
        "resnet18",
        SHALLOW,
    ),
    "torchvision vit": (
        torchvision(lambda m: m.VisionTransformer(32, 16, 1, 2, 32, 64, num_classes=5)),
        "vit_b_16",
        {"image_size": 32, "width": 32, "depth": 1, "heads": 2, "mlp_ratio": 2.0},
    ),
    "torchvision vgg": (torchvision(lambda m: small_head(m.vgg11(num_classes=5))), "vgg11", {"hidden": 4}),
    "torchvision mobilenet": (
        torchvision(lambda m: m.mobilenet_v2(num_classes=5, width_mult=0.5)),
        "mobilenet_v2",
        {"width": 0.5},
    ),
    "torchvision densenet": (
        torchvision(lambda m: m.DenseNet(8, (2, 2), 16, num_classes=5)),
        "densenet121",
        {"growth": 8, "depths": (2, 2), "width": 16},
    ),
    "timm resnet": (timm("resnetv2_18", layers=(1, 1, 1, 1)), "resnetv2_18", SHALLOW),
    "timm vit": (
        timm("vit_tiny_patch16_224", img_size=32, depth=1),
        "vit_t_16",
        {"image_size": 32, "depth": 1},
    ),
    "timm vgg": (lambda: small_timm_head(timm("vgg11")()), "vgg11", {"hidden": 4}),
    "timm mobilenet": (timm("mobilenetv2_050"), "mobilenet_v2", {"width": 0.5}),
    "timm densenet": (
        timm("densenet121", growth_rate=8, block_config=(2, 2)),
        "densenet121",
        {"growth": 8, "depths": (2, 2), "width": 16},
    ),
}


def shifted(state: State) -> State:
    """Other weights under the same names."""
    return {name: tensor + 1 for name, tensor in state.items()}


def in_half(state: State, dtype: torch.dtype) -> State:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def optimizer(state: State) -> dict[str, Any]:
    some = [*state.values()][:3]
    moments = {number: {"step": torch.tensor(7.0), "exp_avg": tensor} for number, tensor in enumerate(some)}
    return {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [*moments]}]}


# What training scripts leave.
FORMS: dict[str, Callable[[State], Any]] = {
    "weights alone": lambda s: s,
    "torchvision's references": lambda s: {
        "model": s,
        "optimizer": optimizer(s),
        "lr_scheduler": {"T_max": 90, "base_lrs": [0.1], "last_epoch": 3},
        "epoch": 3,
        "args": Namespace(model="resnet18", lr=0.1, amp=True),
    },
    "torchvision's references, with a mean": lambda s: {
        "model": shifted(s),
        "optimizer": optimizer(s),
        "epoch": 3,
        "model_ema": {"n_averaged": torch.tensor(9), **{f"module.{name}": tensor for name, tensor in s.items()}},
    },
    "timm's training": lambda s: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": s,
        "optimizer": optimizer(s),
        "version": 2,
        "args": Namespace(model="resnet18"),
        "metric": 71.2,
    },
    "timm's training, with a mean": lambda s: {"arch": "x", "state_dict": shifted(s), "state_dict_ema": s},
    "a mean that was never taken": lambda s: {"model": s, "model_ema": None},
    "lightning": lambda s: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in s.items()},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7), "dirpath": "/x"}},
        "optimizer_states": [optimizer(s)],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1},
    },
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request: pytest.FixtureRequest) -> tuple[State, str, dict[str, Any], State]:
    """A publisher's weights, our name and fields, and what our system has when they are loaded from their own loader's
    hands: through a plain file."""
    build, name, fields = NETWORKS[request.param]
    with torch.device("meta"):  # their own first numbers would take time
        reference = build()
    state = randomise(reference.to_empty(device="cpu")).state_dict()
    directory = request.getfixturevalue("tmp_path_factory").mktemp("plain")
    save_file(state, directory / "plain.safetensors")
    system = create(name, labels=LABELS, weights=directory / "plain.safetensors", **fields)
    (directory / "plain.safetensors").unlink()
    return state, name, fields, system.state_dict()


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_what_training_scripts_leave(network: Any, tmp_path: Path) -> None:
    state, name, fields, expected = network
    for form, wrap in FORMS.items():
        torch.save(wrap(state), tmp_path / "weights.pth")
        system = create(name, labels=LABELS, weights=tmp_path / "weights.pth", **fields)
        assert same(system.state_dict(), expected), form
        assert ("the running mean" in system.started_from) == form.endswith("with a mean")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_of_the_same_values(dtype: torch.dtype, network: Any, tmp_path: Path) -> None:
    state, name, fields, expected = network
    torch.save({"state_dict": in_half(state, dtype)}, tmp_path / "weights.pth")
    save_file(in_half(state, dtype), tmp_path / "weights.bin")  # whatever its suffix
    for file in ("weights.pth", "weights.bin"):
        loaded = create(name, labels=LABELS, weights=tmp_path / file, **fields).state_dict()
        assert same(loaded, {key: value.to(dtype).float() if value.is_floating_point() else value for key, value in
                             expected.items()})  # fmt: skip
        assert all(value.dtype == expected[key].dtype for key, value in loaded.items())


def test_what_is_not_whole_is_refused_with_its_names(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whose weights they could be has tests of its own, and takes long.
    monkeypatch.setattr("foveal.build._fitting", lambda *_: [])
    state, name, fields, _ = network
    first, last = next(iter(state)), [key for key, value in state.items() if value.is_floating_point()][-1]
    cases: list[tuple[State, str]] = [
        ({key: value for key, value in state.items() if key != last}, "missing: "),
        ({**state, "extra.weight": torch.ones(2)}, "left over: extra.weight"),
        ({**state, first: torch.full_like(state[first], float("nan"))}, "not finite, in "),
        ({**state, first: torch.full_like(state[first], float("inf"))}, "not finite, in "),
        ({**state, first: state[first][..., :1]} if state[first].ndim > 1 else {}, "of another shape: "),
    ]
    for content, said in cases:
        if content and not (said.startswith("not finite") and "class_token" not in first and "norm" in first):
            torch.save({"model": content}, tmp_path / "weights.pth")
            with pytest.raises(InputError, match=said) as refusal:
                create(name, labels=LABELS, weights=tmp_path / "weights.pth", **fields)
            assert "\n" not in str(refusal.value)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"it knows 5 classes, the system 3 .*with the file's labels$"):
        create(name, labels=LABELS[:3], weights=tmp_path / "weights.pth", **fields)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("resnet34", "resnet18", "; it fits resnet34$"),
        ("densenet121", "densenet169", "; it fits densenet121$"),
        ("mobilenet_v3_small", "resnet18", "; it fits mobilenet_v3_small$"),
    ],
)
def test_another_architecture_is_named(theirs: str, ours: str, said: str, tmp_path: Path) -> None:
    reference = oracle("torchvision.models").get_model(theirs, num_classes=7)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=rf"does not fit {ours}: .*{said}") as refusal:
        create(ours, weights=tmp_path / "weights.safetensors")
    assert "\n" not in str(refusal.value)


NO_WEIGHTS = {
    "has no best.safetensors or last.safetensors: it is not a run": lambda path: path.mkdir(),
    "a web page, not weights": lambda path: path.write_text("\n <!DOCTYPE html>\n<html><body>404</body></html>"),
    "only points to weights that git-lfs keeps: git lfs pull": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102530333\n"
    ),
    "is empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("said", NO_WEIGHTS)
def test_what_stands_where_weights_should(said: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    NO_WEIGHTS[said](path)
    with pytest.raises(InputError, match=said) as refusal:
        create("resnet_nano", weights=path)
    assert str(path) in str(refusal.value)
