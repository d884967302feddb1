"""What a run will cost, measured before its first step."""

import time

from foveal.data.loader import Loader
from foveal.train.augment import BatchAugment
from foveal.train.state import State

def preview(state: State, loader: Loader, augment: BatchAugment, val_loader: Loader | None) -> list[str]:
    return []
