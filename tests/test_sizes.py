"""foveal/sizes.txt holds what the systems are; python recipes/sizes.py writes it anew."""

import pytest

from foveal.build import measured_size
from foveal.catalog import ENTRIES, sizes

HEAVY = 20_000_000  # parameters of systems that take a second to build, even without numbers


def test_every_system_has_a_size() -> None:
    assert list(sizes()) == list(ENTRIES)


@pytest.mark.parametrize("name", [name for name, size in sizes().items() if size.parameters < HEAVY])
def test_sizes_are_true(name: str) -> None:
    assert sizes()[name] == measured_size(name)
