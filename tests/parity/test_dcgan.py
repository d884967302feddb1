"""DCGAN against a plain Sequential in the layout of pytorch/examples, each player from a file of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.errors import InputError
from foveal.weights import load_weights, translate

from .compare import (
    TOLERANCE,
    compare_gradients,
    gradients_of,
    parameters_of,
    randomise,
    relative_error,
    row,
)


class Main(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x)


def plain_generator(latent: int, width: int, channels: int) -> Main:
    def up(a: int, b: int, stride: int, pad: int) -> nn.Module:
        return nn.ConvTranspose2d(a, b, 4, stride, pad, bias=False)

    layers: list[nn.Module] = []
    before = latent
    for number, factor in enumerate((8, 4, 2, 1)):
        after = width * factor
        layers += [up(before, after, 2 if number else 1, 1 if number else 0), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return Main(*layers, up(before, channels, 2, 1), nn.Tanh())


def plain_discriminator(width: int, channels: int) -> Main:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for factor in (1, 2, 4):
        a, b = width * factor, 2 * width * factor
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    return Main(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))


PLAYERS = {"generator": lambda: plain_generator(10, 8, 3), "discriminator": lambda: plain_discriminator(8, 3)}
FIELDS = {"latent": 10, "width": 8}


@pytest.mark.parametrize("player", PLAYERS)
def test_equal_to_the_plain_layout(player: str, tmp_path: Path, record_property: Callable[..., None]) -> None:
    reference, file = randomise(PLAYERS[player]()), tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), file)
    torch.manual_seed(0)
    system = create("dcgan", weights=file, **FIELDS)
    layout, _ = translate(system, reference.state_dict())
    assert layout == "pytorch_examples"
    other = "discriminator" if player == "generator" else "generator"
    said = f"weights.safetensors (pytorch_examples's layout), which lacks {other}."
    assert system.started_from.startswith(said)
    assert system.started_from.endswith(": these begin anew")

    system, reference = system.double().eval(), reference.double().eval()
    if player == "generator":
        x = torch.randn(3, 10, dtype=torch.float64)
        found, wanted = system.generator(x, None), reference(x[..., None, None])
        torch.testing.assert_close(system.render(x), (wanted + 1) / 2)
    else:
        x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
        found, wanted = system(x), reference(2 * x - 1).flatten()
    direction = torch.randn_like(wanted)
    (found * direction).sum().backward()
    (wanted * direction).sum().backward()
    error = relative_error(found, wanted)
    assert error < TOLERANCE
    gradients = translate(system, gradients_of(reference))[1]
    mine = system.players[player]
    worst = compare_gradients(
        {f"{player}.{name}": gradient for name, gradient in gradients_of(mine).items()}, gradients
    )
    figures = {"parameters": parameters_of(mine), "logits": error, "gradients": worst}
    record_property("parity", row(f"dcgan ({player}, narrow)", "torch", "nn.Sequential", "pytorch_examples", figures))


def test_files_of_other_sizes_are_told(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(PLAYERS["generator"]().state_dict(), file)
    with pytest.raises(InputError, match=r"of another shape: generator.body.stage1.conv.weight"):
        load_weights(create("dcgan", latent=12, width=8), file)
    with pytest.raises(InputError, match="left over"):
        load_weights(create("dcgan", image_size=32, **FIELDS), file)
