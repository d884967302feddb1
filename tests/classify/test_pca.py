import pytest
import torch

import foveal
from tests.classify.test_neighbors import batch


def test_components_are_directions_of_most_variance() -> None:
    torch.manual_seed(0)
    system = foveal.create("pca", image_size=3, components=2, k=1).double()
    direction = torch.nn.functional.normalize(torch.randn(27).double(), dim=0)
    strength = torch.linspace(-1, 1, 40).double()
    noise = 0.001 * torch.randn(40, 27).double()
    images = (0.5 + 0.1 * strength[:, None] * direction + noise).view(-1, 3, 3, 3)
    system.fit([batch(images[:20], [0] * 20), batch(images[20:], [1] * 20)])
    first = system.basis.components[0]
    assert abs(float(first @ direction)) > 0.999
    assert float(system.basis.share[0]) > 0.99
    # Components are orthonormal, and the variance that is kept is that of the points.
    assert torch.allclose(system.basis.components @ system.basis.components.T, torch.eye(2).double(), atol=1e-12)
    assert torch.allclose(system.known.points.var(0), system.basis.variance, rtol=1e-9)
    assert system(images).argmax(1).tolist() == [0] * 20 + [1] * 20


def test_pictures() -> None:
    system = foveal.create("pca", image_size=4, components=3)
    assert system.pictures() == {}
    images = torch.rand(12, 3, 4, 4)
    system.fit([batch(images, [0, 1, 2] * 4)])
    mean, _ = system.pictures()["mean image"]
    assert torch.allclose(mean[0], images.mean(0), atol=1e-5)
    eigenimages, captions = system.pictures()["eigenimages"]
    assert eigenimages.shape == (3, 3, 4, 4)
    assert (eigenimages.min() >= 0) & (eigenimages.max() <= 1)
    assert captions[0].endswith(" %")


def test_no_more_components_than_images() -> None:
    system = foveal.create("pca", image_size=4, components=13, k=1)
    with pytest.raises(foveal.InputError, match="13 components are more than 12 training images of 48 numbers"):
        system.fit([batch(torch.rand(12, 3, 4, 4), [0, 1, 2] * 4)])
    with pytest.raises(foveal.InputError, match="components must be"):
        foveal.create("pca", components=0)


def test_nothing_is_known_before_it_is_fitted() -> None:
    with pytest.raises(foveal.InputError, match="pca cannot answer yet"):
        foveal.create("pca").features(torch.rand(2, 3, 32, 32))
