"""Exports in the format of coco."""

from tests.data.exports import Export

EXPORTS: list[Export] = []
