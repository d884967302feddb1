"""A short training on the digits, written out: what a small system has to be able to learn. And images too small."""

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from foveal.build import create
from foveal.errors import InputError
from foveal.structures import Batch, Label


def accuracy_on_digits(name: str, epochs: int, lr: float = 0.002) -> float:
    """Share of 537 digits that are named right after training on the other 1260, at 16 pixels."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    images, labels = nn.functional.interpolate(images, size=(16, 16), mode="bilinear"), torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1260], order[1260:]
    torch.manual_seed(0)
    system = create(name).train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(system(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (system.eval()(images[test]).argmax(1) == labels[test]).double().mean().item()


def own_loss(system: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of a system's own terms, of images (B, 3, H, W) and labels (B,)."""
    count = len(images)
    nothing = torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(count, 2)
    return sum(system.loss(Batch(images, tuple(map(Label, labels)), *nothing)).values())


def check_smallest_image(name: str, smallest: int, **fields: Any) -> None:
    """It takes images of this side, and says so of smaller ones, of which indeed nothing would be left."""
    system = create(name, image_size=smallest, **fields)
    assert system(torch.rand(1, 3, smallest, smallest + 5)).isfinite().all()
    said = f"takes images of {smallest} x {smallest} pixels or more, not"
    with pytest.raises(InputError, match=f"^{name} {said} {smallest + 9} x {smallest - 1}; image_"):
        system(torch.rand(1, 3, smallest + 9, smallest - 1))
    with pytest.raises(InputError, match=f"{said} {smallest - 1}"):
        create(name, image_size=smallest - 1, **fields)
    system.check_smallest = lambda size, side: None
    with pytest.raises(RuntimeError):
        system(torch.rand(1, 3, smallest - 1, smallest - 1))
