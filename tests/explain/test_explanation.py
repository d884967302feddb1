"""The verb: what it explains is what predict says, on the pixels of the image itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.data.builtin import digits
from foveal.explain.gradcam import gradcam
from foveal.explain.occlusion import occlusion
from foveal.explain.saliency import saliency
from foveal.system import Preprocess
from tests.explain.conftest import build
from tests.parity.compare import randomise
from tests.toys import Captioner

METHODS = ("gradcam", "occlusion", "saliency")


def classifier(**fields: Any) -> Any:
    return randomise(foveal.create("resnet_nano", width=8, **fields))


def undecided(system: Any, images: list[Tensor]) -> Any:
    """The system with each class as likely as any other, in the mean of these images."""
    with torch.no_grad():
        scores = torch.cat([system(system.preprocess.batch([image]).images) for image in images])
        system.classifier.bias -= scores.mean(0)
    return system


def photos(count: int) -> list[Tensor]:
    """Images of many shapes, in turn uint8 and float."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(5, 120, (count, 2), generator=draw).tolist()
    images = [torch.rand(3, height, width, generator=draw) for height, width in sizes]
    return [(255 * image).to(torch.uint8) if n % 2 else image for n, image in enumerate(images)]


def test_the_class_explained_is_the_class_predicted_on_every_test_digit() -> None:
    dataset, named = digits().select("test"), set()
    system = undecided(classifier(), [dataset.image(n) for n in range(len(dataset))])
    for n in range(len(dataset)):
        prediction = system.predict([dataset.image(n)])[0]
        found = foveal.explain(system, dataset.image(n), "saliency")
        assert found.target == system.labels[int(prediction.label)]
        assert found.probability == float(prediction.scores.max())
        named.add(found.target)
    assert len(named) > 3  # so a class that is always the same would be seen


@pytest.mark.parametrize("rule", ["squash", "crop", "fit"])
def test_the_class_explained_is_the_class_predicted_on_photographs(rule: Any) -> None:
    system = classifier(preprocess=Preprocess((16, 16), rule, 0.8), labels=[f"class {n}" for n in range(40)])
    system, named = undecided(system, photos(40)), set()
    for image in photos(40):
        prediction = system.predict([image])[0]
        found = foveal.explain(system, image, "saliency")
        assert found.target == system.labels[int(prediction.label)]
        batch = system.preprocess.batch([image])
        scores = system(batch.images)[0]
        assert found.target == system.labels[int(scores.argmax())]
        assert found.score == scores.max().item()
        named.add(found.target)
    assert len(named) > 3


def test_two_classes_of_one_score_are_told_apart_as_predict_does() -> None:
    system = classifier(labels=("a", "b", "c"))
    torch.nn.init.zeros_(system.classifier.weight)
    torch.nn.init.zeros_(system.classifier.bias)
    image = photos(1)[0]
    assert foveal.explain(system, image, "saliency").target == system.labels[int(system.predict([image])[0].label)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["resnet_nano", "vit_nano", "lenet"])
def test_what_an_explanation_holds(name: str, method: str) -> None:
    system, image = randomise(foveal.create(name)), torch.rand(3, 30, 50)
    prepared = system.preprocess.batch([image]).images
    function = {"gradcam": gradcam, "occlusion": occlusion, "saliency": saliency}[method]
    maps = {label: function(system, prepared, label)[0] for label in system.labels}
    target = next(label for label, map in maps.items() if (map > 0).any())
    found = foveal.explain(system, image, method, target)
    assert (found.method, found.target, found.image is image) == (method, target, True)
    assert found.score == pytest.approx(system.score(prepared, target).item())
    assert found.probability == pytest.approx(float(system.predict([image])[0].scores[system.index(target)]))
    torch.testing.assert_close(found.map, maps[target])
    assert found.heat.shape == (30, 50)
    assert float(found.heat.min()) >= 0
    assert float(found.heat.max()) == pytest.approx(1)
    assert found.map.dtype == found.heat.dtype == torch.float32
    assert not found.map.requires_grad


def test_heat_is_what_speaks_for_the_class() -> None:
    system, image = classifier(), torch.rand(3, 16, 16)
    found = foveal.explain(system, image, "occlusion", "3")
    assert (found.map < 0).any()
    torch.testing.assert_close(found.heat, found.map.clamp(min=0) / found.map.max())
    torch.nn.init.zeros_(system.classifier.weight)
    assert torch.equal(foveal.explain(system, image, "occlusion", "3").heat, torch.zeros(16, 16))


def test_settings_reach_the_method() -> None:
    system, image = classifier(), torch.rand(3, 16, 16)
    prepared = system.preprocess.batch([image]).images
    found = foveal.explain(system, image, "occlusion", "3", window=5, stride=3, baseline=(0.0, 0.0, 0.0))
    assert torch.equal(found.map, occlusion(system, prepared, "3", 5, 3, (0.0, 0.0, 0.0))[0])
    found = foveal.explain(system, image, "gradcam", "3", layer="stage2")
    assert torch.equal(found.map, gradcam(system, prepared, "3", "stage2")[0])
    assert found.map.shape == (8, 8)
    # Unit (0, 0) of a map at half the size looks at pixel 0, of which 1/2 is the middle.
    assert (found.place @ torch.tensor([0.5, 0.5, 1]).double()).tolist() == [0.5, 0.5]


def test_the_system_is_left_as_it_was() -> None:
    system, image = classifier(), torch.rand(3, 20, 16)
    expected = {method: foveal.explain(system, image, method).map for method in METHODS}
    system.train()
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    for method in METHODS:
        with torch.inference_mode():
            found = foveal.explain(system, image, method)
            figures = found.faithfulness(steps=2, randoms=1)
        assert torch.equal(found.map, expected[method])
        assert all(0 <= figures[name] <= 1 for name in ("deletion", "insertion"))
    assert all(module.training for module in system.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in system.state_dict().items())
    assert all(parameter.grad is None for parameter in system.parameters())


def test_faithfulness_is_of_the_same_prediction() -> None:
    system = classifier(preprocess=Preprocess((16, 16), "crop", 0.8))
    for method in METHODS:
        found = foveal.explain(system, photos(3)[1], method)
        curves = found.curves(steps=4, randoms=2)
        assert float(curves.deletion[0]) == pytest.approx(found.probability, rel=1e-5)
        assert float(curves.insertion[-1]) == pytest.approx(found.probability, rel=1e-5)
        assert found.faithfulness(steps=4, randoms=2) == curves.figures()
        assert found.faithfulness(steps=4, randoms=2, seed=1) != curves.figures()


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        (("gradcan",), {}, "unknown method 'gradcan'; did you mean gradcam"),
        (("saliency", "77"), {}, "unknown class '77'; did you mean 7"),
        (("saliency",), {"layer": "stage1"}, "saliency has no setting 'layer'"),
        (("occlusion",), {"windw": 3}, "occlusion has no setting 'windw'; did you mean window"),
        (("occlusion",), {"window": 99}, "window is from 1 pixel"),
        (("gradcam",), {"layer": "stage7"}, "no module 'stage7'; did you mean stage"),
        (("gradcam",), {"layer": "classifier"}, "cannot lay an activation"),
    ],
)
def test_what_cannot_be_explained(words: tuple[str, ...], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(foveal.InputError, match=told):
        foveal.explain(classifier(), torch.rand(3, 16, 16), *words, **settings)


def test_systems_and_images_that_cannot_be_explained() -> None:
    linear, image = build("linear_softmax").float(), torch.rand(3, 16, 16)
    with pytest.raises(foveal.InputError, match=r"linear_softmax cannot be explained by .*; occlusion and saliency"):
        foveal.explain(linear, image, "gradcam")
    assert foveal.explain(linear, image).method == "occlusion"
    with pytest.raises(foveal.InputError, match="Captioner is a system to caption"):
        foveal.explain(Captioner(), image)
    for wrong in (image[0], image[:1], image[None], image.long()):
        with pytest.raises(foveal.InputError, match="an image is"):
            foveal.explain(linear, wrong)
    torch.nn.init.constant_(linear.classifier.weight, torch.nan)
    for method in ("occlusion", "saliency"):
        with pytest.raises(foveal.InputError, match="not finite"):
            foveal.explain(linear, image, method)
