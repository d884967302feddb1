"""Ctrl-C and termination: the first request ends the run in good order, the second at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, has saved its state and can go on. The text says how.

    run: that run, as `foveal.train` would have returned it.
    """

    run: Any = None


class StopRequests:
    """requested: whether somebody wants the run to stop at the next step.
    at_once: makes the exception that a request raises where it stands; None where the run has something to save first.
    """

    requested = False
    at_once: Callable[[], BaseException] | None = None

    def note(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self.at_once:
            raise self.at_once()


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Inside the block SIGINT and SIGTERM are requests; outside the main thread, where signals never go, nothing is."""
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.signal(number, requests.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
