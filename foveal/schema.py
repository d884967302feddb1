"""Checks a JSON value against a type, so that a file edited by hand is one error line and never a traceback."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from foveal.errors import InputError

DEEPEST = 32  # levels of lists and objects within a value of any type
MAX_VALUES = 2**20  # lists, objects and what is in them, of one JSON text: some 100 MB
LARGEST_INT = 2**64  # a seed may be that large
LARGEST_FLOAT = 1e100  # far above what a sum of float32 can reach, and far below what overflows in a drawing
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True)
class Between:
    """The range of a number: `Annotated[int, Between(0)]`, both ends included."""

    low: float = -math.inf
    high: float = math.inf


Count = Annotated[int, Between(0)]


def parse(text: str) -> Any:
    """A JSON value. Raises InputError, without the name of a file."""
    if sum(text.count(sign) for sign in ",[{") > MAX_VALUES:
        raise InputError(f"it has more than {MAX_VALUES:,} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError("it is nested too deeply") from None
    except ValueError as error:  # also for numbers of thousands of digits
        raise InputError(str(error)) from None


def check(value: Any, hint: Any, place: str = "") -> None:
    """InputError where a value read from JSON is not of a type; its text names the place, such as "config.lr".

    hint: numbers, text, None, Literal, unions, lists, tuples, dicts, TypedDicts and dataclasses of these; `Any`; and
          `Annotated` with a `Between`. Any other class is one that JSON holds as text. A field of a dataclass may be
          missing if it has a default, and there may be more keys than a TypedDict or a dataclass has.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        _check_depth(value, place)
    elif origin in (Required, NotRequired):
        check(value, arguments[0], place)
    elif origin is Annotated:
        check(value, arguments[0], place)
        low, high = arguments[1].low, arguments[1].high
        if not low <= value <= high:
            span = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
            raise InputError(f"{place} has to be {span}, not {_shown(value)}")
    elif origin in (Union, UnionType):
        _check_union(value, arguments, place)
    elif origin is Literal:
        if not isinstance(value, str | int) or value not in arguments:
            raise InputError(f"{place} has to be {_named(hint)}, not {_shown(value)}")
    elif is_typeddict(hint):
        _check_keys(value, get_type_hints(hint, include_extras=True), hint.__required_keys__, place)
    elif is_dataclass(hint):
        without = {f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING}
        _check_keys(value, get_type_hints(hint, include_extras=True), without, place)
    elif origin in (list, tuple):
        _require(isinstance(value, list | tuple), value, hint, place)
        several = origin is list or arguments[1:] == (...,)
        if not several and len(value) != len(arguments):
            raise InputError(f"{place} has to be a list of {len(arguments)}, not {_shown(value)}")
        for number, part in enumerate(value):
            check(part, arguments[0 if several else number], f"{place}[{number}]")
    elif origin in (dict, Mapping):
        _require(isinstance(value, dict), value, hint, place)
        for key, part in value.items():
            check(part, arguments[1], f"{place}.{key}" if place else key)
    else:
        _check_plain(value, hint, place)


def _check_plain(value: Any, hint: Any, place: str) -> None:
    kind = hint if hint in _NAMES else NoneType if hint is None else str
    numeric = (int, float) if kind is float else (kind,)
    _require(type(value) in numeric, value, kind, place)
    if kind in (int, float) and not (isinstance(value, int) and abs(value) <= LARGEST_INT):
        _require(kind is float and math.isfinite(value) and abs(value) <= LARGEST_FLOAT, value, kind, place)


def _check_union(value: Any, hints: tuple[Any, ...], place: str) -> None:
    problems = []
    for hint in hints:
        try:
            return check(value, hint, place)
        except InputError as error:
            problems.append((hint, error))
    # Within a list or an object of the right sort, the place of the error is the one inside.
    for _, problem in problems:
        if not str(problem).startswith(f"{place} has to be"):
            raise problem
    raise InputError(f"{place} has to be {' or '.join(_named(hint) for hint, _ in problems)}, not {_shown(value)}")


def _check_keys(value: Any, hints: Mapping[str, Any], required: Any, place: str) -> None:
    _require(isinstance(value, dict), value, dict, place)
    inside = f"{place}." if place else ""
    if missing := sorted(required - value.keys()):
        raise InputError(f"{inside}{missing[0]} is missing")
    for name, hint in hints.items():
        if name in value:
            check(value[name], hint, f"{inside}{name}")


def _check_depth(value: Any, place: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return
        inside = [part for part in level if isinstance(part, list | dict)]
        level = [part for whole in inside for part in (whole.values() if isinstance(whole, dict) else whole)]
    raise InputError(f"{place} is nested more than {DEEPEST} levels deep")


def _require(holds: bool, value: Any, hint: Any, place: str) -> None:
    if not holds:
        raise InputError(f"{place or 'it'} has to be {_named(hint)}, not {_shown(value)}")


def _named(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return _named(get_args(hint)[0])
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if origin in (list, tuple):
        return "a list"
    if origin in (dict, Mapping) or hint is dict or is_typeddict(hint) or is_dataclass(hint):
        return "an object"
    return _NAMES.get(NoneType if hint is None else hint, "text")


def _shown(value: Any, width: int = 40) -> str:
    """A value in a few words; a whole one may have thousands of digits or levels."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_INT:
        return "a number of that size"
    text = repr(value[:width] if isinstance(value, str) else value)
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)
