"""Small systems with weights and statistics at random, in float64, and images for them."""

from typing import Any

import pytest
import torch

import foveal
from tests.parity.compare import randomise


def build(name: str, **fields: Any) -> Any:
    """A system in float64 with nothing left at zero or one."""
    return randomise(foveal.create(name, **fields)).double()


@pytest.fixture
def system() -> Any:
    return build("resnet_nano", width=8)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
