"""Checkpoints and files of weights that were made to do harm: one line each, in little time and memory."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal import weights
from foveal.build import describe
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.weights.files import read
from tests.fuzzing import bounded

BOUND = 500 * 10**6  # bytes


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    """The one line that is raised, within the bounds."""
    with bounded(BOUND, 2.0), pytest.raises(InputError) as caught:
        function(*arguments, **named)
    error: BaseException | None = caught.value
    while error is not None:
        assert not isinstance(error, MemoryError)
        error = error.__cause__ or error.__context__
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


def saved(path: Path, system: Any, tensors: Any = None, **changes: Any) -> Path:
    state = system.state_dict() if tensors is None else tensors
    checkpoint.save(path, {**describe(system), **changes}, state)
    return path


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported the first time is not the files' doing."""
    for name in ("resnet_nano", "linear_softmax", "faster_rcnn_nano"):
        foveal.load(saved(tmp_path_factory.mktemp("warm") / "a.safetensors", foveal.create(name)))


HUGE = {
    "depths": [10**6],
    "width": 2**30,
    "stem": "9x9",
    "norm": ["batch"],
    "dropout": float("nan"),
    "zero_init_residual": 1,
    "weights": "/etc/passwd",
    "match": "order",
    "labels": ["a"],
    "image_size": 8,
    "__class__": 1,
    "groups": -1,
}


@pytest.mark.parametrize(("field", "value"), [*HUGE.items(), ("depths", [1] * 2000), ("depths", 3), ("width", 1e9)])
def test_a_setting(field: str, value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", foveal.create("resnet_nano"), variant={field: value})
    line = refusal(foveal.load, path)
    assert str(path) in line
    if field not in ("depths", "width", "groups"):
        assert field in line


DIGITS = [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "resnet_nano\x1b[2J"}, r"unknown system 'resnet_nano.+x1b\[2J'; did you mean resnet_nano"),
        ({"name": ["resnet_nano"]}, "name has to be"),
        ({"labels": list(range(10))}, r"labels\[0\] has to be text"),
        ({"labels": ["a\0", *DIGITS[1:]]}, r"labels\[0\] has a control character: a\\x00"),
        ({"labels": ["1", *DIGITS[1:]]}, r"labels\[1\]: class names must be unique"),
        ({"labels": [str(number) for number in range(100_000)]}, "of another shape"),
        ({"labels": [str(number) for number in range(200_000)]}, "there may be 131,072 at most"),
        ({"licence": {"a": 1}}, "licence has to be"),
        ({"class_ids": {"a": "b"}}, "class_ids.a has to be a whole number"),
        ({"variant": []}, "variant has to be an object"),
    ],
)
def test_a_key_of_the_header(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", foveal.create("resnet_nano"), **changes)
    line = refusal(foveal.load, path)
    assert line.startswith(str(path))
    with pytest.raises(InputError, match=text):
        raise InputError(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("size", value) for value in ([10**6, 10**6], [0, 3], [-1, 3], [3], 3, "33", [2.5, 3])],
        *[("mean", value) for value in ([float("nan")] * 3, [float("inf")] * 3, [0.5] * 2, 0.5)],
        *[("std", value) for value in ([0, 0, 0], [-1, 1, 1], [1e-300] * 3, ["a"] * 3)],
        *[("crop", value) for value in (0, 1e-300, float("inf"), True)],
        *[("resize", "none"), ("interpolation", ["bilinear"]), ("grey", 1), ("more", 1)],
    ],
)
def test_preprocessing(field: str, value: Any, tmp_path: Path) -> None:
    system = foveal.create("resnet_nano")
    preprocess = {**describe(system)["preprocess"], field: value}
    line = refusal(foveal.load, saved(tmp_path / "a.safetensors", system, preprocess=preprocess))
    assert "preprocess" in line
    assert field in line


@pytest.mark.parametrize(
    ("name", "field", "several"),
    [("knn", "features", False), ("ensemble", "members", True), ("faster_rcnn_nano", "backbone", False)],
)
def test_a_header_opens_no_file(name: str, field: str, several: bool, tmp_path: Path) -> None:
    system = foveal.create(name, **({"members": (foveal.create("lenet"),)} if several else {}))
    os.mkfifo(tmp_path / "pipe")  # opening it would hang
    for text in (str(tmp_path / "pipe"), "/dev/zero", "https://example.com/a", "package", "lenet", "os.system"):
        if (name, text) != ("faster_rcnn_nano", "lenet"):
            value = [text] if several else text
            path = saved(tmp_path / "a.safetensors", system, variant={field: value})
            assert f"variant.{field}" in refusal(foveal.load, path)


def test_systems_within_systems_have_an_end(tmp_path: Path) -> None:
    inner = describe(foveal.create("lenet"))
    deep = {"members": [inner]}
    for _ in range(8):
        deep = {"members": [{**inner, "name": "ensemble", "variant": deep}]}
    for variant in ({"members": [inner] * 300}, deep):
        path = saved(tmp_path / "a.safetensors", foveal.create("lenet"), name="ensemble", variant=variant)
        assert "more than 256 systems, or more than 8 levels" in refusal(foveal.load, path)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"format": ' + "9" * 5000 + "}", "[" + "[]," * 2**20, '"\\ud800"'])
def test_json(text: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"foveal": text})
    line = refusal(foveal.load, tmp_path / "a.safetensors")
    assert "header" in line or "more than 1,048,576 values" in line


def with_header(path: Path, header: Any, rest: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + rest)
    return path


@pytest.mark.parametrize("load", [foveal.load, read], ids=["checkpoint", "weights"])
def test_headers_of_safetensors(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for header, rest in (
        ({f"t{number}": {**one, "shape": [0], "data_offsets": [0, 0]} for number in range(150_000)}, b""),
        ({"a": {**one, "dtype": "F8_E4M3", "data_offsets": [0, 1]}}, b"0"),
        ({"a": {**one, "dtype": "C64", "data_offsets": [0, 8]}}, b"0" * 8),
        ({"a": {**one, "shape": [2**40], "data_offsets": [0, 2**42]}}, b"0"),
        ({"a": {**one, "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""),
        ({"a": {**one, "shape": [-1]}}, b"0000"),
        ({"a": one, "b": one}, b"0000"),
        ({"a": {**one, "data_offsets": [4, 8]}}, b"00000000"),
        ({"__metadata__": {"foveal": "a" * 2**24}, "a": one}, b"0000"),
    ):
        assert str(path) in refusal(load, with_header(path, header, rest))
    assert "truncated" in refusal(load, with_header(path, b"{}", length=2**63))


@pytest.mark.parametrize("load", [foveal.load, read], ids=["checkpoint", "weights"])
def test_only_regular_files_of_some_size(load: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.safetensors", tmp_path / "pipe.pth", Path("/dev/zero"), tmp_path):
        assert str(path) in refusal(load, path)
    for name in ("sparse.safetensors", "sparse.pth"):
        path = with_header(tmp_path / name, {"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}})
        os.truncate(path, path.stat().st_size + 2**40)
        network = foveal.create("lenet")
        assert str(path) in refusal(
            foveal.load if load is foveal.load else weights.load_weights,
            *((path,) if load is foveal.load else (network, path)),
        )


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    system = foveal.create("lenet")
    state = system.state_dict()
    name = next(iter(state))
    state[name] = torch.full_like(state[name], float("nan"))
    assert name in refusal(foveal.load, saved(tmp_path / "a.safetensors", system, state))


# --- Files by torch.save ---------------------------------------------------------------------------------------------


def archive(path: Path, program: bytes, kind: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("a/data.pkl", program)
        for name, content in parts.items():
            file.writestr(f"a/data/{name.removeprefix('_')}", content)
    return path


def tensor(size: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, key: str = "0") -> Any:
    """A tensor as torch.save writes it, with any numbers."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, OrderedDict())

    storage = Storage()
    storage.reference = ("storage", torch.FloatStorage, key, "cpu", size)  # type: ignore[attr-defined]
    return Tensor()


def program(content: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return getattr(value, "reference", None)

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue()


def test_a_file_made_here_is_read(tmp_path: Path) -> None:
    numbers = torch.arange(6.0)
    path = archive(tmp_path / "a.pth", program({"a": tensor(6, (3, 2), (1, 3))}), _0=numbers.numpy().tobytes())
    assert torch.equal(read(path).state["a"], numbers.view(2, 3).T)
    whole = program({"a": tensor(6, (6,), (1,))})
    packed = archive(tmp_path / "b.pth", whole, zipfile.ZIP_DEFLATED, _0=numbers.numpy().tobytes())
    assert torch.equal(read(packed).state["a"], numbers)


@pytest.mark.parametrize(
    ("size", "shape", "strides", "offset"),
    [
        (10**12, (4,), (1,), 0),  # more than the archive has
        (8, (8,), (1,), 0),
        (-1, (4,), (1,), 0),
        (4, (5,), (1,), 0),
        (4, (2, 2), (3, 1), 0),
        (4, (4,), (1,), 1),
        (4, (4,), (1,), -1),
        (4, (4,), (-1,), 3),
        (4, (10**9,), (0,), 0),  # one number, shown again and again
        (4, (2**40, 2**40), (0, 0), 0),
        (4, (1,) * 100, (1,) * 100, 0),
        (4, (4,), (1, 1), 0),
    ],
)
def test_tensors_that_reach_beyond(size: int, shape: Any, strides: Any, offset: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", program({"a": tensor(size, shape, strides, offset)}), _0=bytes(16))
    assert "no whole file of weights" in refusal(read, path)


def test_pickles(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    nested = b"\x80\x02}K\x00\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s."  # hashing it takes 2^60 steps
    deep = b"\x80\x02" + b"}" * 5000 + b"."
    for content in (
        nested,
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02" + b"N" * 2**21 + b".",
        b"\x80\x02]q\x00(" + b"h\x00" * 10**5 + b"e.",
        b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00atR.",
        b"\x80\x02cfoveal\ncreate\n)R.",
        deep,
        b"\x80\x02(((((.",
        b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
        b"\x80\x02Q.",
        b"",
    ):
        assert str(path) in refusal(read, archive(path, content)), content[:40]
        path.write_bytes(content)
        assert str(path) in refusal(read, path), content[:40]
    chain: Any = {}
    for _ in range(300):
        chain = {"model": chain}
    assert "holds no weights" in refusal(read, archive(path, program(chain)))


def test_archives(tmp_path: Path) -> None:
    path, content = tmp_path / "a.pth", program({"a": tensor(2**26, (2**26,), (1,))})
    assert "unpacks to" in refusal(read, archive(path, content, zipfile.ZIP_DEFLATED, _0=bytes(2**28)))
    assert "unpacks to" in refusal(read, archive(path, b"N" * 2**24, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as file:
        for number in range(50_000):
            file.writestr(f"archive of many parts/data/{number:060}", b"")
    assert "directory" in refusal(read, path)


def test_kinds_of_tensors_that_are_no_weights(tmp_path: Path) -> None:
    for value, kind in (
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
    ):
        torch.save({"net.weight": value, "net.bias": torch.ones(2)}, tmp_path / "a.pth")
        line = refusal(read, tmp_path / "a.pth")
        assert kind in line
        assert "net.weight" in line
