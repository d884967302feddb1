"""Signals, closed terminals and readers that leave while a run trains: the run is saved, and its record is true."""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from foveal.train import checkpoint
from tests.cli.test_main import process

EPOCHS = 60
LONG = ("--epochs", str(EPOCHS), "--batch-size", "8", "--no-report", "--plan", "eager")


def status(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())["status"]


def epochs(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(run: Path, count: int, command: "subprocess.Popen[str]") -> None:
    """Until the run has so many epochs."""
    deadline = time.monotonic() + 120
    while epochs(run) < count:
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_processes_saves_the_run(
    sign: signal.Signals, code: int, shared_images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", "linear_softmax", "--data", str(shared_images), "--out", str(run), *LONG, "--workers", "1")
    command = process(*words, start_new_session=True)
    wait_for(run, 1, command)
    os.killpg(command.pid, sign)  # to its readers too, as a terminal does
    os.killpg(command.pid, sign)  # and twice
    _, err = command.communicate(timeout=60)
    assert command.returncode == code
    assert err.splitlines()[-1].startswith("foveal: stopped and saved; to go on, add --resume")
    assert "Traceback" not in err
    assert status(run) == "interrupted"
    done = epochs(run)
    assert 1 <= done < EPOCHS
    saved = checkpoint.read(run / "last.safetensors").header["state"]["progress"]
    assert saved["epoch"] == done


def terminal_run(run: Path, images: Path, prefix: tuple[str, ...] = ()) -> tuple["subprocess.Popen[str]", int]:
    """A run whose terminal is a pty of its own, and the other end of that, as soon as it has trained an epoch."""
    inside, outside = pty.openpty()
    words = ("train", "linear_softmax", "--data", str(images), "--out", str(run), *LONG, "--workers", "0")

    def lead() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(outside, termios.TIOCSCTTY, 0)
        if prefix:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = process(*words, stdin=outside, stdout=outside, stderr=outside, preexec_fn=lead)
    os.close(outside)
    os.set_blocking(inside, False)
    deadline = time.monotonic() + 120
    while epochs(run) < 1:
        assert time.monotonic() < deadline
        read(inside)
        time.sleep(0.02)
    return command, inside


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


def test_a_terminal_that_closes_stops_and_saves_the_run(shared_images: Path, tmp_path: Path) -> None:
    command, terminal = terminal_run(tmp_path / "run", shared_images)
    os.close(terminal)
    assert command.wait(timeout=60) == 129
    assert status(tmp_path / "run") == "interrupted"
    assert epochs(tmp_path / "run") < EPOCHS


def test_a_terminal_that_closes_leaves_a_run_under_nohup_alone(shared_images: Path, tmp_path: Path) -> None:
    command, terminal = terminal_run(tmp_path / "run", shared_images, ("nohup",))
    os.close(terminal)
    assert command.wait(timeout=120) == 0
    assert status(tmp_path / "run") == "finished"
    assert epochs(tmp_path / "run") == EPOCHS


def test_a_reader_that_leaves_after_a_line_leaves_the_run_alone(shared_images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", "linear_softmax", "--data", str(shared_images), "--out", str(run), *LONG, "--workers", "0")
    command = process(*words, stderr=subprocess.STDOUT)
    assert command.stdout is not None
    assert "parameters" in command.stdout.readline()
    command.stdout.close()
    assert command.wait(timeout=120) == 0
    assert status(run) == "finished"
    assert epochs(run) == EPOCHS
