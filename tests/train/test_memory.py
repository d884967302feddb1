from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import Player, System
from foveal.train.memory import training_bytes
from tests.test_cost import Toy, batch_of


def two_layers() -> Toy:
    modules = OrderedDict(flat=nn.Flatten(), one=nn.Linear(192, 16), relu=nn.ReLU(), two=nn.Linear(16, 2))
    return Toy(8, **modules)


def test_training_bytes_by_hand():
    found = training_bytes(two_layers(), batch_of(torch.rand(5, 3, 8, 8)))
    parameters = 4 * (192 * 16 + 16 + 16 * 2 + 2)
    assert found["parameters"] == found["gradients"] == parameters
    assert found["optimizer"] == 2 * parameters
    assert found["buffers"] == 4 * 6
    assert found["ema"] == 0
    # Inputs of both linear layers, the second of which is the relu's output too, and the input of the square.
    assert found["activations"] == 4 * 5 * (192 + 16 + 2)
    assert found["working"] == found["activations"] / 2
    assert found["total"] == 4 * parameters + 24 + 1.5 * 4 * 5 * 210


def test_training_bytes_of_other_recipes():
    system = two_layers()
    system.one.requires_grad_(False)
    found = training_bytes(system, batch_of(torch.rand(5, 3, 8, 8)), moments=1, ema=True)
    trained = 4 * (16 * 2 + 2)
    assert found["gradients"] == found["optimizer"] == trained
    assert found["ema"] == found["parameters"] + found["buffers"] == 4 * (192 * 16 + 16) + trained + 24
    assert found["activations"] == 4 * 5 * (16 + 2)  # a frozen layer's input is not needed


def test_training_bytes_are_those_of_training_mode():
    images = batch_of(torch.rand(5, 3, 8, 8))
    plain = training_bytes(two_layers(), images)["activations"]
    system = two_layers()
    system.relu = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    dropped = training_bytes(system.eval(), images)["activations"]
    assert dropped > plain  # what was dropped has to be remembered
    assert not system.training


def test_training_bytes_within_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        found = training_bytes(two_layers(), batch_of(torch.rand(5, 3, 8, 8)))
    weights = 2 * 16 * 2  # the second layer's in half precision; that of the first is not needed
    assert found["activations"] == 2 * 5 * (192 + 16 + 2) + weights


def test_training_bytes_takes_the_hungriest_player():
    class Duel(Toy):
        @property
        def players(self) -> dict[str, Player]:
            return {"generator": Player(self.one), "critic": Player(self.two)}

        def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
            hidden = self.one(batch.images.flatten(1))
            return {"score": (hidden if player == "generator" else self.two(hidden.detach())).square().mean()}

    found = training_bytes(Duel(8, one=nn.Linear(192, 16), two=nn.Linear(16, 300)), batch_of(torch.rand(5, 3, 8, 8)))
    assert found["activations"] == 4 * 5 * (16 + 300) > 4 * 5 * (192 + 16)


def test_training_bytes_sees_what_checkpointing_saves():
    def forward(self: Toy, images: Tensor) -> Tensor:
        run = (
            self.body
            if not self.frugal
            else lambda x: torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
        )
        return run(self.stem(images))

    body = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())))
    system = Toy(16, forward, stem=nn.Conv2d(3, 4, 3), body=body)
    system.frugal = False
    images = batch_of(torch.rand(2, 3, 16, 16))
    plain = training_bytes(system, images)["activations"]
    system.frugal = True
    frugal = training_bytes(system, images)["activations"]
    assert plain == 4 * 2 * (3 * 256 + 5 * 4 * 196)  # images, output of the stem, and of each tanh
    assert frugal == 4 * 2 * (3 * 256 + 2 * 4 * 196)


def test_training_bytes_needs_a_loss():
    class Ruled(Toy):
        loss = System.loss

    with pytest.raises(InputError, match="cannot be trained by gradient"):
        training_bytes(Ruled(8, one=nn.Conv2d(3, 2, 1)), batch_of(torch.rand(1, 3, 8, 8)))
