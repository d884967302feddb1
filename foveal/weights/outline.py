"""The header of a safetensors file, read without its tensors: their names, types and shapes, and the file's metadata.

A file is eight bytes with the length of the header, the header as JSON, and the numbers. All that is taken for the
header is bounded; whether the numbers are all there is compared with the size of the file.
"""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from foveal.errors import InputError, printable
from foveal.filesystem import open_file
from foveal.schema import Count, check, parse

MAX_HEADER = 2**24  # bytes: 100 for each tensor, 20 for each class name
MAX_TENSORS = 2**16  # ResNet-152 with the state of its optimizer has 3,000
MAX_DIMENSIONS = 8
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Unsupported(InputError):
    """A whole file, but not one that is read."""


class Entry(TypedDict):
    """A tensor in the header."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


class Outline(NamedTuple):
    """metadata: the texts in the header; tensors: on "meta"."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def read_outline(path: Path) -> Outline:
    """Raises InputError for a file that is no safetensors file, is truncated, or has tensors of other types."""
    with open_file(path) as file:
        try:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            size = file.seek(0, 2) - 8 - length
            if len(start) < 8 or size < 0:
                raise InputError("it is truncated")
            if length > MAX_HEADER:
                raise Unsupported(f"its header has {length:,} bytes, and may have {MAX_HEADER:,} at most")
            file.seek(8)
            header = parse(file.read(length).decode())
            check(header, dict[str, Any])
            metadata = header.pop("__metadata__", {})
            check(metadata, dict[str, str], "__metadata__")
            if len(header) > MAX_TENSORS:
                raise Unsupported(f"it has {len(header):,} tensors, and may have {MAX_TENSORS:,} at most")
            tensors = {name: _on_meta(name, entry) for name, entry in header.items()}
            if sum(tensor.nbytes for tensor in tensors.values()) != size:
                raise InputError("it is truncated, or its header is not that of its numbers")
        except Unsupported as error:
            raise InputError(f"{path}: {error}") from None
        except (OSError, ValueError) as error:  # InputError and UnicodeDecodeError among them
            text = printable(str(error), 200)
            raise InputError(f"{path} is not a whole safetensors file, it may be truncated: {text}") from None
    return Outline(metadata, tensors)


def _on_meta(name: str, entry: Entry) -> Tensor:
    check(entry, Entry, printable(name))
    if entry["dtype"] not in TYPES:
        kind = printable(entry["dtype"])
        raise Unsupported(f"{printable(name)} has the type {kind}; those of weights are {', '.join(TYPES)}")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if len(shape) > MAX_DIMENSIONS:
        raise Unsupported(f"{printable(name)} has {len(shape)} dimensions, and may have {MAX_DIMENSIONS} at most")
    # Of an empty tensor the other lengths have no bound but this one.
    if prod(max(1, length) for length in shape) >= 2**62:
        raise InputError(f"{printable(name)} is larger than any tensor can be")
    tensor = torch.empty(shape, dtype=TYPES[entry["dtype"]], device="meta")
    if tensor.nbytes != end - begin:
        raise InputError(f"{printable(name)} has not the bytes that its shape takes")
    return tensor
