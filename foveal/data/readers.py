"""Processes that read ahead. However one of them ends, or if it never answers, the process that waits for it goes on.

torch's DataLoader passes batches through /dev/shm, which containers often make too small, and through queues whose
locks a killed process never gives back. Here each process has a pipe of its own for messages of a few bytes, and a
batch lies in an anonymous file in memory, whose descriptor goes through that pipe. Where the system has no such files
the batch itself goes through it.
"""

import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from multiprocessing import reduction, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from foveal.errors import InputError

AHEAD = 2  # answers that each process prepares while others are used
POLL = 1.0  # seconds between two looks at a process that does not answer
SLOW = 60  # looks after which a line says what the run waits for
IDLE = 300  # looks at a process that does nothing after which the run ends
BUSY = 0.01  # share of the time since the wait began: a process that has computed for less does nothing
ALIGN = 64  # bytes
ADVICE = "a run goes on with --resume"


@dataclass(frozen=True)
class Failure:
    """What went wrong in a process, in place of an answer. expected: the text is one line for the user."""

    text: str
    expected: bool


class Readers:
    """`count` processes that each compute `fetch(key)`; they start with the first key and end with this object."""

    def __init__(self, fetch: Callable[[Any], Any], count: int) -> None:
        self.fetch, self.count = fetch, count
        self.processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._asked, self._turn = 0, 0

    def each(self, keys: Iterable[Any]) -> Iterator[Any]:
        """fetch(key) for each key, in order. A later call ends the earlier one's turn.

        Raises InputError where a process died, cannot be started, or has been stopped for long."""
        self._turn += 1
        turn, rest, open_requests = self._turn, iter(keys), deque[int]()
        with self._ended_by_failure():
            if not self.processes:
                self._start()
            for _ in range(AHEAD * self.count):
                self._ask(rest, open_requests)
        while open_requests:
            if turn != self._turn:
                raise RuntimeError("another pass over the same readers has begun")
            with self._ended_by_failure():
                answer = self._take(open_requests.popleft())
                self._ask(rest, open_requests)
            yield answer

    @contextmanager
    def _ended_by_failure(self) -> Iterator[None]:
        """What fails or is interrupted halfway leaves no process behind; another pass begins with new ones."""
        try:
            yield
        except BaseException:
            _end(self.processes, self._pipes)
            raise

    def _start(self) -> None:
        # A finalizer of multiprocessing runs before the interpreter waits for processes that ignore SIGTERM.
        util.Finalize(self, _end, (self.processes, self._pipes), exitpriority=10)
        try:
            for _ in range(self.count):
                here, there = multiprocessing.Pipe()
                self._pipes.append(here)
                words = (there, self.fetch, os.getpid())
                process = multiprocessing.Process(target=_serve, args=words, daemon=True)
                process.start()
                self.processes.append(process)
                there.close()
        except OSError as error:
            raise InputError(
                f"cannot start {self.count} processes that read images: {error.strerror}; set workers lower, or to 0"
            ) from None

    def _ask(self, keys: Iterator[Any], open_requests: deque[int]) -> None:
        for key in islice(keys, 1):
            number = self._asked
            try:
                self._pipes[number % self.count].send((number, key))
            except OSError:
                self._lost(self.processes[number % self.count])
            open_requests.append(number)
            self._asked += 1

    def _take(self, number: int) -> Any:
        """The answer to a request; what a pass that was left early has not taken is dropped."""
        process, pipe = self.processes[number % self.count], self._pipes[number % self.count]
        while True:
            self._wait(process, pipe)
            try:
                answered, answer = _receive(pipe)
            except (EOFError, OSError, RuntimeError):
                self._lost(process)
            if answered == number:
                break
        if isinstance(answer, Failure):
            raise (InputError if answer.expected else RuntimeError)(answer.text)
        return answer

    def _wait(self, process: BaseProcess, pipe: Connection) -> None:
        """Until the pipe has something to read. Raises InputError where any process has ended, or this one does nothing
        for long: it is stopped, or waits for a lock that nobody gives back."""
        looks = idle = 0
        begun = _activity(process)
        while pipe not in (ready := wait([pipe, *(one.sentinel for one in self.processes)], POLL)):
            for one in self.processes:
                if one.sentinel in ready:
                    self._lost(one)
            now = _activity(process)
            looks += 1
            rests = now.stopped or (now.sleeps and now.computed - begun.computed <= BUSY * POLL * looks)
            idle = idle + 1 if rests else 0
            name = f"process {process.pid}, which reads images,"
            if idle == IDLE:
                state = "been stopped" if now.stopped else "done nothing"
                raise InputError(f"{name} has {state} for {IDLE * POLL:.0f} s; {ADVICE}")
            if looks == SLOW:
                state = f"is stopped; kill -CONT {process.pid} resumes it" if now.stopped else "is busy: slow disk?"
                sys.stderr.write(f"foveal: waiting for images for {SLOW * POLL:.0f} s: {name} {state}\n")

    def _lost(self, process: BaseProcess) -> NoReturn:
        """InputError, with how a process ended."""
        process.join(5)
        code = process.exitcode
        said = "no longer answers" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
            said = f"was killed by {name}"
            said += ", as by the system where memory runs out" if name == "SIGKILL" else ""
        raise InputError(
            f"process {process.pid}, which reads images, {said}: set workers or batch_size lower; {ADVICE}"
        ) from None


def _end(processes: list[BaseProcess], pipes: list[Connection]) -> None:
    """End all processes at once: they hold nothing that has to be kept, and one that is stopped hears nothing else."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(5)
    for pipe in pipes:
        pipe.close()
    processes.clear()
    pipes.clear()


@dataclass(frozen=True)
class Activity:
    """What the system says of a process: whether it is suspended (as by SIGSTOP or a debugger), whether it sleeps (but
    not for a disk), and for how many seconds it has computed."""

    stopped: bool
    sleeps: bool
    computed: float


def _activity(process: BaseProcess) -> Activity:
    try:
        words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return Activity(words[0] in "tT", words[0] == "S", sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return Activity(False, False, 0.0)


# --- In the other process --------------------------------------------------------------------------------------------


def _serve(pipe: Connection, fetch: Callable[[Any], Any], parent: int) -> None:
    """Answer requests until the pipe closes or the parent has gone."""
    # Ctrl-C and the end of a terminal reach each of its processes, SIGTERM of torchrun every child: the parent decides.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            number, key = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = fetch(key)
        except MemoryError:
            answer = Failure("out of memory while reading images: set workers or batch_size lower", True)
        except Exception:
            answer = Failure(f"a process that reads images failed:\n{traceback.format_exc()}", False)
        _send(pipe, number, answer)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whatever it is doing. A pipe would not say so: siblings hold its end."""
    watched = multiprocessing.parent_process()
    while os.getppid() == parent and (watched is None or watched.is_alive()):
        time.sleep(POLL)
    os._exit(1)


# --- Between the two -------------------------------------------------------------------------------------------------


def _send(pipe: Connection, number: int, answer: Any, in_file: bool = hasattr(os, "memfd_create")) -> None:
    """An answer: its number and the sizes of its parts, then a file with the parts, or the parts themselves."""
    parts: list[pickle.PickleBuffer] = []
    whole = io.BytesIO()
    _Pickler(whole, pickle.HIGHEST_PROTOCOL, buffer_callback=parts.append).dump(answer)
    views = [memoryview(whole.getvalue()), *(part.raw() for part in parts)]
    try:
        file = _written(views) if in_file else None
    except OSError as error:
        text = f"no memory to pass images on: {error.strerror}; set workers or batch_size lower"
        return _send(pipe, number, Failure(text, True), in_file=False)
    with suppress(OSError):  # the parent has gone, and this process goes too
        pipe.send((number, [len(view) for view in views], in_file))
        if file is None:
            for view in views:
                pipe.send_bytes(view)
        else:
            reduction.send_handle(pipe, file, None)
            os.close(file)


def _written(views: list[memoryview]) -> int:
    """The descriptor of a file in memory with these parts, each at a multiple of ALIGN bytes. A full memory is an error
    here, where a mapped page would end the process."""
    file = os.memfd_create("foveal")
    try:
        place = 0
        for view in views:
            done = 0
            while done < len(view):
                done += os.pwrite(file, view[done:], place + done)
            place += _aligned(len(view))
        os.ftruncate(file, place)
    except OSError:
        os.close(file)
        raise
    return file


def _receive(pipe: Connection) -> tuple[int, Any]:
    """The next answer, with its number."""
    number, sizes, in_file = pipe.recv()
    if in_file:
        file = reduction.recv_handle(pipe)
        ends = [*accumulate(map(_aligned, sizes), initial=0)]
        try:  # not by mmap, which keeps a descriptor for each batch that somebody holds
            mapped = torch.from_file(f"/proc/self/fd/{file}", shared=True, size=ends[-1], dtype=torch.uint8)
        finally:
            os.close(file)
        row: Any = mapped.numpy()
        whole = memoryview(row)
        body, *parts = [whole[end : end + size] for end, size in zip(ends, sizes, strict=False)]
    else:
        body, *parts = [memoryview(bytearray(pipe.recv_bytes())) for _ in sizes]
    return number, pickle.loads(body, buffers=parts)  # written by a process that this one started


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class _Pickler(pickle.Pickler):
    """Tensors as their bytes in the order in which they lie; torch's own way puts each into /dev/shm."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        lying = value.detach().permute(order).contiguous()
        row: Any = lying.reshape(-1).view(torch.uint8).numpy()
        data = pickle.PickleBuffer(row)
        return _tensor, (data, value.dtype, tuple(lying.shape), tuple(order))


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    row = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
    return row.view(shape).permute([order.index(axis) for axis in range(len(order))])
