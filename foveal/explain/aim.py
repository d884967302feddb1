"""What an explanation looks for."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Aim:
    """What is looked for: a class, or one object.

    target:      as `System.score` takes it.
    name:        of the class.
    probability: as `predict` gives it.
    box:         (4,) of the object, x1, y1, x2, y2 in pixels of the image; None where the aim is no object.
    """

    target: Any
    name: str
    probability: float
    box: Tensor | None = None
