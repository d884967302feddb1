"""What a method of explanation is: one function, with what the verb has to know of it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

OWN = 3  # parameters of each function that are no settings: system, images, target


@dataclass(frozen=True)
class Method:
    """A method of explanation.

    function:    (system, prepared images (B, 3, h, w), target, settings ...) -> maps (B, h', w'). Its parameters after
                 the third are its settings, on the command line too, with their lines of its docstring as help; one
                 named `bar`, by keyword alone, gets the progress.
    of_layer:    the map has the resolution of a layer, which the setting `layer` names; else that of the image.
    many_passes: it takes so many passes without gradient that a detector is made faster beforehand.
    no_change:   what a map of zeros means, in the middle of a sentence.
    """

    function: Callable[..., Tensor]
    of_layer: bool = False
    many_passes: bool = False
    no_change: str = "the gradient is zero: no pixel changes"

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The settings by name."""
        parameters = [*inspect.signature(self.function).parameters.values()][OWN:]
        return {each.name: each for each in parameters if each.kind is not each.KEYWORD_ONLY}

    def help(self, setting: str) -> str:
        """What the docstring of the function says of a setting."""
        text = inspect.cleandoc(self.function.__doc__ or "").partition(f"\n{setting}:")[2]
        lines = text.split("\n")
        more = takewhile(lambda line: line.startswith(" "), lines[1:])
        return " ".join([lines[0].strip(), *(line.strip() for line in more)])

    @property
    def shows_progress(self) -> bool:
        """Whether the function takes a bar."""
        return "bar" in inspect.signature(self.function).parameters
