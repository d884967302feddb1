"""Images themselves: what a system that makes images learns from."""

from foveal.metrics.generate import GenerateEvaluator
from foveal.report.generate import sections
from foveal.structures import Picture
from foveal.task import Task

PICTURE = Task("generate", Picture, any_images=True, thorough=GenerateEvaluator, sections=sections)
