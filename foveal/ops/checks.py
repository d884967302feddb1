"""The shapes, types and devices that functions of this package take, as one line of an error where they do not hold."""

from torch import Tensor

from foveal.errors import InputError

KINDS = {
    "numbers": lambda tensor: not tensor.is_complex(),
    "floats": lambda tensor: tensor.is_floating_point(),
    "integers": lambda tensor: not (tensor.is_floating_point() or tensor.is_complex()),
}


def check(function: str, **given: tuple[Tensor, str]) -> None:
    """InputError unless each tensor has its shape and all are on one device. It looks at no values, so no GPU waits.

    function: the name in the error.
    given:    name -> (tensor, shape): a shape such as "N 4" or "... D", with " floats" or " integers" behind it where
              the type matters. A letter is the same size wherever it stands; the dimensions of "..." broadcast.
    """
    sizes: dict[str, int] = {}
    leading: tuple[int, ...] = ()
    device = None
    for tensor, shape in given.values():
        wanted, kind = _parsed(shape)
        if not isinstance(tensor, Tensor) or not KINDS[kind](tensor):
            raise _error(function, given)
        found = tensor.shape
        if wanted and wanted[0] == "...":
            count = len(found) - len(wanted) + 1
            merged = _broadcast(leading, found[:count]) if count >= 0 else None
            if merged is None:
                raise _error(function, given)
            leading, found, wanted = merged, found[count:], wanted[1:]
        if len(found) != len(wanted):
            raise _error(function, given)
        for size, name in zip(found, wanted, strict=True):
            if size != (name if isinstance(name, int) else sizes.setdefault(name, size)):
                raise _error(function, given)
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            devices = ", ".join(f"{name} on {tensor.device}" for name, (tensor, _) in given.items())
            raise InputError(f"{function} takes tensors on one device, not {devices}")


def _parsed(shape: str) -> tuple[tuple[str | int, ...], str]:
    words = shape.split()
    kind = words.pop() if words and words[-1] in KINDS else "numbers"
    return tuple(int(word) if word.isdigit() else word for word in words), kind


def _broadcast(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that both broadcast to; None where there is none."""
    if len(one) < len(two):
        one, two = two, one
    merged = list(one)
    for place, size in enumerate(two, len(one) - len(two)):
        if merged[place] == 1:
            merged[place] = size
        elif size not in (1, merged[place]):
            return None
    return tuple(merged)


def _error(function: str, given: dict[str, tuple[Tensor, str]]) -> InputError:
    wanted, found = [], []
    for name, (tensor, shape) in given.items():
        parts, kind = _parsed(shape)
        comma = "," if len(parts) == 1 else ""
        wanted.append(f"{name} ({', '.join(map(str, parts))}{comma}){'' if kind == 'numbers' else f' {kind}'}")
        if not isinstance(tensor, Tensor):
            found.append(type(tensor).__name__)
        else:
            found.append(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
    return InputError(f"{function} takes {', '.join(wanted)}; not {', '.join(found)}")
