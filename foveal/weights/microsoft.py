"""Names in the checkpoints of Microsoft's own Swin Transformer, which timm's of before 2023 share."""

from collections.abc import Mapping

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, rename
from foveal.weights.timm import SWIN_BLOCKS

# A merging is counted with the stage before it.
SWIN = (
    *SWIN_BLOCKS,
    Rule(r"layers\.(\d+)\.downsample\.", lambda name: f"merge{int(name[1]) + 1}."),
    Rule(r"head\.", "classifier."),
)

FAMILIES: dict[str, Table] = {"Swin": SWIN}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Microsoft's weights for a system under our names; None where the names are not theirs."""
    return rename(FAMILIES, system, state)
