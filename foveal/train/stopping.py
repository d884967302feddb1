"""Ctrl-C, termination and a closed terminal: the first request ends the run in good order, a second Ctrl-C at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# SIGHUP comes when the terminal closes; Windows has none.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """The run was stopped, has saved its state and can go on. The text says how.

    run: that run, as `foveal.train` would have returned it.
    """

    run: Any = None


class StopRequests:
    """requested: whether the run is to stop at the next step.
    at_once: makes the exception that a request raises where it stands; None where the run has something to save first.
    number:  the signal that came first.
    """

    requested = False
    at_once: Callable[[], BaseException] | None = None
    number: int = signal.SIGINT

    def note(self, number: int, frame: Any) -> None:
        if self.requested:
            # A terminal that closes sends SIGHUP twice, and supervisors send SIGTERM more than once.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested, self.number = True, number
        if self.at_once:
            raise self.at_once()


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Inside the block SIGINT, SIGTERM and SIGHUP are requests, and a KeyboardInterrupt that leaves it carries what a
    shell reports of a process that the signal ends, 128 + its number, as `exit_code`.

    A signal that this process ignores, as SIGHUP under nohup, stays ignored; outside the main thread, where signals
    never go, nothing changes.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, requests.note) for number in heeded}
    try:
        yield requests
    except KeyboardInterrupt as stop:
        stop.exit_code = 128 + requests.number  # type: ignore[attr-defined]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
