"""Processes that read ahead: whatever happens to one of them, nothing waits for ever."""

import errno
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.data import readers
from foveal.data.readers import Readers
from foveal.errors import InputError


def slow(key: int) -> Tensor:
    time.sleep(0.005)
    return torch.full((3, 40, 50), key, dtype=torch.uint8)


def failure(pool: Readers, keys: Any) -> str:
    """What a pass ends with. Unlike pytest.raises this keeps no traceback, which would keep the processes."""
    try:
        list(pool.each(keys))
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was wrong")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    started: list[int] = []
    before = Readers._start

    def start(self: Readers) -> None:
        before(self)
        started.extend(process.pid for process in self.processes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Readers, "_start", start)
        yield
    gc.collect()  # of an error that was caught, whose traceback keeps them
    assert all(map(gone, started))


def test_answers_come_in_order_and_again() -> None:
    pool = Readers(slow, 3)
    for keys in (range(10), range(2), range(0), range(7)):
        assert [int(answer[0, 0, 0]) for answer in pool.each(keys)] == list(keys)


@pytest.mark.parametrize("seed", range(6))
def test_a_process_that_is_killed_at_any_moment_ends_the_pass(seed: int) -> None:
    draw = random.Random(seed)
    pool = Readers(slow, 2)
    passing = pool.each(range(10**6))
    next(passing)
    pid, started = draw.choice(pool.processes).pid, time.monotonic()
    assert pid is not None
    sign = draw.choice([signal.SIGKILL, signal.SIGUSR1, signal.SIGALRM])
    threading.Timer(draw.random() / 20, os.kill, (pid, sign)).start()
    with pytest.raises(InputError) as caught:
        for _ in passing:
            pass
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert f"process {pid}, which reads images, was killed by {sign.name}" in text
    assert "set workers or batch_size lower; a run goes on with --resume" in text
    assert ("memory runs out" in text) == (sign == signal.SIGKILL)
    assert [int(answer[0, 0, 0]) for answer in pool.each(range(5))] == list(range(5))  # with new processes


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_process_that_is_killed_between_two_passes(taken: int) -> None:
    pool = Readers(slow, 2)
    passing = pool.each(range(9))
    for _ in range(taken or 9):
        next(passing)
    os.kill(pool.processes[1].pid or 0, signal.SIGKILL)
    time.sleep(0.05)
    assert "was killed by SIGKILL" in failure(pool, range(9))


def ends(key: int) -> None:
    os._exit(7)


def fails(key: int) -> None:
    raise ZeroDivisionError("so it is")


def takes_too_much(key: int) -> None:
    raise MemoryError


def test_how_it_ended_is_in_the_line() -> None:
    assert "ended with exit code 7" in failure(Readers(ends, 2), range(3))
    assert "out of memory while reading images: set workers or batch_size lower" in failure(
        Readers(takes_too_much, 1), range(3)
    )
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError: so it is"):
        list(Readers(fails, 1).each(range(3)))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="of files in memory")
def test_a_full_memory_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: Any) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "pwrite", full)
    assert "no memory to pass images on: Cannot allocate memory; set workers" in failure(Readers(slow, 1), range(3))


def test_processes_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("multiprocessing.Process.start", refuses)
    assert "cannot start 2 processes that read images: " in failure(Readers(slow, 2), range(3))


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_stopped_process_is_reported_and_then_ends_the_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("POLL", 0.02), ("SLOW", 3), ("IDLE", 10)):
        monkeypatch.setattr(readers, name, value)
    pool = Readers(slow, 2)
    passing = pool.each(range(10**6))
    next(passing)
    pid = pool.processes[0].pid
    capsys.readouterr()  # the start may have been slow
    os.kill(pid or 0, signal.SIGSTOP)
    assert "has been stopped for 0 s" in failure(pool, range(10**6))
    assert (  # perhaps beside a line about the other one, where the machine is busy
        f"foveal: waiting for images for 0 s: process {pid}, which reads images, is stopped; "
        f"kill -CONT {pid} resumes it\n"
    ) in capsys.readouterr().err


def test_a_slow_process_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("POLL", 0.02), ("SLOW", 3), ("IDLE", 1000)):
        monkeypatch.setattr(readers, name, value)
    assert len(list(Readers(partial(wait, 0.4), 1).each(range(1)))) == 1
    assert "is busy: slow disk?" in capsys.readouterr().err


def wait(seconds: float, key: int) -> int:
    time.sleep(seconds)
    return key


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_process_that_waits_for_a_lock_for_ever_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POLL", 0.02), ("IDLE", 20)):
        monkeypatch.setattr(readers, name, value)
    assert "has done nothing for 0 s; a run goes on with --resume" in failure(Readers(locked, 2), range(4))


def locked(key: int) -> int:
    lock = threading.Lock()
    with lock:
        lock.acquire()
    return key


def test_a_process_that_computes_for_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POLL", 0.02), ("IDLE", 20)):
        monkeypatch.setattr(readers, name, value)
    assert list(Readers(computes, 1).each([1.0])) == [1.0]


def computes(seconds: float) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


@pytest.mark.parametrize("doing", ["time.sleep(1000)", "bytes(300000)"])
def test_processes_end_with_their_parent(doing: str) -> None:
    text = f"""
import sys, time
from foveal.data.readers import Readers
def fetch(key):
    return key if key == 0 else {doing}
pool = Readers(fetch, 2)
passing = pool.each(range(100))
next(passing)
print(*(process.pid for process in pool.processes), flush=True)
time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 10
    while not all(map(gone, pids)):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_an_exit_with_processes_at_work_ends_them() -> None:
    text = (
        "from foveal.data.readers import Readers; import time; p = Readers(time.sleep, 2); q = p.each([0] + 9 * [99])"
    )
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", f"{text}; next(q)"], timeout=60).returncode == 0
    assert time.monotonic() - started < 30  # for the imports


def test_an_older_pass_does_not_take_the_answers_of_a_newer_one() -> None:
    pool = Readers(slow, 2)
    older = pool.each(range(9))
    next(older)
    newer = pool.each(range(9))
    assert int(next(newer)[0, 0, 0]) == 0
    with pytest.raises(RuntimeError, match="another pass over the same readers has begun"):
        next(older)
    assert [int(answer[0, 0, 0]) for answer in newer] == list(range(1, 9))


# --- What goes from one to the other ---------------------------------------------------------------------------------

KINDS = {
    "channels last": torch.arange(120, dtype=torch.uint8).view(2, 4, 5, 3).permute(0, 3, 1, 2),
    "a part": torch.arange(100.0).view(10, 10)[2:5, 1::2],
    "one value many times": torch.tensor(3.0).expand(4, 5),
    "bool": torch.tensor([True, False]),
    "half": torch.rand(3, 4, 1).bfloat16(),
    "number": torch.tensor(7),
    "nothing": torch.zeros(0, 4),
}


def kinds(key: int) -> dict[str, Tensor]:
    return KINDS


@pytest.mark.parametrize("files", [True, False])
def test_tensors_arrive_as_they_are(files: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not files:
        monkeypatch.setattr(readers, "_send", partial(readers._send, in_file=False))
    (found,) = Readers(kinds, 1).each([0])
    assert found.keys() == KINDS.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (KINDS[name].dtype, KINDS[name].shape)
        assert torch.equal(tensor, KINDS[name])
        tensor.zero_()  # nobody else's
    assert found["channels last"].stride() == KINDS["channels last"].stride()


@pytest.mark.skipif(not os.path.isdir("/proc/self/maps".rpartition("/")[0]), reason="by /proc")
def test_batches_lie_in_no_directory() -> None:
    """Containers make /dev/shm as small as they like."""
    kept = list(Readers(slow, 1).each(range(3)))
    names = {line.split(maxsplit=5)[-1].strip() for line in open("/proc/self/maps") if "foveal" in line}  # noqa: SIM115
    assert len(kept) == 3
    assert any(name.startswith("/memfd:foveal") for name in names)
    assert not any("/dev/shm/torch" in line for line in open("/proc/self/maps"))  # noqa: SIM115


def test_descriptors_are_given_back() -> None:
    pool = Readers(slow, 1)
    list(pool.each(range(3)))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    kept = list(pool.each(range(40)))
    assert len(kept) == 40
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 1
    assert pickle.loads(pickle.dumps(kept[3]))[0, 0, 0] == 3
