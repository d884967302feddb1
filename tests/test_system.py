import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import foveal
from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.errors import InputError
from foveal.system import Preprocess, evaluating

SIZES = [(50, 80), (300, 200), (224, 224), (31, 500), (256, 341), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_is_torchvisions(size: tuple[int, int], interpolation: str) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mode = v2.InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(256, mode, antialias=True), v2.CenterCrop(224)])
    ours = Preprocess((224, 224), "crop", 0.875, interpolation=interpolation)
    assert torch.equal(ours.apply(image), theirs(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["squash", "crop", "fit"])
def test_affine_says_where_each_pixel_went(size: tuple[int, int], rule: str) -> None:
    height, width = size
    preprocess = Preprocess((64, 96), rule)
    # An image whose two channels are the coordinates of each pixel's centre; linear, so resizing keeps it inside.
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    where = preprocess.apply(torch.stack([x, y, torch.ones_like(x)]))
    assert where.shape == (3, 64, 96)
    affine = preprocess.affine(height, width)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    there = torch.einsum("ij,jhw->ihw", affine.float(), where)
    inner = (where[2] == 1) & (where[0] > 2) & (where[0] < width - 2) & (where[1] > 2) & (where[1] < height - 2)
    # Resizing rounds sizes, and antialiasing blurs the ends: a prepared pixel is where the map says to half a pixel.
    assert ((there[0] - x)[inner].abs() < 0.75).all()
    assert ((there[1] - y)[inner].abs() < 0.75).all()
    assert inner.any() or min(size) < 8


def test_fit_keeps_the_whole_image_and_pads_with_what_becomes_zero() -> None:
    preprocess = Preprocess((40, 40), "fit")
    prepared = preprocess.apply(torch.ones(3, 10, 20))
    assert prepared[:, :20, :].min() == 1
    system = foveal.create("resnet_nano", preprocess=preprocess)
    assert system.normalize(prepared[None])[..., 20:, :].abs().max() < 1e-6
    assert preprocess.apply(torch.zeros(3, 10, 20, dtype=torch.uint8))[:, 20:].unique().tolist() == [104, 116, 124]


def test_bound_keeps_both_sides_within_the_size_or_the_size_turned() -> None:
    preprocess = Preprocess((64, 96), "bound")
    shapes = [(30, 60), (60, 30), (50, 50), (10, 200)]
    prepared = [preprocess.apply(torch.ones(3, *shape)) for shape in shapes]
    assert [tuple(image.shape[1:]) for image in prepared] == [(64, 96), (96, 64), (64, 64), (32, 96)]
    assert preprocess.affine(30, 60)[0, 0] == preprocess.affine(60, 30)[0, 0] == 96 / 60
    batch = preprocess.batch([torch.ones(3, *shape) for shape in shapes])
    assert batch.images.shape == (4, 3, 96, 96)
    assert batch.shown().sum((1, 2)).tolist() == [48 * 96, 96 * 48, 64 * 64, 5 * 96]
    assert batch.images[:, 0][batch.shown()].min() > 0.9999
    assert (batch.images[:, 0][~batch.shown()] - 0.485).abs().max() < 1e-6


def test_normalisation_is_the_first_operation() -> None:
    system = foveal.create("resnet_nano", preprocess=Preprocess((16, 16), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    images = torch.rand(2, 3, 16, 16)
    theirs = v2.Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(images)
    assert torch.allclose(system.normalize(images), theirs, atol=1e-6)
    grey = foveal.create("lenet").normalize(images)
    assert torch.allclose(grey, v2.functional.rgb_to_grayscale(images) * 2 - 1, atol=1e-3)


def test_predict_does_not_depend_on_the_mode() -> None:
    system = foveal.create("resnet_nano", dropout=0.5)
    images = [torch.rand(3, 20, 20) for _ in range(4)]
    quiet = system.eval().predict(images)
    loud = system.train().predict(images)
    for one, two in zip(quiet, loud, strict=True):
        assert torch.equal(one.scores, two.scores)


def test_evaluating_restores_each_mode() -> None:
    system = foveal.create("resnet_nano").train()
    system.stage1.eval()
    with evaluating(system):
        assert not any(module.training for module in system.modules())
        assert not torch.is_grad_enabled()
    assert system.training
    assert not system.stage1.training
    assert system.stage2.training


def test_what_a_system_cannot_do_is_said() -> None:
    with pytest.raises(foveal.InputError, match="lenet cannot make images"):
        foveal.create("lenet").sample(3)
    with pytest.raises(foveal.InputError, match="lenet cannot be fitted"):
        foveal.create("lenet").fit([])


@pytest.mark.parametrize("name", ["perceptron", "linear_softmax", "lenet"])
def test_answers_that_are_not_finite_are_an_error(name: str) -> None:
    system = foveal.create(name, labels=("a", "b", "c"))
    with torch.no_grad():
        for value in system.state_dict().values():
            if value.is_floating_point():
                value.fill_(3e38).view(-1)[::2].neg_()
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    with pytest.raises(InputError, match=rf"the scores that {name} predicts are not finite"):
        system.predict([image])
    images = ImageArray(image.expand(3, -1, -1, -1), "made")
    data = Dataset("made", "classify", ("a", "b", "c"), images, LabelColumn([0, 1, 2]), np.zeros(3, np.int8))
    with pytest.raises(InputError, match=r"is (nan|inf) on made: the weights of .* have run away"):
        foveal.evaluate(system, data)
