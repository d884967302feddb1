from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def small_digits() -> Callable[..., float]:
    """Trains a system on scikit-learn's digits in a bare loop, at 16 x 16 pixels or those told; the test accuracy."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    labels = torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1260], order[1260:]
    torch.manual_seed(0)

    def learn(
        system: nn.Module,
        epochs: int,
        lr: float,
        objective: Callable[..., torch.Tensor] | None = None,
        *,
        side: int = 16,
    ) -> float:
        resized = nn.functional.interpolate(images, size=(side, side), mode="bilinear")
        system.train()
        optimizer = torch.optim.AdamW(system.parameters(), lr=lr)
        for _ in range(epochs):
            for rows in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                if objective is None:
                    nn.functional.cross_entropy(system(resized[rows]), labels[rows]).backward()
                else:
                    objective(system, resized[rows], labels[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            return (system.eval()(resized[test]).argmax(1) == labels[test]).double().mean().item()

    return learn
