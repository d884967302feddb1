"""The live line of a terminal and the plain lines elsewhere."""

import contextlib
import io
import os
import pty
import sys
import threading
import time

import pytest

from foveal import progress
from foveal.progress import SILENT, Bar, fitted


class Terminal(io.StringIO):
    """A stream that remembers what was written, and calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "DELAY", 0.01)
    monkeypatch.setattr(progress, "REDRAW", 0.01)
    return Terminal()


def until(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)


def on(stream: io.StringIO) -> contextlib.AbstractContextManager[object]:
    return contextlib.redirect_stderr(stream)


def test_a_terminal_shows_one_line_which_goes_in_the_end(terminal: Terminal) -> None:
    with on(terminal), Bar("loading") as bar:
        until(terminal, "loading  0.")
        bar.stage("predicting", 8)
        bar.advance(2)
        until(terminal, "25%")
        until(terminal, "2 of 8")
    shown = terminal.getvalue()
    assert "\n" not in shown
    assert shown.endswith(progress.ERASE)


def test_the_line_moves_while_one_step_runs(terminal: Terminal) -> None:
    with on(terminal), Bar("thinking"):
        until(terminal, "thinking  0.1 s so far")


def test_messages_stand_above_the_line(terminal: Terminal) -> None:
    with on(terminal), Bar("predicting", 3) as bar:
        until(terminal, "predicting")
        sys.stderr.write("a note")
        sys.stderr.write("\n")
        bar.say("another\x1b[31m")
    lines = terminal.getvalue().split("\n")
    assert [line.rpartition(progress.ERASE)[2] for line in lines[:2]] == ["a note", "another\\x1b[31m"]


def test_a_line_that_is_not_yet_whole_is_not_erased(terminal: Terminal) -> None:
    with on(terminal), Bar("predicting", 3):
        until(terminal, "predicting")
        sys.stderr.write("half")
        time.sleep(0.1)
        sys.stderr.write(" whole\n")
    assert "half whole\n" in terminal.getvalue()


def test_short_work_shows_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 60)
    with on(terminal), Bar("predicting", 3) as bar:
        assert list(bar.track("abc", "predicting", 3)) == list("abc")
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_elsewhere_plain_lines_now_and_then(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar("predicting", 4, quiet=quiet, every=0.02) as bar:
        bar.advance()
        if quiet:
            time.sleep(0.2)
        else:
            until(stream, "25%")
    lines = stream.getvalue().splitlines()
    assert lines == [] if quiet else "predicting" in lines[0]
    assert "\x1b" not in stream.getvalue()
    with Bar("predicting", 4):  # half a minute has not passed
        pass
    assert stream.getvalue().splitlines() == lines


def test_a_reader_that_leaves_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Bar("predicting", 4, every=0.01) as bar:
            bar.say("gone")
            time.sleep(0.1)
        monkeypatch.undo()
        with pytest.raises(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_without_a_stream_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Bar("predicting", 4) as bar:
        bar.say("nothing")
    assert bar.quiet


def test_a_line_fits_its_terminal() -> None:
    parts = ["epoch 1/30 ━━━", "3.0 s left", "loss 0.5", "x" * 60, "y"]
    assert fitted(parts, 80) == "epoch 1/30 ━━━  3.0 s left  loss 0.5"
    assert fitted(["名" * 60], 80) == "名" * 39 + " "
    for columns in (1, 2, 20, 40, 80, 300):
        assert len(fitted(parts, columns)) < max(columns, 1) + (columns == 1)


def test_a_pty_of_eighty_columns_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while chunk := os.read(inside, 4096):
            shown.append(chunk)
            if b"end" in chunk:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(outside, "w") as stream:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(progress, "DELAY", 0.01)
        monkeypatch.setattr(sys, "stderr", stream)
        with Bar("reading " + "a long name " * 20, 1000) as bar:
            bar.advance(10)
            time.sleep(0.1)
        monkeypatch.undo()
        stream.write("end")
        stream.flush()
        reader.join(20)
    os.close(inside)
    lines = b"".join(shown).decode().split(progress.ERASE)
    assert max(map(len, lines)) == 79


def test_silence_takes_the_same_calls() -> None:
    SILENT.stage("predicting", 3)
    SILENT.advance(2)
    SILENT.reach(3)
    assert list(SILENT.track([1, 2], "predicting")) == [1, 2]
