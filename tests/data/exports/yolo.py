"""Exports in the format of yolo."""

from tests.data.exports import Export

EXPORTS: list[Export] = []
