"""What the contract test cannot see of autoencoders: the loss, the noise, what they cannot do."""

from typing import Any

import pytest
import torch
from torch import nn

import foveal
from foveal.data.builtin import digits
from foveal.structures import Batch
from foveal.train.config import TrainConfig
from tests.toys import small_digits


def small(**fields: Any) -> Any:
    torch.manual_seed(0)
    return foveal.create("autoencoder_nano", **{"latent": 6, "width": 4} | fields)


def batch(images: torch.Tensor) -> Batch:
    count = len(images)
    return Batch(images, (), torch.arange(count), torch.zeros(count, 2, 3), torch.full((count, 2), 8))


def test_the_loss_is_the_error_of_pixels() -> None:
    system, images = small(), torch.rand(3, 1, 8, 8).expand(-1, 3, -1, -1)
    pixels = system(images) * 0.5 + 0.5
    expected = (pixels - images[:, :1]).square().mean()
    torch.testing.assert_close(system.loss(batch(images))["reconstruction"], expected)
    torch.testing.assert_close(system.reconstruct(images)[:, 1:2], pixels.clamp(0, 1))


def test_noise_is_added_to_what_is_seen_and_not_to_what_is_wanted() -> None:
    system, images = small(noise=0.25), torch.rand(3, 1, 8, 8).expand(-1, 3, -1, -1)
    torch.manual_seed(5)
    found = system.loss(batch(images))["reconstruction"]
    torch.manual_seed(5)
    disturbed = images[:, :1] + 0.25 * torch.randn(3, 1, 8, 8)
    pixels = system.decoder(system.code(system.encoder((disturbed - 0.5) / 0.5).flatten(1))) * 0.5 + 0.5
    torch.testing.assert_close(found, (pixels - images[:, :1]).square().mean())
    assert torch.equal(system(images), system(images))  # what is asked of it later is not disturbed


def test_the_decoder_doubles_by_transposed_convolutions() -> None:
    system = small()
    layers = [m for m in system.decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in layers] == [(16, 8, (2, 2)), (8, 4, (2, 2))]
    assert [tuple(x.shape[1:]) for x in system.maps(torch.rand(1, 1, 16, 8))] == [(4, 16, 8), (8, 8, 4), (16, 4, 2)]


def test_what_it_cannot_do_is_told() -> None:
    system = small()
    with pytest.raises(foveal.InputError, match="autoencoder_nano cannot make images"):
        system.sample(1)
    assert not system.can("sample")
    for fields, said in (
        ({"conditional": True}, "conditional has no effect on an autoencoder"),
        ({"noise": -0.1}, "noise must be at least 0"),
        ({"latent": 0}, "latent must be at least 1"),
        ({"image_size": 9}, "an autoencoder halves its maps 2 times: .* multiple of 4, not 9 x 9"),
    ):
        with pytest.raises(foveal.InputError, match=said):
            foveal.create("autoencoder_nano", **fields)
    with pytest.raises(foveal.InputError, match=r"images of \(16, 8\) pixels, not of \(8, 8\)"):
        system.encode(torch.rand(1, 3, 16, 8))


def test_it_learns_to_take_noise_away(tmp_path: Any) -> None:
    torch.manual_seed(0)
    system = foveal.create("autoencoder_nano", noise=0.3)
    run = foveal.train(system, digits(), TrainConfig(out=str(tmp_path / "run"), epochs=4, quiet=True, report=False))
    images = torch.stack([small_digits().image(i) for i in range(100)]).float() / 255
    noisy = images + 0.3 * torch.randn(100, 1, 8, 8)
    with torch.no_grad():
        left = (run.system.reconstruct(noisy) - images).square().mean()
    assert left < 0.5 * 0.3**2
