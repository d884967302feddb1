"""Exports in the format of folders."""

from tests.data.exports import Export

EXPORTS: list[Export] = []
