"""A short training on the digits, written out: what a small system has to be able to learn."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from foveal.catalog import create


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
