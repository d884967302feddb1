"""What holds for every name in the catalog."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.catalog import ENTRIES, FAMILIES, variant
from foveal.classify.lenet import LeNet
from foveal.nn.stochastic_depth import StochasticDepth
from foveal.structures import Batch, Label, Target
from foveal.system import Spec, System
from foveal.train import checkpoint
from foveal.train.config import TrainConfig, resolve
from foveal.train.prepare import training_loader

from .toys import small_digits

# The sides that a system is tried with here, the first that it takes: what holds for small images holds for large ones.
SIDES = (32, 64, 128)
OTHER_SIDES = {
    "pixel_transformer": (8,),  # what a step takes grows with the fourth power of the side
    # The last maps need more than one place for there to be something to choose from.
    "sasa_resnet26": (48,),
    "sasa_resnet38": (48,),
    "sasa_resnet50": (48,),
    "detr_resnet50": (64,),
    "detr_resnet101": (64,),
}

# What published weights bring along though it never has an effect, so that its gradient is zero but for rounding: the
# end of the names of such parameters, for each system that has them.
WITHOUT_EFFECT = {
    "Mixer": ("mlp_tokens.fc2.bias",),
    # Queries begin as zeros, so that the first look of some at others finds the same everywhere.
    "DETR": tuple(f"decoder.0.attention.{part}" for part in ("q.weight", "q.bias", "k.weight", "k.bias", "v.weight")),
}


def kind(name: str) -> type[System]:
    module, _, cls = ENTRIES[name].partition(":")
    return getattr(import_module(f"foveal.{module}"), cls)


def members(labels: Sequence[str]) -> tuple[System, ...]:
    """Systems to make others of: they know the first digits, if it is digits that they are to know."""
    made = foveal.create("knn", labels=labels), foveal.create("pca", labels=labels, components=8)
    if made[0].labels == small_digits().labels:
        for system in made:
            system.fit(training_loader(system, small_digits().select("train"), resolve(TrainConfig(), {}, "knn")[0]))
    return made


def build(name: str, **fields: Any) -> Any:
    if name == "ensemble":
        fields["members"] = members(fields.get("labels", small_digits().labels))
    sides = OTHER_SIDES.get(name, SIDES)
    for side in sides:
        torch.manual_seed(0)
        try:
            return foveal.create(name, image_size=min(side, *variant(name).preprocess.size), **fields)
        except foveal.InputError as error:
            if "pixels or more" not in str(error) or side == sides[-1]:
                raise


def batch_for(system: Any, count: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(1)
    batch = system.preprocess.batch(list(torch.rand(count, 3, *system.preprocess.size, generator=draw)))
    targets = tuple(Label(torch.tensor(i % len(system.labels))) for i in range(count))
    return Batch(batch.images, targets, batch.indices, batch.affines, batch.sizes)


def test_catalog_lists_what_the_families_define() -> None:
    for family, names in FAMILIES.items():
        module, kind = family.split(":")
        home = import_module(f"foveal.{module}")
        assert list(home.VARIANTS) == names.split(), family
        assert issubclass(getattr(home, kind), System)
        assert getattr(home, kind).task == module.split(".")[0]
        assert all(isinstance(spec, Spec) for spec in home.VARIANTS.values())
    assert foveal.names() == list(ENTRIES)


@pytest.mark.parametrize("name", foveal.names())
def test_recipe_is_a_valid_configuration(name: str) -> None:
    resolve(TrainConfig(), variant(name).recipe, name)


def unreached(system: System) -> set[str]:
    """The parameters that have no gradient, or one of zeros."""
    useless = WITHOUT_EFFECT.get(type(system).__name__, ())
    gradients = {n: p.grad for n, p in system.named_parameters() if not n.endswith(useless)}
    return {n for n, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0}


def check_descent(system: System, batch: Batch) -> None:
    for module in system.modules():
        if isinstance(module, StochasticDepth):  # of few images, all may leave a branch out
            module.probability = 0.0

    # loss: finite scalars
    losses = system.loss(batch)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    idle = {n for n, _ in system.named_parameters()}

    # descent lowers the loss, with the same units dropped each time
    optimizer = torch.optim.SGD(system.parameters(), 0.002, momentum=0.9)
    totals = []
    for _ in range(7):
        torch.manual_seed(2)
        optimizer.zero_grad()
        total = sum(system.loss(batch).values())
        total.backward()
        idle &= unreached(system)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]

    # a gradient reaches every parameter; what lies behind a layer that begins as zero waits for that one's first step
    assert not idle, f"no gradient reaches {idle}"


@pytest.mark.parametrize("name", foveal.names())
def test_contract(name: str, tmp_path: Path) -> None:
    system = build(name)
    batch = batch_for(system)
    assert system.name == name
    assert not system.training

    if system.can("fit"):
        run = foveal.train(system, small_digits(), TrainConfig(out=str(tmp_path / "run"), quiet=True))
        assert run.record["result"]["accuracy"] > 0.5

    # forward and score, the same in both modes in kind
    outputs = system(batch.images)
    assert outputs.shape == (4, len(system.labels))
    assert torch.isfinite(outputs).all()
    assert system.score(batch.images, system.labels[-1]).shape == (4,)
    assert system.train()(batch.images).shape == outputs.shape

    if system.can("loss"):
        check_descent(system, batch)

    # predict: images of any sizes, uint8 or float; the mode stays what it was
    photos = [torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8), torch.rand(3, 90, 33)]
    predictions = system.predict(photos)
    assert system.training
    assert len(predictions) == 2
    assert all(isinstance(prediction, Target) for prediction in predictions)
    assert abs(float(predictions[0].scores.sum()) - 1) < 1e-5
    assert int(predictions[0].label) == int(predictions[0].scores.argmax())

    # save -> load -> equal
    system.eval()
    path = tmp_path / "system.safetensors"
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    loaded = foveal.load(path)
    path.unlink()
    assert (loaded.name, loaded.labels, loaded.preprocess) == (name, system.labels, system.preprocess)
    assert torch.equal(loaded(batch.images), system(batch.images))


@pytest.mark.parametrize("name", foveal.names())
def test_other_classes(name: str) -> None:
    system = build(name, labels=("cat", "dog", "Größe 10"))
    if system.can("loss"):  # what is fitted knows nothing yet
        assert system(torch.rand(1, 3, *system.preprocess.size)).shape == (1, 3)
    with pytest.raises(foveal.InputError, match=r"cta.*did you mean cat"):
        system.score(torch.rand(1, 3, *system.preprocess.size), "cta")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in foveal.names()
        if (name.endswith("_nano") or name == "lenet" or "linear" in name) and kind(name).loss is not System.loss
    ],
)
def test_gradients_are_right(name: str) -> None:
    torch.manual_seed(0)
    system = foveal.create(name)
    for parameter in system.parameters():  # zeros and ones of a start hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = batch_for(system)
    # The statistics of a start let signals fade, and gradients with them, down to what rounding hides.
    for module in system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        system.train()(batch.images)
    # A wide step crosses kinks, which deep networks have nearly everywhere, and a narrow one ends in rounding; a wrong
    # gradient is wrong by both.
    wide, narrow = (foveal.check_gradients(system, batch, step=step) for step in (1e-6, 1e-7))
    assert wide.keys() == dict(system.named_parameters()).keys()
    errors = {parameter: min(wide[parameter], narrow[parameter]) for parameter in wide}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


def test_gradient_check_finds_a_wrong_gradient() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2.01

    class WrongLeNet(LeNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return Wrong.apply(super().forward(images))

    system = WrongLeNet(variant("lenet"))
    assert min(foveal.check_gradients(system, batch_for(system)).values()) > 1e-3


def test_bad_names_and_fields() -> None:
    for name, fields, text in [
        ("resnet5", {}, "did you mean resnet50"),
        ("lenet", {"subsamplin": "trainable"}, "did you mean subsampling"),
        ("lenet", {"labels": ["a", "b", "a"]}, "unique: a"),
        ("lenet", {"subsampling": "trained"}, "no subsampling 'trained'; did you mean trainable"),
        ("lenet", {"image_size": 0}, "image_size"),
        ("lenet", {"image_size": 8}, "16 pixels or more"),
    ]:
        with pytest.raises(foveal.InputError, match=text):
            foveal.create(name, **fields)
    with pytest.raises(foveal.InputError, match="unknown task 'clasify'; did you mean classify"):
        foveal.names("clasify")
