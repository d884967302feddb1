"""Arbitrary bytes and odd values where checkpoints and files of weights are read: a result or an InputError of one
line, at once, in little memory."""

import copy
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import foveal
from foveal.train import checkpoint
from foveal.weights import files
from foveal.weights.pickled import INSTRUCTIONS
from tests.fuzzing import ODD, Make, damaged, fuzz, noise, one_of, survives, write

TEXT_BOUND = 2**26  # bytes


def headers(original: bytes) -> list[bytes]:
    """The file with its JSON header changed in one place, the length of the header with it."""
    length = struct.unpack("<Q", original[:8])[0]
    header, tensors = json.loads(original[8 : 8 + length]), original[8 + length :]
    own = json.loads(header["__metadata__"]["foveal"])
    changed = []
    for name in own:
        for value in (None, 3, -1.5, "x", [], {}, [None], {"a": 1}, 2**70):
            other = json.loads(json.dumps(header))
            other["__metadata__"]["foveal"] = json.dumps({**own, name: value})
            changed.append(other)
    for name in [key for key in header if key != "__metadata__"][:3]:
        for value in ({}, {"dtype": "F32"}, {**header[name], "dtype": "U64"}, {**header[name], "shape": [2**40]}):
            changed.append({**header, name: value})
    whole = []
    for other in changed:
        text = json.dumps(other).encode()
        whole.append(struct.pack("<Q", len(text)) + text + tensors)
    return whole


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    system = foveal.create("linear_softmax", labels=("a", "b"), image_size=4)
    checkpoint.save(path, checkpoint.describe(system), system.state_dict())
    assert foveal.load(path).labels == ("a", "b")
    return path.read_bytes()


def test_checkpoints(original: bytes, tmp_path: Path) -> None:
    path, results = tmp_path / "best.safetensors", []
    changed = headers(original)
    assert len(changed) > 60

    def load(data: bytes) -> None:
        write(path, data)
        results.append(survives(lambda: foveal.load(path), TEXT_BOUND))

    for data in changed:
        load(data)
    assert results.count(True) < 30  # such as another licence

    fuzz(18_000, one_of(damaged([original]), damaged(changed), noise(80)), load)
    assert 0.01 < np.mean(results) < 0.9


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a JSON document stands; of a list the first one."""
    yield path
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*path, key))


def at(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value in one place."""
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = at(document[path[0]], path[1:], value)
    return changed


def made_of() -> dict[str, Any]:
    members = (foveal.create("linear_softmax"), foveal.create("lenet"))
    return {
        "classifier": foveal.create("resnet_nano", depths=(1, 1), dropout=0.1, norm="group"),
        "ensemble": foveal.create("ensemble", members=members, rounds=3),
        "detector": foveal.create("retinanet_nano", backbone="resnet10_nano", depth=1),
        "generator": foveal.create("ddpm_nano", timesteps=20, multiples=(1, 2), attention=(1,)),
    }


@pytest.mark.parametrize("kind", ["classifier", "ensemble", "detector", "generator"])
def test_each_key_of_a_header(kind: str, tmp_path: Path) -> None:
    system = made_of()[kind]
    header, path = checkpoint.describe(system), tmp_path / "best.safetensors"
    checkpoint.save(path, header, system.state_dict())
    assert foveal.load(path).name == system.name
    everything, results = list(places(header)), []

    values = [*ODD, 10**6, 2**20, 2**31, -1.5, [3] * 2000, "/dev/zero"]
    whole = {"format": checkpoint.FORMAT, "foveal": foveal.__version__}
    tensors = {name: tensor.clone() for name, tensor in system.state_dict().items()}

    def load(changed: Any) -> None:
        text = json.dumps(whole | (changed if isinstance(changed, dict) else {}))
        write(path, save(tensors, {"foveal": text}))
        results.append(survives(lambda: foveal.load(path), 500 * 10**6))

    fuzz(120, lambda draw: at(header, draw.choice(everything), draw.choice(values)), load)
    assert np.mean(results) < 0.5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# --- Files of weights ------------------------------------------------------------------------------------------------


def saved(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def of_torch() -> list[bytes]:
    """A file of each layout and of the stranger contents."""
    weights = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.nn.Parameter(torch.zeros(2))}
    tied = {"a": weights["layer.bias"], "b": weights["layer.bias"], "c": torch.zeros(4, dtype=torch.bfloat16)[1:3]}
    module = torch.nn.Linear(3, 2).state_dict()  # an OrderedDict, with the versions of its modules
    whole = {"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1, 2: [None, True, (1, 2)]}, "classes": {"cat"}}
    return [saved(whole), saved(tied), saved(module), saved(module, zipped=False), saved(tied, zipped=False)]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_of_weights(suffix: str, tmp_path: Path) -> None:
    originals = of_torch() if suffix == ".pt" else [save({"layer.weight": torch.zeros(2, 3)})]
    read_weights(tmp_path / f"weights{suffix}", originals, one_of(damaged(originals), noise(80)), 4_000)


def test_programs_of_pickles(tmp_path: Path) -> None:
    """The instructions of a pickle and the parts of its archive, changed one by one, in files that are whole."""
    originals = of_torch()
    programs = [program for data in originals for program in pickles(data)[0]]
    known = sorted({instruction for program in programs for instruction in program})
    assert {instruction[:1] for instruction in known} <= INSTRUCTIONS.keys() | {b"."}

    def change(draw: Random) -> bytes:
        data = draw.choice(originals)
        changed, rest = pickles(data)
        for _ in range(draw.randint(1, 3)):
            reprogram(draw.choice(changed), known, draw)
        joined = b"".join(instruction for program in changed for instruction in program)
        return joined + rest if not data.startswith(b"PK") else rearranged(data, joined, draw)

    read_weights(tmp_path / "weights.pt", originals, change, 5_000)


def pickles(data: bytes) -> tuple[list[list[bytes]], bytes]:
    """The instructions of each pickle in a file of either layout, and what follows them."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    programs = []
    while data.startswith(b"\x80"):
        places = [place for _, _, place in pickletools.genops(data)]
        programs.append([data[a:b] for a, b in zip(places, [*places[1:], places[-1] + 1], strict=True)])
        data = data[places[-1] + 1 :]
    return programs, data


def number(value: int) -> bytes:
    """An instruction that pushes a whole number."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


NUMBERS = [number(value) for value in (-1, 0, 1, 3, 255, 2**31, 2**40, 2**62, 2**64, 2**1000)]
STRANGE = [
    *NUMBERS,
    *(bytes([code]) for code in b"NQRtueas012b()]}.\x81\x85\x86\x87\x88\x89\x8f"),
    *(b"G" + struct.pack(">d", value) for value in (0.5, float("nan"), float("inf"))),
    *(b"X" + struct.pack("<I", length) + b"cpu" for length in (0, 3, 2**31)),
    *(b"h\0", b"h\1", b"h\xff", b"j\xff\xff\xff\xff", b"q\0", b"r\xff\xff\xff\xff"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"c\n\n", b"ctorch\n", b"ctorch\nfloat64\n", b"ctorch\nload\n"),
    *(b"ctorch._utils\n" + name + b"\n" for name in (b"_rebuild_tensor", b"_rebuild_tensor_v3", b"_rebuild_qtensor")),
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nSize\n"),
    *(b"ctorch\nComplexDoubleStorage\n", b"ctorch\nQInt8Storage\n", b"ccollections\nOrderedDict\n"),
]


def reprogram(program: list[bytes], known: list[bytes], draw: Random) -> None:
    """Remove, repeat, exchange or replace an instruction; or put others before it, up to very many."""
    place = draw.randrange(len(program))
    new = draw.choice(STRANGE if draw.randrange(2) else known)
    numbers = [place for place, old in enumerate(program) if old[:1] in b"JKM\x8a"]
    match draw.randrange(7):
        case 0:
            del program[place]
            program += [] if program else [b"."]
        case 1:
            program[place:place] = [program[place]] * draw.choice((1, 2, 50, 5000))
        case 2:
            other = draw.randrange(len(program))
            program[place], program[other] = program[other], program[place]
        case 3:
            program[place:place] = [new] * draw.choice((1, 2, 50, 5000))
        case 4 if numbers:
            program[draw.choice(numbers)] = draw.choice(NUMBERS)
        case 5:
            start = draw.randrange(len(program))
            program[place:place] = program[start : start + draw.randint(1, 20)]
        case _:
            program[place] = new


def rearranged(data: bytes, program: bytes, draw: Random) -> bytes:
    """The archive with this program; sometimes a part of it is missing, cut off, there twice, packed or renamed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        chosen, kind = draw.choice(old.namelist()), draw.randrange(8)
        for name in old.namelist():
            content = program if name.endswith("data.pkl") else old.read(name)
            packing = zipfile.ZIP_STORED
            if name == chosen and kind < 6:
                if kind == 0:
                    continue
                content = content[: draw.randint(0, len(content))] if kind == 1 else content
                content = content + bytes(draw.choice((1, 2**10, 2**20))) if kind == 2 else content
                content = b"big" if kind == 3 and name.endswith("byteorder") else content
                packing = (
                    draw.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)) if kind == 4 else packing
                )
                name = draw.choice(("data.pkl", f"{name}/", f"../{name}", "\u732b", name)) if kind == 5 else name
            new.writestr(zipfile.ZipInfo(name), content, packing)
    return file.getvalue()


def read_weights(path: Path, originals: list[bytes], inputs: Make, count: int) -> None:
    """Read each of the inputs, and give the tensors to a system where there are any."""
    results = []
    for data in originals:
        write(path, data)
        assert survives(lambda: files.read(path), TEXT_BOUND)

    def read(data: bytes) -> None:
        write(path, data)
        results.append(survives(lambda: files.read(path), TEXT_BOUND))

    fuzz(count, inputs, read)
    assert 0.01 < np.mean(results) < 0.9
    assert [file.name for file in path.parent.iterdir()] == [path.name]
