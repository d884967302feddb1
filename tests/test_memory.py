"""How much memory there is, and what does not fit it."""

import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal import memory
from foveal.cli import main
from foveal.cost import cost
from foveal.errors import InputError
from foveal.memory import answering_bytes, available, check_answering, check_room
from foveal.train.config import TrainConfig
from tests.toys import small_digits

CPU = torch.device("cpu")
MIB = 2**20


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files of the system, and 1000 MiB of memory besides 24 of swap."""
    found = {"proc/meminfo": "MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\nSwapFree: 24576 kB\n", **files}
    for name, text in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = {
    "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/abc\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": str(9223372036854771712),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(MIB),
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": str(300 * MIB),
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": str(120 * MIB),
    "sys/fs/cgroup/memory/docker/abc/memory.stat": f"inactive_file 7\ntotal_inactive_file {20 * MIB}\n",
}
V2 = {
    "proc/self/cgroup": "0::/user.slice/one\n",
    "sys/fs/cgroup/user.slice/memory.max": str(500 * MIB),
    "sys/fs/cgroup/user.slice/memory.current": str(100 * MIB),
    "sys/fs/cgroup/user.slice/memory.stat": f"inactive_file {10 * MIB}\n",
    "sys/fs/cgroup/user.slice/one/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/one/memory.current": str(100 * MIB),
}


@pytest.mark.parametrize(
    ("files", "mebibytes"),
    [
        ({}, 1024),
        (V1, 300 - 120 + 20),
        (V2, 500 - 100 + 10),  # that of the group above
        # A container that sees the host's path and has its own group at the top.
        (
            {
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/memory.max": str(64 * MIB),
                "sys/fs/cgroup/memory.current": str(60 * MIB),
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1", "sys/fs/cgroup/memory.current": "9"}, 0),
        ({"proc/meminfo": "no such thing\n"}, None),
    ],
)
def test_available_memory_is_the_least_of_all_limits(
    files: dict[str, str], mebibytes: int | None, tmp_path: Path
) -> None:
    found = available(CPU, machine(tmp_path, files))
    assert found == (None if mebibytes is None else mebibytes * MIB)


def test_this_machine_says_how_much_it_has() -> None:
    found = available(CPU)
    assert sys.platform != "linux" or (found is not None and found > 16 * MIB)


def test_an_address_space_is_a_limit() -> None:
    code = (
        "import resource, torch; from foveal.memory import available; "
        "used = 4096 * int(open('/proc/self/statm').read().split()[0]); "
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY)); "
        "print(available(torch.device('cpu')) / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 128 < float(done.stdout) <= 256
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_what_fits_is_the_largest_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    assert check_room({CPU: (100, 10)}, 69, "it", "take {}".format) == []
    (line,) = check_room({CPU: (100, 10)}, 90, "it", "take {}".format)
    assert line.startswith("memory is tight: it is estimated to take")
    with pytest.raises(InputError, match="take 90; --memory ignore"):
        check_room({CPU: (100, 10)}, 91, "it", "take {}".format)
    with pytest.raises(InputError, match="take 40; "):
        check_room({CPU: (100, 10)}, 91, "it", "take {}".format, 2)  # two processes share it
    with pytest.raises(InputError, match="not one image fits"):
        check_room({CPU: (995, 10)}, 2, "it", "take {}".format)
    monkeypatch.setattr(memory, "available", lambda device: None)
    assert check_room({CPU: (10**18, 10)}, 2, "it", "take {}".format) == []


@pytest.mark.parametrize("name", ["lenet", "retinanet_nano", "dcgan_nano"])
def test_a_run_that_does_not_fit_is_refused_before_it_begins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, **settings: Any) -> Any:
        torch.manual_seed(0)
        data = foveal.load_dataset("scenes") if name == "retinanet_nano" else small_digits()
        more = {} if name == "retinanet_nano" else {"image_size": 32}
        config = TrainConfig(out=str(tmp_path / out), epochs=1, report=False, quiet=True, **settings)
        return foveal.train(foveal.create(name, labels=data.labels, **more), data, config)

    have: list[float] = []
    monkeypatch.setattr(memory, "available", lambda device: have.append(1) or 2 * MIB)
    with pytest.raises(
        InputError, match=r"a step of 32 images is estimated to take .* and 2 MiB is available"
    ) as error:
        run("a", batch_size=32)
    assert have
    assert not (tmp_path / "a").exists()
    assert "--memory ignore" in str(error.value)


def test_the_batch_size_that_fits_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(out: str, **settings: Any) -> Any:
        torch.manual_seed(0)
        config = TrainConfig(out=str(tmp_path / out), epochs=1, report=False, quiet=True, **settings)
        return foveal.train(foveal.create("lenet"), small_digits(), config)

    monkeypatch.setattr(memory, "available", lambda device: 3 * MIB)
    with pytest.raises(InputError, match=r"set --batch-size (\d+) --accumulate \d+ for the same step") as error:
        run("a", batch_size=64)
    size = int(str(error.value).split("--batch-size ")[1].split()[0])
    assert 1 <= size < 64
    assert run("a", batch_size=size).record["status"] == "finished"
    with pytest.raises(InputError, match=r"set --batch-size"):
        run("b", batch_size=size + 1)
    assert run("b", batch_size=64, memory="ignore").record["status"] == "finished"


def test_a_tight_run_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = TrainConfig(out=str(tmp_path / "a"), epochs=1, report=False, batch_size=64)
    monkeypatch.setattr(memory, "TIGHT", 0.0)
    foveal.train(foveal.create("lenet"), small_digits(), config)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "memory is tight" in line]
    assert "a step of 64 images is estimated to take" in line


def test_the_estimate_of_a_forward_pass_by_hand() -> None:
    found = cost(foveal.create("linear_softmax"))
    sizes = [layer.activation_bytes for layer in found.layers]
    assert answering_bytes(found) == 2 * max(a + b for a, b in zip([0, *sizes], [*sizes, 0], strict=True))


def test_evaluation_and_prediction_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = tmp_path / "run"
    words = ["--data", "digits", "--epochs", "1", "--quiet", "--no-report", "--workers", "0", "--plan", "eager"]
    assert main(["train", "linear_softmax", *words, "--out", str(run)]) == 0
    system = foveal.load(run)
    each = answering_bytes(cost(system)) + 2 * 4 * 3 * math.prod(system.preprocess.size)
    monkeypatch.setattr(memory, "available", lambda device: 10 * each)
    assert check_answering(system, 8) == []
    assert main(["evaluate", str(run), "--data", "digits", "--workers", "0"]) == 2
    assert "set --batch-size 10; --memory ignore" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--data", "digits", "--workers", "0", "--batch-size", "10"]) == 0
    assert main(["evaluate", str(run), "--data", "digits", "--workers", "0", "--memory", "ignore"]) == 0
    photo = tmp_path / "photo.png"
    foveal.data.image.write_image(photo, torch.zeros(3, 8, 8).byte())
    assert main(["predict", str(run), str(photo)]) == 0
    monkeypatch.setattr(memory, "available", lambda device: each // 2)
    capsys.readouterr()
    assert main(["predict", str(run), str(photo)]) == 2
    assert "not one image fits" in capsys.readouterr().err
    assert main(["predict", str(run), str(photo), "--memory", "ignore"]) == 0
