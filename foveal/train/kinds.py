"""Whether a value is of the type that a setting is declared with."""

from numbers import Integral, Real
from os import PathLike
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from foveal.errors import InputError

# Of a type, what its values may be and what they are called. A whole number will do for any number.
KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str | PathLike, "a text"),
    type(None): (type(None), "None"),
}


def check_kind(name: str, value: Any, hint: Any) -> None:
    """InputError where a setting has a value of another type than its own. Choices have a check of their own."""
    if not _is_of(value, hint):
        raise InputError(f"{name} is {_called(hint)}, not {value!r}")


def _is_of(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if isinstance(hint, UnionType):
        return any(_is_of(value, one) for one in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple | list) and all(_is_of(part, get_args(hint)[0]) for part in value)
    if origin is Literal:
        return True
    return isinstance(value, KINDS.get(hint, (origin,))[0]) and (hint is bool or not isinstance(value, bool))


def _called(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_called(one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a tuple, each part {_called(get_args(hint)[0])}"
    return KINDS[hint][1] if hint in KINDS else f"a {(get_origin(hint) or hint).__name__}"
