"""Folders are verbs: `foveal.train` is a package and, called, the function of that name in it."""

import sys
from functools import cached_property
from importlib import import_module
from inspect import cleandoc, signature
from types import ModuleType
from typing import Any


def make_callable(module: str, home: str, function: str) -> None:
    """Let a module be called: the call goes to `function` of the module `home`, which is imported at the first call."""

    class Verb(ModuleType):
        @cached_property
        def __wrapped__(self) -> Any:
            return getattr(import_module(home), function)

        @property
        def __doc__(self) -> str:  # type: ignore[override]
            """What `help` shows: the package's own line, then the function with its text."""
            own, called = vars(self)["__doc__"] or "", self.__wrapped__
            return f"{own}\n\n{called.__name__}{signature(called)}\n\n{cleandoc(called.__doc__ or '')}"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.__wrapped__(*args, **kwargs)

    sys.modules[module].__class__ = Verb
