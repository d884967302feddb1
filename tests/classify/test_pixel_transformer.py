"""The transformer on pixels: one token a pixel, settings, learning. Its attention matrices: tests/test_cost.py."""

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.errors import InputError
from foveal.nn.record import record


def test_each_pixel_is_a_token():
    system = create("pixel_transformer_nano", image_size=(3, 4))
    assert not system.tokens
    images = torch.rand(2, 3, 3, 4)
    with record(system, "dropout", system.explained_layer) as outputs:
        system(images)
    weight, bias = system.patch_embedding.weight[:, :, 0, 0], system.patch_embedding.bias
    for i in range(3):
        for j in range(4):
            token = (2 * images[:, :, i, j] - 1) @ weight.T + bias + system.position_embedding[0, 4 * i + j]
            torch.testing.assert_close(outputs["dropout"][:, 4 * i + j], token)
    assert system.as_map(outputs[system.explained_layer]).shape == (2, 48, 3, 4)


def test_without_positions_the_order_of_pixels_is_lost():
    system = create("pixel_transformer_nano").double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    shuffled = images.flatten(2)[:, :, torch.randperm(64)].unflatten(2, (8, 8))
    assert not torch.allclose(system(images), system(shuffled))
    nn.init.zeros_(system.position_embedding)
    torch.testing.assert_close(system(images), system(shuffled))


def test_patches_are_for_vit():
    with pytest.raises(InputError, match=r"patch is 1, not 4; the systems vit_\* have patches"):
        create("pixel_transformer_nano", patch=4)


def test_the_nano_variant_learns_the_digits(small_digits):
    assert small_digits(create("pixel_transformer_nano"), epochs=4, lr=0.003, side=8) > 0.7
