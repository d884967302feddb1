"""LeNet-5 as others publish it: the same weights in, the same scores out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import foveal

LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)


class Tutorial(nn.Module):
    """The network of PyTorch's tutorials, with any pooling, non-linearity and padding."""

    def __init__(self, channels: int = 1, pool: nn.Module | None = None, squash: Any = torch.relu, padding: int = 0):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.pool = pool or nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.squash(self.conv1(x)))
        x = self.pool(self.squash(self.conv2(x))).flatten(1)
        return self.fc3(self.squash(self.fc2(self.squash(self.fc1(x)))))


class Convolutional(nn.Module):
    """As the paper has it: C5 is a convolution as large as its map, and means are taken of tanh."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Conv2d(16, 120, 5), nn.Tanh())
        self.classifier = nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def saved(module: nn.Module, path: Path) -> Path:
    torch.save(module.state_dict(), path)
    return path


def check_equal(system: Any, reference: nn.Module, images: Tensor, prepared: Tensor, tolerance: float = 1e-12) -> None:
    with torch.no_grad():
        expected = reference.double()(prepared.double())
        assert (system.double()(images.double()) - expected).abs().max() < tolerance * expected.abs().max()


def normalised(images: Tensor, mean: float, std: float) -> Tensor:
    rounded = torch.tensor([mean, std]).double()  # as a system has them, in float32
    return ((images.double() * LUMINANCE).sum(1, keepdim=True) - rounded[0]) / rounded[1]


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "PyTorch's tutorial": (Tutorial, {}),
    "tanh": (lambda: Tutorial(squash=torch.tanh), {"activation": "tanh"}),
    "average of sigmoids": (
        lambda: Tutorial(pool=nn.AvgPool2d(2), squash=torch.sigmoid),
        {"subsampling": "average", "activation": "sigmoid"},
    ),
    "28 pixels, padded": (lambda: Tutorial(padding=2), {"image_size": 28, "padding": 2}),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_networks_load_by_their_names_and_give_equal_scores(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, settings = PUBLISHED[kind]
    reference = build()
    system = foveal.create("lenet_relu", weights=saved(reference, tmp_path / "net.pth"), **settings)
    images = torch.rand(3, 3, *system.preprocess.size)
    check_equal(system, reference, images, normalised(images, 0.1307, 0.3081))
    assert system.started_from == "net.pth (pytorch_tutorials's layout)"


def test_the_tutorial_on_colour_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = Tutorial(channels=3)
    system = foveal.create("lenet_cifar", weights=saved(reference, tmp_path / "net.pth"))
    assert system.labels[:2] == ("airplane", "automobile")
    images = torch.rand(3, 3, 32, 32)
    check_equal(system, reference, images, (images - 0.5) / 0.5)


def test_a_convolutional_third_layer_is_a_linear_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = Convolutional()
    settings = {"activation": "tanh", "mean": 0.1, "std": 0.3, "match": "order"}
    system = foveal.create("lenet", weights=saved(reference, tmp_path / "net.pth"), **settings)
    images = torch.rand(3, 3, 32, 32)
    check_equal(system, reference, images, normalised(images, 0.1, 0.3))


def test_names_of_the_paper(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = Tutorial()
    names = {"conv1": "convnet.c1", "conv2": "convnet.c3", "fc1": "convnet.c5", "fc2": "fc.f6", "fc3": "fc.f7"}
    state = {}
    for name, tensor in reference.state_dict().items():
        module, kind = name.split(".")
        shape = (120, 16, 5, 5) if name == "fc1.weight" else tensor.shape
        state[f"{names[module]}.{kind}"] = tensor.view(shape)
    save_file(state, tmp_path / "net.safetensors")
    system = foveal.create("lenet_relu", weights=tmp_path / "net.safetensors")
    assert torch.equal(system.classifier.c5.weight, reference.fc1.weight)
    assert torch.equal(system.classifier.output.bias, reference.fc3.bias)


def test_a_first_layer_of_grey_images_sees_the_luminance_of_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    reference, images = Tutorial(), torch.rand(3, 3, 32, 32)
    path = saved(reference, tmp_path / "net.pth")
    system = foveal.create("lenet_cifar", weights=path, mean=0.2, std=0.4)
    check_equal(system, reference, images, normalised(images, 0.2, 0.4), 1e-6)  # its weights are float32
    assert system.started_from.endswith(", stage1.conv applied to the luminance of colours")
    assert "give one mean and one std" not in capsys.readouterr().err
    foveal.create("lenet_cifar", weights=path, mean=(0.2, 0.3, 0.4))
    assert "net.pth takes grey images: give one mean and one std" in capsys.readouterr().err


def test_weights_for_colours_do_not_become_grey(tmp_path: Path) -> None:
    path = saved(Tutorial(channels=3), tmp_path / "net.pth")
    with pytest.raises(foveal.InputError, match=r"conv.weight \(6, 3, 5, 5\) for \(6, 1, 5, 5\); it fits lenet_cifar$"):
        foveal.create("lenet_relu", weights=path)


def test_maximum_of_each_square() -> None:
    pool = foveal.create("lenet", subsampling="max").stage1.pool
    assert pool(torch.arange(16.0).view(1, 1, 4, 4)).tolist() == [[[[5, 7], [13, 15]]]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"padding": -1}, "padding must be at least 0, not -1"),
        ({"padding": 2, "image_size": 11}, "12 pixels or more"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(foveal.InputError, match=said):
        foveal.create("lenet_relu", **settings)
    assert foveal.create("lenet_relu", padding=2, image_size=12)(torch.rand(1, 3, 12, 12)).shape == (1, 10)


def test_the_published_kind_learns_digits(small_digits: Callable[..., float]) -> None:
    assert small_digits(foveal.create("lenet_relu", image_size=16), 4, 0.004) > 0.9
