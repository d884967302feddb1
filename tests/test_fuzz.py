"""Arbitrary bytes where files are read: a result or an InputError of one line, at once, in little memory.

50,000 inputs in all, the same in each run; `make fuzz` has 1,000,000, others each time. Memory is bounded by the
operating system's limit on the address space of this process, so that an allocation beyond the bound fails, and an
InputError that stands for such a failure is no pass.
"""

import copy
import io
import itertools
import json
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import foveal
from foveal.data import image
from foveal.data.sources import load_dataset, survey
from foveal.errors import InputError
from foveal.train import checkpoint
from foveal.weights import files
from tests.data.annotated import coco, voc

TIMES = int(os.environ.get("FOVEAL_FUZZ", "1"))  # 20 in `make fuzz`
PATIENCE = 5.0  # seconds of processor time for one input
MAX_PIXELS = 2**20  # lowered from 2**27, so that what an image may take is small beside what tests take anyhow
IMAGE_BOUND = 16 * MAX_PIXELS + 2**26  # bytes: pixels in a few forms, and what allocators and decoders keep
TEXT_BOUND = 2**26


def fuzzed(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,  # PATIENCE instead, which also ends what never would
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded(more: int, seconds: float = PATIENCE) -> Iterator[None]:
    """Within the block no more than so many bytes can be had, and no more than so many seconds of processor time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


class Hangs(BaseException):
    """Not to be caught by what is tested."""


def hangs(number: int, frame: Any) -> None:
    raise Hangs


def survives(function: Callable[[], Any], bound: int, seconds: float = PATIENCE) -> bool:
    """Whether there was a result; else there was an InputError of one line, and not for want of memory."""
    with bounded(bound, seconds):
        try:
            function()
        except InputError as error:
            caught: BaseException | None = error
        else:
            return True
    text = str(caught)
    while caught is not None:
        assert not isinstance(caught, MemoryError)
        caught = caught.__cause__ or caught.__context__
    assert text.strip()
    return False


def test_the_bounds_hold() -> None:
    with pytest.raises(MemoryError), bounded(2**24):
        bytearray(2**34)
    with pytest.raises(Hangs), bounded(2**24):
        next(number for number in itertools.count() if number < 0)
    with bounded(2**27):
        bytearray(2**26)


# --- Damage ----------------------------------------------------------------------------------------------------------

edits = st.lists(st.tuples(st.integers(0, 2**16 - 1), st.binary(min_size=1, max_size=2)), min_size=1, max_size=3)
LENGTHS = [*[None] * 4, 0, 1, 7, 20, 60, 200]


@st.composite
def damaged(draw: Any, originals: list[bytes]) -> bytes:
    """One of the originals with a few bytes written over, most often near its beginning, or its end missing."""
    data = bytearray(draw(st.sampled_from(originals)))
    near = draw(st.booleans())
    for place, new in draw(edits):
        start = place % (min(len(data), 64) if near else len(data))
        data[start : start + len(new)] = new
    return bytes(data[: draw(st.sampled_from(LENGTHS))])


def images() -> list[bytes]:
    """A small file of each format and of the stranger modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[image.ORIENTATION] = 6
    files = []
    for form, mode, options in (
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {}),
        ("GIF", "P", {"save_all": True, "append_images": [picture.convert("P")]}),
    ):
        file = io.BytesIO()
        converted = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        converted.save(file, form, **options)
        files.append(file.getvalue())
    return files


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", MAX_PIXELS)
    originals, results = images(), []
    for data in originals:
        assert survives(lambda data=data: image.read_image(data), IMAGE_BOUND)

    @fuzzed(10_000)
    @given(damaged(originals))
    def run(data: bytes) -> None:
        results.append(survives(lambda: image.read_image(data), IMAGE_BOUND))

    run()
    assert 0.1 < np.mean(results) < 0.9  # neither all refused at the door nor all harmless


def test_an_image_that_claims_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", MAX_PIXELS)
    bomb = bytearray(next(data for data in images() if data.startswith(b"BM")))
    bomb[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert not survives(lambda: image.read_image(bytes(bomb)), IMAGE_BOUND)


# --- CSV files -------------------------------------------------------------------------------------------------------

WORDS = ["path", "label", "split", "0.png", "1.png", "./0.png", "gone.png", "cat", "dog", "train", "val", "test", "x"]
SIGNS = [
    ",",
    ",",
    ",",
    "\n",
    "\n",
    "\r\n",
    "\r",
    '"',
    '""',
    "'",
    ";",
    "\t",
    " ",
    "\0",
    "\ufeff",
    "猫",
    "é",
    "\\",
    "..",
    "/",
]
tokens = st.lists(st.sampled_from(WORDS + SIGNS), max_size=40).map("".join)
rows = st.lists(st.tuples(st.sampled_from(WORDS[3:7]), st.sampled_from(WORDS[7:])), max_size=12).map(
    lambda pairs: "path,label\n" + "".join(f"{path},{label}\n" for path, label in pairs)
)


@st.composite
def spliced(draw: Any) -> str:
    """A table with something else in its midst."""
    table, other = draw(rows), draw(tokens)
    place = draw(st.integers(0, len(table)))
    return table[:place] + other + table[place:]


def test_csv_files(tmp_path: Path) -> None:
    for number in range(2):
        image.write_image(tmp_path / f"{number}.png", torch.full((3, 2, 2), number, dtype=torch.uint8))
    path, results = tmp_path / "data.csv", []
    texts = st.one_of(rows, spliced(), tokens, st.text(max_size=60)).map(lambda text: text.encode("utf-8", "replace"))

    @fuzzed(6_000)
    @given(st.one_of(texts, st.binary(max_size=60), damaged([b"path,label\n0.png,cat\n1.png,dog\n"])))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        results.append(survives(lambda: load_dataset(path), TEXT_BOUND))

    # Two images are too few to split in three: with a split of their own they do.
    path.write_text("path,label,split\n0.png,cat,train\n1.png,dog,test\n")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    run()
    assert not all(results)


# --- Annotations of objects ------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    2**70,
    1.5,
    1e308,
    float("nan"),
    "",
    "x",
    "0.jpg",
    "\ud800",
    "\0",
    [],
    [1],
    [[]],
    {},
]


@st.composite
def changed_json(draw: Any, original: Any) -> bytes:
    """A document with odd things in place of some of its values."""
    document = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
                place[key] = copy.deepcopy(draw(st.sampled_from(ODD)))  # what follows may change it
                break
            place = place[key]
    return json.dumps(document).encode()


def read_annotations(root: Path, file: Path, inputs: Any, count: int) -> None:
    """Load the folder with each of the inputs as that file, as it is used and as it is checked."""
    results = []

    def load() -> None:
        for target in load_dataset(root).targets or ():
            assert torch.isfinite(target.boxes).all()  # type: ignore[attr-defined]

    @fuzzed(count)
    @given(inputs)
    def run(data: bytes) -> None:
        file.write_bytes(data)
        results.append(survives(load, TEXT_BOUND))
        survives(lambda: survey(root), TEXT_BOUND)

    run()
    assert 0.01 < np.mean(results) < 0.9


def small_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        image.write_image(folder / f"{number}.jpg", torch.full((3, 6, 8), 90 * number, dtype=torch.uint8))


def test_coco_files(tmp_path: Path) -> None:
    small_images(tmp_path)
    shape = {"segmentation": [[1, 1, 5, 1, 5, 4]], "keypoints": [1, 2, 2], "area": 9.5}
    code = {"segmentation": {"size": [6, 8], "counts": [3, 4, 41]}, "iscrowd": 1}
    rows = {"0.jpg": [(2, 1, 1, 4, 3, shape), (7, 0, 0, 3, 3, code)], "1.jpg": [(2, 1, 2, 3, 3)]}
    document = coco({2: "cat", 7: "dog"}, rows, (8, 6))
    plain = json.dumps(document).encode()
    inputs = st.one_of(changed_json(document), changed_json(document), damaged([plain]), st.binary(max_size=60))
    (tmp_path / "val.json").write_bytes(plain)
    assert len(load_dataset(tmp_path)) == 2
    read_annotations(tmp_path, tmp_path / "val.json", inputs, 1_000)


def test_voc_files(tmp_path: Path) -> None:
    small_images(tmp_path / "val")
    for number in range(2):
        voc(tmp_path / "val" / f"{number}.xml", [("cat", 1, 1, 4, 4), ("dog", 2, 2, 8, 6, True)], (8, 6))
    file = tmp_path / "val" / "0.xml"
    plain = file.read_bytes()
    words = [b"cat", b"dog", b"<ymax>4", b"<xmin>2", b"width", b"<height>6", b"object", b"</bndbox>", b"difficult>1"]
    odd = [b"", b"nan", b"<ymax>1e999", b"<xmin>-3", b"<xmin>99", b"<a/>", b"<height>0", b"bndbox", b"&lt;", b"&x;"]
    swapped = st.tuples(st.sampled_from(words), st.sampled_from(odd)).map(lambda pair: plain.replace(*pair))
    read_annotations(tmp_path, file, st.one_of(swapped, damaged([plain]), st.binary(max_size=60)), 1_000)


YAML = [
    "names",
    ":",
    ":",
    " ",
    " ",
    "\n",
    "\n",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "0",
    "1",
    "cat",
    "#",
    "&",
    "val",
    ".",
]


def test_yolo_files(tmp_path: Path) -> None:
    small_images(tmp_path / "images" / "val")
    labels, names = tmp_path / "labels" / "val" / "0.txt", tmp_path / "data.yaml"
    labels.parent.mkdir(parents=True)
    labels.write_text("")
    whole = [b"val: images/val\nnames:\n  0: 'cat'\n  1: dog\n", b'nc: 2\nnames: [cat, "dog"] # two\n']
    lines = st.lists(st.sampled_from(YAML), max_size=20).map(lambda words: "names" + "".join(words))
    read_annotations(tmp_path, names, st.one_of(damaged(whole), lines.map(str.encode), st.binary(max_size=40)), 1_000)
    names.write_bytes(whole[0])
    objects = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.5 0.1 0.5 0.9\n"
    words = st.lists(st.sampled_from([*"01.- \n\n", " ", "nan", "1e400", "0.5 ", "-1 "]), max_size=30)
    inputs = st.one_of(damaged([objects]), words.map("".join).map(str.encode), st.binary(max_size=40))
    read_annotations(tmp_path, labels, inputs, 1_000)


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def headers(original: bytes) -> list[bytes]:
    """The file with its JSON header changed in one place, its length told rightly."""
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
        path.write_bytes(data)
        results.append(survives(lambda: foveal.load(path), TEXT_BOUND))

    for data in changed:
        load(data)
    assert results.count(True) < 30  # such as another licence

    @fuzzed(20_000)
    @given(st.one_of(damaged([original]), damaged(changed), st.binary(max_size=80)))
    def run(data: bytes) -> None:
        load(data)

    run()
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

    @fuzzed(120)
    @given(st.sampled_from(everything), st.sampled_from([*ODD, 10**6, 2**20, 2**31, -1.5, [3] * 2000, "/dev/zero"]))
    def run(place: tuple[Any, ...], value: Any) -> None:
        changed = at(header, place, value)
        checkpoint.save(path, changed if isinstance(changed, dict) else {}, system.state_dict())
        results.append(survives(lambda: foveal.load(path), 500 * 10**6, 2.0))

    run()
    assert np.mean(results) < 0.5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_files_of_weights(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2)}, "epoch": 3}, file)
    old = io.BytesIO()
    torch.save({"layer.weight": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    kinds = {".pt": [file.getvalue(), old.getvalue()], ".safetensors": [save({"layer.weight": torch.zeros(2, 3)})]}
    for suffix, originals in kinds.items():
        read_weights(tmp_path / f"weights{suffix}", originals)


def read_weights(path: Path, originals: list[bytes]) -> None:
    results = []

    @fuzzed(5_000)
    @given(st.one_of(damaged(originals), st.binary(max_size=80)))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        results.append(survives(lambda: files.read(path), TEXT_BOUND))

    run()
    assert 0.01 < np.mean(results) < 0.9
