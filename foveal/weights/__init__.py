"""Weights of any publisher into a system: one file a publisher, with how its names map to ours."""

from foveal.weights.convert import Match, Misfit, fits, load_weights
from foveal.weights.files import class_names
from foveal.weights.recognise import PUBLISHERS, translate
from foveal.weights.rows import Rows

__all__ = ["PUBLISHERS", "Match", "Misfit", "Rows", "class_names", "fits", "load_weights", "translate"]
