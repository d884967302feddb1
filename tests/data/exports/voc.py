"""Exports in the format of voc."""

from tests.data.exports import Export

EXPORTS: list[Export] = []
