"""Names of LeNet-5 in files that follow PyTorch's tutorials (conv1, conv2, fc1 ...) or the paper (C1, C3, C5, F6)."""

from collections.abc import Mapping

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, Table, matrix, rename

BEGIN = r"(?i)(?:(?:features|feature_extractor|convnet|convs|fc|classifier)\.)?"  # a Sequential around them

# The third layer may be a convolution as large as its map.
LENET = (
    Rule(BEGIN + r"(?:conv1|c1)\.", "stage1.conv."),
    Rule(BEGIN + r"(?:conv2|c3)\.", "stage2.conv."),
    Rule(BEGIN + r"(?:fc1|conv3|c5)\.weight$", "classifier.c5.weight", matrix),
    Rule(BEGIN + r"(?:fc1|conv3|c5)\.", "classifier.c5."),
    Rule(BEGIN + r"(?:fc2|f6)\.", "classifier.f6."),
    Rule(BEGIN + r"(?:fc3|f7|out|output)\.", "classifier.output."),
)

FAMILIES: dict[str, Table] = {"LeNet": LENET}


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A tutorial's weights for a system under our names; None where the names are not of this layout."""
    return rename(FAMILIES, system, state)
