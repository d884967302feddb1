"""Files by torch.save, read without pickle: a small machine that knows the few instructions of such files.

A pickle is a program for a machine with a stack. This one makes text, numbers, lists, dicts, and tensors that lie in
storages beside the program; whatever else a program names is `Opaque`, or an error where that might run code. It
follows the instructions of protocol 2, which torch.save writes, as pickletools of the standard library lists them.

Two layouts: a zip archive with `data.pkl` and a file for each storage, and that of before 2020, several pickles one
after another with the storages behind them.
"""

import struct
import zipfile
from collections.abc import Callable
from math import prod
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from foveal.errors import InputError, printable

MAX_PROGRAM = 2**24  # bytes
MAX_STEPS = 2**20  # instructions; a tensor takes 40
MAX_DIRECTORY = 2**22  # bytes of the directory of an archive, 100 for each storage
MAX_RATIO = 16  # bytes that come out of one in the file; weights do not shrink
MAX_SHARED = 4  # how often all storages may be used by tensors, such as by tied weights
MAX_DIMENSIONS = 8

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
# Values without a meaning for weights, and which run nothing: kept as `Opaque`.
HARMLESS = {
    "collections.Counter",
    "collections.defaultdict",
    "torch.serialization._get_layout",
    "torch.device",
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.set",
    "builtins.complex",
    "__builtin__.bytearray",
    "__builtin__.set",
    "__builtin__.complex",
    "argparse.Namespace",
}
BUILT = (
    *("collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.nn.parameter.Parameter"),
    "torch._tensor._rebuild_from_type_v2",
)
UNREADABLE = ("_rebuild_sparse", "_rebuild_qtensor", "_rebuild_nested", "_rebuild_meta", "_rebuild_wrapper")
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the layout before 2020


class Opaque(NamedTuple):
    """A value that holds no weights."""

    kind: str


class Global(NamedTuple):
    """Something that a program refers to by its module and name."""

    name: str


class Storage(NamedTuple):
    """Numbers of one type, still to be filled."""

    numbers: Tensor


class RunsCode(InputError):
    """A program that names what is not in the list of harmless things."""


def read_pickled(file: BinaryIO) -> Any:
    """The content of a file by torch.save.

    Raises InputError, without the name of the file, RunsCode where opening it with pickle might run code, and other
    exceptions where it is no such file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(4) == b"PK\3\4":
        return _read_archive(file, size)
    file.seek(0)
    program = file.read(MAX_PROGRAM)
    machine = Machine(program, size)
    magic, protocol, _ = machine.run(), machine.run(), machine.run()
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise InputError("it does not begin as torch.save does")
    content, keys = machine.run(), machine.run()
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or machine.storages.keys() != set(keys):
        raise InputError("its list of storages is not that of its tensors")
    file.seek(machine.place)
    for key in keys:
        numbers = machine.storages[key].numbers
        if int.from_bytes(file.read(8), "little") != numbers.numel():
            raise InputError(f"its storage {printable(str(key))} has another size")
        _fill(numbers, file)
    return content


def _read_archive(file: BinaryIO, size: int) -> Any:
    careful = _Careful(file)
    with zipfile.ZipFile(careful) as archive:
        careful.limit = size
        entries = archive.infolist()
        if sum(entry.compress_size for entry in entries) > size:
            raise InputError("its parts are larger than the file")
        for entry in entries:
            if entry.file_size > MAX_RATIO * entry.compress_size + 2**16:
                raise InputError(f"its part {printable(entry.filename)} unpacks to {entry.file_size:,} bytes")
        parts = {entry.filename.partition("/")[2]: entry for entry in entries}
        if parts["data.pkl"].file_size > MAX_PROGRAM:
            raise InputError(f"its data.pkl has more than {MAX_PROGRAM:,} bytes")
        program = _opened(parts["data.pkl"], archive, file).read(parts["data.pkl"].file_size)
        machine = Machine(program, sum(entry.file_size for entry in entries))
        content = machine.run()
        swapped = "byteorder" in parts and _opened(parts["byteorder"], archive, file).read(3) == b"big"
        for key, (numbers,) in machine.storages.items():
            entry = parts[f"data/{key}"]
            if entry.file_size < numbers.nbytes:
                sizes = f"{entry.file_size:,} of {numbers.nbytes:,}"
                raise InputError(f"its storage {printable(key)} has {sizes} bytes")
            _fill(numbers, _opened(entry, archive, file))
            if swapped:
                numbers.untyped_storage().byteswap(numbers.dtype)
    return content


def _opened(entry: zipfile.ZipInfo, archive: zipfile.ZipFile, file: BinaryIO) -> Any:
    """A file at the beginning of a part of an archive."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return archive.open(entry)
    # In place: torch.save may leave out the checksum, which the archive's own reader insists on.
    file.seek(entry.header_offset)
    file.seek(sum(struct.unpack("<HH", file.read(30)[26:])), 1)
    return file


class _Careful:
    """A file of which little is read at once, so that the directory of an archive is no reason for gigabytes."""

    limit = MAX_DIRECTORY

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, file.seek(0, 2)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        size = max(0, self.size - self.tell()) if size < 0 else size
        if size > self.limit:
            raise InputError(f"its directory has more than {self.limit:,} bytes")
        return self.file.read(size)


def _fill(numbers: Tensor, file: Any) -> None:
    if numbers.numel():
        view = memoryview(numbers.view(torch.uint8).numpy().data)
        done = 0
        while done < len(view) and (count := file.readinto(view[done:])):
            done += count
        if done < len(view):
            raise InputError("it is truncated")


class Machine:
    """Runs pickles one after another.

    program:  the bytes; `place` is behind the last instruction that ran.
    size:     bytes that all storages may take.
    storages: by the key under which each lies beside the program.
    """

    def __init__(self, program: bytes, size: int) -> None:
        self.program, self.place, self.left, self.steps = program, 0, size, MAX_STEPS
        self.usable = MAX_SHARED * size
        self.storages: dict[Any, Storage] = {}

    def run(self) -> Any:
        """The value of the next pickle."""
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        while True:
            self.steps -= 1
            if self.steps < 0:
                raise InputError(f"its pickle has more than {MAX_STEPS:,} instructions")
            instruction = self._take(1)
            if instruction == b".":
                return self.stack.pop()
            if instruction not in INSTRUCTIONS:
                raise InputError(f"its pickle has the instruction {instruction!r}, which torch.save does not write")
            INSTRUCTIONS[instruction](self)

    def _take(self, count: int) -> bytes:
        self.place += count
        if self.place > len(self.program):
            raise InputError("it is truncated")
        return self.program[self.place - count : self.place]

    def _line(self) -> str:
        end = self.program.index(b"\n", self.place)
        line = self.program[self.place : end]
        self.place = end + 1
        return line.decode()

    def _marked(self) -> list[Any]:
        """What lies above the last mark."""
        above, self.stack = self.stack, self.marked.pop()
        return above

    def _put(self, size: int) -> None:
        self.memo[int.from_bytes(self._take(size), "little")] = self.stack[-1]

    def _get(self, size: int) -> None:
        self.stack.append(self.memo[int.from_bytes(self._take(size), "little")])

    def _mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _tuple(self, count: int) -> None:
        parts = tuple(self.stack[len(self.stack) - count :])
        if len(parts) < count:
            raise InputError("its pickle takes more than there is")
        del self.stack[len(self.stack) - count :]
        self.stack.append(parts)

    def _tuple_of_marked(self) -> None:
        parts = tuple(self._marked())
        self.stack.append(parts)

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # A tuple of tuples of tuples may take forever to compare.
            if type(key) is tuple:
                plain = len(key) <= MAX_DIMENSIONS and all(isinstance(part, str | int | float | None) for part in key)
            else:
                plain = isinstance(key, str | int | float | Opaque | Global | None)
            if not plain:
                raise InputError("its pickle has a dict with keys that are not text or numbers")
            if isinstance(target, dict):
                target[key] = value

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _append(self, values: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target += values

    def _global(self) -> None:
        module, name = self._line(), self._line()
        whole = f"{module}.{name}"
        scalar = module == "torch" and isinstance(vars(torch).get(name), torch.dtype)
        storage = module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage")
        rebuild = module == "torch._utils" and name.startswith((*REBUILD, "_rebuild_parameter", *UNREADABLE))
        if not (scalar or storage or rebuild or whole in HARMLESS or whole in BUILT):
            raise RunsCode(printable(whole))
        self.stack.append(Global(whole))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise InputError("its pickle calls what is no function")
        name = function.name.rpartition(".")[2]
        if name in REBUILD:
            storage, offset, shape, strides = arguments[:4]
            return self._tensor(storage, offset, shape, strides, arguments[6] if name.endswith("v3") else None)
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return arguments[0]
        if name == "_rebuild_from_type_v2":
            inner, _, parts, _ = arguments
            if inner == function:
                raise InputError("its pickle nests a tensor within itself")
            return self._call(inner, parts)
        if name == "OrderedDict":
            return self._ordered(arguments[0] if arguments else [])
        if name == "Size":
            return arguments[0]
        if name.startswith(UNREADABLE):
            return Opaque(f"tensor by {name}")
        return Opaque(function.name)

    def _ordered(self, pairs: Any) -> dict[Any, Any]:
        if type(pairs) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            raise InputError("its pickle has a dict of no pairs")
        self.steps -= len(pairs)
        self.stack.append({})
        self._set([part for pair in pairs for part in pair])
        return self.stack.pop()

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any) -> Any:
        if isinstance(storage, Opaque):
            return storage
        for numbers in (shape, strides):
            if type(numbers) is not tuple or len(numbers) > MAX_DIMENSIONS:
                raise InputError("its pickle has a tensor of an impossible shape")
            if not all(type(number) is int and 0 <= number < 2**62 for number in (*numbers, offset)):
                raise InputError("its pickle has a tensor of an impossible shape")
        if not isinstance(storage, Storage) or len(shape) != len(strides):
            raise InputError("its pickle has a tensor of an impossible shape")
        numbers = storage.numbers
        if dtype is not None:
            known = [kind for kind in STORAGES.values() if isinstance(dtype, Global) and str(kind) == dtype.name]
            if not known:
                return Opaque(f"tensor of {dtype.name}" if isinstance(dtype, Global) else "tensor of no type")
            numbers = numbers.view(known[0])
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        self.usable -= prod(shape) * numbers.element_size()
        if prod(shape) and last >= len(numbers):
            raise InputError("it has a tensor that reaches beyond its storage")
        if self.usable < 0:
            raise InputError("its tensors are larger than what is stored")
        return numbers.as_strided(shape, strides, offset) if prod(shape) else numbers.new_empty(shape)

    def _persistent(self) -> None:
        reference = self.stack.pop()
        if type(reference) is not tuple or len(reference) > 6:
            raise InputError("its pickle refers to what is no storage")
        kind, storage, key, _, count, *view = reference
        if kind != "storage" or not isinstance(storage, Global) or (view and view != [None]):
            raise InputError("its pickle refers to what is no storage")
        if type(count) is not int or not isinstance(key, str):
            raise InputError("its pickle has a storage of no such size")
        dtype = STORAGES.get(storage.name.rpartition(".")[2])
        if dtype is None:
            self.stack.append(Opaque(f"tensor of a {storage.name}"))
            return
        if key not in self.storages:
            self.left -= count * dtype.itemsize
            if count < 0 or self.left < 0:
                raise InputError("its storages are larger than the file")
            self.storages[key] = Storage(torch.empty(count, dtype=dtype))
        self.stack.append(self.storages[key])

    def _number(self, code: str) -> None:
        self.stack.append(struct.unpack(code, self._take(struct.calcsize(code)))[0])

    def _long(self) -> None:
        self.stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _text(self, code: str) -> None:
        (length,) = struct.unpack(code, self._take(struct.calcsize(code)))
        self.stack.append(self._take(length).decode("utf-8", "surrogatepass"))

    def _new(self) -> None:
        self.stack[-2:] = [Opaque("object")]

    def _top(self) -> Any:
        """The last value, taken from the stack."""
        return self.stack.pop()


def _push(make: Callable[[], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(make())


INSTRUCTIONS: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m._take(1),  # the protocol
    b"(": Machine._mark,
    b"0": Machine._top,
    b"1": Machine._marked,
    b")": _push(tuple),
    b"]": _push(list),
    b"}": _push(dict),
    b"\x8f": _push(lambda: Opaque("set")),
    b"N": _push(lambda: None),
    b"\x88": _push(lambda: True),
    b"\x89": _push(lambda: False),
    b"J": lambda m: m._number("<i"),
    b"K": lambda m: m._number("<B"),
    b"M": lambda m: m._number("<H"),
    b"G": lambda m: m._number(">d"),
    b"\x8a": Machine._long,
    b"X": lambda m: m._text("<I"),
    b"U": lambda m: m._text("<B"),
    b"q": lambda m: m._put(1),
    b"r": lambda m: m._put(4),
    b"h": lambda m: m._get(1),
    b"j": lambda m: m._get(4),
    b"t": Machine._tuple_of_marked,
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"a": lambda m: m._append([m._top()]),
    b"e": lambda m: m._append(m._marked()),
    b"s": Machine._set_one,
    b"u": lambda m: m._set(m._marked()),
    b"c": Machine._global,
    b"R": Machine._reduce,
    b"\x81": Machine._new,
    b"b": Machine._top,  # the state of an object, such as the versions of a state_dict's modules
    b"Q": Machine._persistent,
}
